"""Edits follow one another, by their experts alone, and what was looked at changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.engine.route.applying.editing import Edited, Retoucher, fitted
from stylecli.engine.route.applying.wishes import Edit, edits
from stylecli.engine.route.experts import Experts
from stylecli.errors import ItemError, UsageError
from stylecli.methods.regionroute.styles import PAPER
from stylecli.recipe.route import Apply, Loss
from stylecli.tensors.seeds import derive
from tests.engine.route.applying import desk
from tests.small import assert_same_state, noise, state

APPLY = Apply(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Experts:
    return desk.make_experts(tmp_path_factory.mktemp("experts"))


def wishes(*words: str, **more: Any) -> tuple[Edit, ...]:
    return edits(Apply(instruction=words, **more), PAPER)


CAT, DOG = wishes(desk.CAT)[0], wishes(desk.DOG)[0]
# The same words, and the expert of others.
CROSSED = Edit(CAT.prompt, CAT.span, CAT.object, ("line_art",))
MOSAIC = wishes("make the cat in mosaic style", soft_route=True)[0]


@pytest.fixture(scope="module")
def retoucher(experts: Experts) -> Iterator[Retoucher]:
    """On the shared editor, whose layers get their experts taken off again."""
    made = Retoucher(desk.editor(), experts, [CAT, DOG, MOSAIC, CROSSED], Loss())
    yield made
    made.editor.model.delete_adapters(list(made.editor.model.peft_config))


def pictures(count: int = 1) -> Tensor:
    return noise(count, 3, 32, 32, seed=5).mul(0.2).add(0.5).clamp(0, 1)


def last(chains: list[list[Edited]]) -> Tensor:
    return torch.stack([chain[-1].image for chain in chains])


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(64, 8), (512, 16), (1024, 16)])
)
def test_pictures_come_to_legal_sizes_of_their_shape(
    height: int, width: int, model: tuple[int, int]
) -> None:
    side, multiple = model
    geometry = fitted(height, width, side=side, multiple=multiple)
    rows, columns = geometry.resized
    assert geometry.padded == geometry.resized
    assert rows % multiple == columns % multiple == 0
    # Within what one multiple of a side makes.
    ratio = min(max(height / width, 1 / 4), 4)
    assert abs(math.log(rows / columns / ratio)) <= math.log1p(2 * multiple / min(rows, columns))
    assert abs(math.log(rows * columns / side**2)) <= math.log1p(2 * multiple / min(rows, columns))


@pytest.mark.slow
def test_the_edits_follow_one_another(retoucher: Retoucher) -> None:
    both = retoucher.chain(pictures(), [CAT, DOG], APPLY, seeds=[7], looks=False)
    first = retoucher.chain(pictures(), [CAT], APPLY, seeds=[7], looks=False)
    second = retoucher.chain(last(first), [DOG], APPLY, seeds=[derive(7, 1)], looks=False)
    assert torch.equal(both[0][0].image, first[0][0].image)
    assert torch.equal(last(both), last(second))
    assert not torch.equal(last(both), last(first))


def test_what_settles_an_edit_is_what_the_next_one_begins_from(retoucher: Retoucher) -> None:
    seen = []

    def undone(done: Any) -> Tensor:
        seen.append(done[0].image)
        return pictures()

    chains = retoucher.chain(pictures(), [CAT, DOG], APPLY, seeds=[7], looks=False, settle=undone)
    alone = retoucher.chain(pictures(), [DOG], APPLY, seeds=[derive(7, 1)], looks=False)
    assert torch.equal(seen[1], last(alone)[0])
    assert torch.equal(last(chains), pictures())


def test_looking_changes_no_picture_and_tells_every_step(retoucher: Retoucher) -> None:
    blind = retoucher.chain(pictures(2), [CAT], APPLY, seeds=[7, 8], looks=False)
    told = retoucher.chain(pictures(2), [CAT], APPLY, seeds=[7, 8], looks=True)
    assert torch.equal(last(blind), last(told))
    assert blind[0][0].looked is None
    for chain in told:
        looked = chain[0].looked
        assert looked is not None
        assert len(looked.maps) == len(looked.times) == APPLY.steps
        assert looked.times[0] > looked.times[-1]
        assert float(looked.maps.min()) > 0
        # "pixel-art" is nine letters to a tokenizer without merges.
        assert len(looked.tokens) == 9
    assert not torch.equal(told[0][0].looked.maps, told[1][0].looked.maps)


def test_an_expert_is_at_work_in_its_edit_alone(retoucher: Retoucher) -> None:
    editor = desk.editor()
    text = editor.encode_prompt(["make the cat"])
    weights = state(editor.model)
    clean = editor.encode_image(pictures())

    def answer() -> Tensor:
        with torch.inference_mode():
            return editor.predict(noise(*clean.shape), torch.tensor([500.0]), text, clean)

    before = answer()
    own = retoucher.chain(pictures(), [CAT], APPLY, seeds=[7], looks=True)
    assert torch.equal(answer(), before)
    assert_same_state(editor.model, weights)
    crossed = retoucher.chain(pictures(), [CROSSED], APPLY, seeds=[7], looks=False)
    again = retoucher.chain(pictures(), [CAT], APPLY, seeds=[7], looks=False)
    assert torch.equal(last(again), last(own))
    assert not torch.equal(last(crossed), last(own))


def test_a_mix_has_the_nearest_and_its_weights_are_shares(retoucher: Retoucher) -> None:
    done = retoucher.chain(pictures(), [MOSAIC], APPLY, seeds=[7], looks=False)[0][0]
    assert len(done.weights) == 2
    assert sum(done.weights.values()) == pytest.approx(1)
    assert set(done.weights) < {style.id for style in PAPER}


def test_a_footprint_is_as_large_as_the_file_and_follows_the_map(retoucher: Retoucher) -> None:
    geometry = fitted(48, 64, side=32, multiple=16)
    done = retoucher.chain(pictures(), [CAT], APPLY, seeds=[7], looks=True)[0][0]
    looked = done.looked
    assert looked is not None
    maps = torch.full(looked.maps.shape, 1e-4)
    maps[:, :, : maps.shape[2] // 2] = 1e-2
    mask = retoucher.footprint(replace(done, looked=replace(looked, maps=maps)), geometry)
    assert mask.shape == (48, 64)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    assert float(mask[:, :16].min()) > 0.9
    assert float(mask[:, 48:].max()) < 0.1


def test_a_mask_needs_what_was_looked_at(retoucher: Retoucher) -> None:
    done = retoucher.chain(pictures(), [CAT], APPLY, seeds=[7], looks=False)[0][0]
    with pytest.raises(ValueError, match="looked at"):
        retoucher.footprint(done, fitted(32, 32, side=32, multiple=16))


def test_an_instruction_that_is_too_long_is_refused_before_the_work(experts: Experts) -> None:
    (long,) = wishes(f"make the {'cat ' * 40}pixel-art")
    with pytest.raises(UsageError, match="tokens"):
        Retoucher(desk.editor(), experts, [long], Loss())


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_nothing_to_be_seen_is_a_failure(
    retoucher: Retoucher, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(desk.editor(), "decode", lambda latents: torch.full((1, 3, 32, 32), value))
    with pytest.raises(ItemError, match=r"NaN|flat colour"):
        retoucher.chain(pictures(), [CAT], APPLY, seeds=[7], looks=False)
