"""LoRAs learned side by side are those that each would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stylecli.artifacts import images
from stylecli.backbone.model import Backbone
from stylecli.engine.training import draws
from stylecli.engine.training.encoded import Encoded, latent_sides
from stylecli.engine.training.lora import Course, Fitted, fit_together, style_pictures
from stylecli.errors import ImageError, ItemError, UsageError
from stylecli.recipe.schema import Lora
from tests import tiny
from tests.cli.conftest import draw
from tests.engine.training.test_lora import (
    SETTINGS,
    Watcher,
    assert_equal,
    settings,
    stop_at,
)
from tests.small import assert_same_state, folder, outputs, state

pytestmark = pytest.mark.slow

# Sums in another order, some steps of Adam later; relative to what was learned.
TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "EVAL_PAIRS", 2)


@pytest.fixture
def paintings(tmp_path: Path) -> list[Path]:
    """Two sizes; the third under words of its own."""
    found = [
        draw(tmp_path / f"{i}.png", seed=i, size=size)
        for i, size in enumerate([(40, 32), (40, 32), (32, 70), (40, 32)])
    ]
    found[2].with_suffix(".txt").write_text("a red cat")
    return found


def learn(
    backbone: Backbone,
    styles: Sequence[Path | Sequence[Path]],
    own: Lora = SETTINGS,
    reporter: Watcher | None = None,
    **given: Any,
) -> list[Fitted]:
    """As the engine does; a state is kept beside the first picture of each."""
    courses = []
    for style in styles:
        paths = [style] if isinstance(style, Path) else list(style)
        pictures = style_pictures(paths, "a picture in sss style")
        courses.append(Course(pictures, paths[0].with_suffix(".state")))
    fitted = fit_together(
        backbone,
        courses,
        own,
        seed=0,
        reporter=reporter or Watcher(),
        **{"rows": len(courses), **given},
    )
    for course in courses:
        course.state_file.unlink(missing_ok=True)
    return fitted


def apart(ours: Fitted, theirs: Fitted) -> float:
    """Distance of two LoRAs over what training has moved, the larger of A's and B's."""
    found = []
    for matrix in "AB":
        pair = [
            torch.cat([v.flatten() for k, v in one.tensors.items() if f"lora_{matrix}" in k])
            for one in (ours, theirs)
        ]
        found.append(float((pair[0] - pair[1]).norm() / pair[1].norm()))
    return max(found)


def test_each_is_what_it_would_be_alone(fresh: Backbone, paintings: list[Path]) -> None:
    weights, before = state(fresh.unet), outputs(fresh)
    together = learn(fresh, paintings, settings(steps=10))
    assert_same_state(fresh.unet, weights)
    assert torch.equal(outputs(fresh), before)
    for ours, painting in zip(together, paintings, strict=True):
        (alone,) = learn(fresh, [painting], settings(steps=10))
        assert apart(ours, alone) < TOLERANCE
        assert ours.header == alone.header
        assert ours.loss_before == pytest.approx(alone.loss_before, rel=1e-5)
        assert ours.loss_after == pytest.approx(alone.loss_after, rel=1e-4)
    assert apart(together[0], together[1]) > 0.1, "they do learn different things"


def test_neighbours_of_its_size_do_not_change_a_bit(fresh: Backbone, paintings: list[Path]) -> None:
    """Rows of a pass do not see one another: neither factors nor pictures."""
    first, second, _, other = paintings
    assert_equal(learn(fresh, [first, second])[0], learn(fresh, [first, other])[0])


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [2, 0], [1, 3, 0]])
def test_neither_order_nor_company_decides(
    fresh: Backbone, paintings: list[Path], order: list[int]
) -> None:
    whole = learn(fresh, paintings)
    for index, fitted in zip(order, learn(fresh, [paintings[i] for i in order]), strict=True):
        assert apart(fitted, whole[index]) < TOLERANCE


@pytest.fixture
def kept() -> dict[int, list[Fitted]]:
    """What each learns alone, by its rows a step."""
    return {}


@given(rows=st.integers(1, 9), batch=st.integers(1, 2), max_rows=st.none() | st.integers(1, 3))
@hypothesis_settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_pass_in_any_number(
    shared: Backbone,
    tmp_path: Path,
    kept: dict[int, list[Fitted]],
    rows: int,
    batch: int,
    max_rows: int | None,
) -> None:
    """Several pictures of several sizes a style, and several rows a step."""
    files = [
        draw(tmp_path / f"{i}.png", seed=i, size=(40, 32) if i % 2 else (32, 70)) for i in range(4)
    ]
    styles = [files[:2], files[2:], files[1:2]]
    own = settings(steps=2, batch=batch)
    alone = kept.setdefault(batch, [])
    if not alone:
        alone += [learn(shared, [style], own, rows=1)[0] for style in styles]
    shared.max_rows = max_rows
    passed: list[int] = []
    hook = shared.unet.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    try:
        together = learn(shared, styles, own, rows=rows)
    finally:
        hook.remove()
        shared.max_rows = None
    assert max(passed) <= min(rows, max_rows or rows)
    assert max(passed) > 1 or rows == 1 or max_rows == 1
    # Of three styles: the steps, and what they are judged on before and after.
    assert sum(passed) == 3 * (2 * batch + 2 * draws.EVAL_PAIRS)
    for ours, theirs in zip(together, alone, strict=True):
        assert apart(ours, theirs) < TOLERANCE


def test_an_interrupted_group_resumes_to_the_same_bits(paintings: list[Path]) -> None:
    whole = learn(tiny.backbone(folder()), paintings)
    with pytest.raises(KeyboardInterrupt):
        learn(tiny.backbone(folder()), paintings, reporter=stop_at(5 * len(paintings)))
    assert all(painting.with_suffix(".state").exists() for painting in paintings)
    seen: list[int] = []
    again = learn(tiny.backbone(folder()), paintings, reporter=Watcher(seen.append))
    assert seen == [4 * 4, 5 * 4, 6 * 4], "saved every second step"
    for ours, theirs in zip(again, whole, strict=True):
        assert_equal(ours, theirs)


def test_one_that_is_further_than_the_others_ends_earlier(
    fresh: Backbone, paintings: list[Path]
) -> None:
    """As after a kill between two states: the other catches up by itself."""
    ahead, behind = paintings[:2]
    whole = learn(fresh, [ahead, behind])
    with pytest.raises(KeyboardInterrupt):
        learn(fresh, [ahead], reporter=stop_at(5))
    seen: list[int] = []
    again = learn(fresh, [ahead, behind], reporter=Watcher(seen.append))
    assert seen == [4, 6, 8, 9, 10, 11, 12]
    for ours, theirs in zip(again, whole, strict=True):
        assert apart(ours, theirs) < TOLERANCE


def test_gradient_checkpointing_changes_no_value(fresh: Backbone, paintings: list[Path]) -> None:
    plain = learn(fresh, paintings[:2], settings(steps=2))
    frugal = learn(fresh, paintings[:2], settings(steps=2, gradient_checkpointing=True))
    for ours, theirs in zip(frugal, plain, strict=True):
        assert apart(ours, theirs) < 1e-5
    assert not fresh.unet.is_gradient_checkpointing


def test_a_loss_that_is_no_number_is_told_with_its_step(
    fresh: Backbone, paintings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where losses are looked at a few steps later, and never is a bad state kept."""
    with pytest.raises(ItemError, match=r"the loss is (nan|inf) at step \d") as first:
        learn(fresh, paintings[:2], settings(lr=1e30, save_every=9))
    monkeypatch.setattr("stylecli.engine.training.together.LOOKS_AT_ONCE", {"cpu": 100})
    with pytest.raises(ItemError) as late:
        learn(fresh, paintings[:2], settings(lr=1e30, save_every=9))
    assert late.value.what == first.value.what
    with pytest.raises(ItemError):
        learn(fresh, paintings[:2], settings(lr=1e30, save_every=4))
    assert not list(paintings[0].parent.glob("*.state"))


def test_a_state_of_an_older_version_is_refused(fresh: Backbone, paintings: list[Path]) -> None:
    from stylecli.engine.training import checkpoint

    with pytest.raises(KeyboardInterrupt):
        learn(fresh, paintings[:1], reporter=stop_at(3))
    file = paintings[0].with_suffix(".state")
    tensors, header = checkpoint.load(file)
    tensors["lora.to_q.lora_A.style.weight"] = tensors.pop("lora")
    checkpoint.save(file, tensors, header)
    with pytest.raises(UsageError, match="another version, or by a run with other"):
        learn(fresh, paintings[:1])


# What is encoded once


def test_pictures_and_captions_are_encoded_once_for_all(
    fresh: Backbone, paintings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("posterior", "encode_prompt"):
        real = getattr(Backbone, name)

        def count(self: Backbone, given: Any, name: str = name, real: Any = real) -> Any:
            asked.append(name)
            return real(self, given)

        monkeypatch.setattr(Backbone, name, count)
    encoded = Encoded(fresh)
    own = settings(steps=1)
    alone = learn(fresh, [paintings[:2]], own)
    asked.clear()
    learn(fresh, paintings, own, encoded=encoded)
    assert sorted(asked) == ["encode_prompt"] * 2 + ["posterior"] * 4
    again = learn(fresh, [paintings[:2]], own, encoded=encoded)
    assert len(asked) == 6
    assert_equal(again[0], alone[0])


@given(
    size=st.tuples(st.integers(8, 200), st.integers(8, 200)),
    resolution=st.integers(16, 96),
    crop=st.none() | st.integers(32, 96),
)
@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sides_are_known_before_a_picture_is_encoded(
    shared: Backbone, tmp_path: Path, size: tuple[int, int], resolution: int, crop: int | None
) -> None:
    path = draw(tmp_path / "a.png", seed=0, size=size)
    own = settings(resolution=resolution, crop="random" if crop else "center", crop_px=crop or 128)
    try:
        seen = Encoded(shared).picture(path, "", own)
    except ImageError:
        with pytest.raises(ImageError):
            images.read(path)
        return
    drawn = draws.Draw.fixed(
        shared, [(seen.mean, seen.deviation)], 0, crop // shared.latent_px if crop else None
    )
    assert latent_sides(path, own, shared) == tuple(drawn[0].clean.shape[-2:])
