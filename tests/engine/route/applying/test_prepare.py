"""Plans of `style route-apply`: what decides a picture, and what is refused without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylecli.artifacts import store
from stylecli.engine.again.origins import Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.again.rerun import locator_for, rerun
from stylecli.engine.route import experts
from stylecli.engine.route.applying import prepare
from stylecli.errors import InputError, RecipeError, UsageError, WeightsError
from stylecli.methods.regionroute.styles import PAPER, Style
from tests.engine.route.applying import desk as world
from tests.engine.route.applying.desk import CAT, DOG, Desk, recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def key(desk: Desk, settings: Any = None, **how: Any) -> str:
    (job,) = desk.prepare("out", settings, **how).plan.jobs
    return job.key


def test_what_decides_a_picture_decides_its_key(desk: Desk) -> None:
    usual = key(desk, recipe(CAT))
    # The same edit in other words.
    assert key(desk, recipe("paint the cat as pixel art")) == usual
    assert key(desk, recipe(object=["cat"], style_name=["pixel-art"])) == usual
    assert key(desk, recipe(CAT, route__loss__layers="all")) == usual
    others = [
        recipe(DOG),
        recipe(CAT, steps=3),
        recipe(CAT, guidance=4.0),
        recipe(CAT, image_guidance=1.5),
        recipe(CAT, size=48),
        recipe(CAT, protect_background=True),
        recipe(CAT, protect_background=True, route__loss__layers="all"),
        recipe(CAT, sampling__seed=1),
        recipe(CAT, DOG),
        recipe(DOG, CAT),
    ]
    keys = [usual, *(key(desk, one) for one in others)]
    assert len(set(keys)) == len(keys)


def test_layers_decide_what_explains_a_picture_and_the_usual_ones_change_no_key(
    desk: Desk,
) -> None:
    usual, other = recipe(CAT), recipe(CAT, route__loss__layers="all")
    assert key(desk, usual, explain=True) == key(desk, usual)
    assert key(desk, other, explain=True) != key(desk, usual)


def test_an_expert_that_is_trained_again_makes_another_picture(desk: Desk) -> None:
    cat, dog = key(desk, recipe(CAT)), key(desk, recipe(DOG))
    world.make_experts(desk.folder / "experts", PAPER[:1], size=0.1)
    assert key(desk, recipe(CAT)) != cat
    assert key(desk, recipe(DOG)) == dog


def test_a_new_style_changes_no_picture_but_mixes(desk: Desk) -> None:
    mosaic = recipe("make the cat in mosaic style", soft_route=True)
    before = key(desk, recipe(CAT)), key(desk, mosaic)
    world.make_experts(desk.folder / "experts", [Style("felt", "felt")])
    after = key(desk, recipe(CAT)), key(desk, mosaic)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_outputs_are_named_by_content_and_style(desk: Desk) -> None:
    (job,) = desk.prepare("out", recipe(CAT, DOG), explain=True).plan.jobs
    assert job.output.name == "photo0__pixel_art+line_art.png"
    assert job.sheet is not None
    assert job.sheet.name == "photo0__pixel_art+line_art.attention.png"
    assert [path.name for path in job.beside] == ["photo0__pixel_art+line_art.attention.npz"]


def test_an_expert_of_another_base_is_refused(desk: Desk) -> None:
    other = desk.folder / "other"
    world.make_experts(other, base={"name": "flux1-kontext", "fingerprint": "1" * 16})
    with pytest.raises(UsageError, match="on flux1-kontext, not on editor") as caught:
        desk.prepare("out", experts=other)
    assert "--backbone flux1-kontext" in caught.value.fix
    tuned = desk.folder / "tuned"
    world.make_experts(tuned, base={"name": "editor", "fingerprint": "1" * 16})
    with pytest.raises(UsageError, match="other weights than this editor's"):
        desk.prepare("out", experts=tuned)


def test_experts_are_used_with_the_text_they_learned_with(desk: Desk) -> None:
    world.make_experts(desk.folder / "experts", PAPER[3:], text_length=40)
    desk.prepare("out", recipe(CAT))
    with pytest.raises(UsageError, match="pixel_art with 77 and line_art with 40"):
        desk.prepare("out", recipe(CAT, DOG))
    # What a recipe for training says counts for training.
    other = desk.prepare("out", recipe(CAT, route__text_length=40))
    assert other.plan.jobs[0].key == desk.prepare("out", recipe(CAT)).plan.jobs[0].key
    assert other.session.recipe.route.text_length == 77
    # The model says what it can read.
    with pytest.raises(RecipeError, match="always reads 77"):
        list(desk.prepare("out", recipe(DOG)).run())


def test_a_damaged_expert_is_refused_before_the_work(desk: Desk) -> None:
    (desk.folder / "experts" / "pixel_art.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="SHA-256"):
        desk.prepare("out", recipe(CAT))
    desk.prepare("out", recipe(DOG))


def test_without_experts_of_its_own_a_model_needs_some(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepare.registry.find(str(world.folder()))
    with pytest.raises(InputError, match="no experts come with") as caught:
        prepare._experts(None, source)
    assert "style route-train" in caught.value.fix
    pocket = prepare.registry.editing(prepare.registry.find("pocket"))
    monkeypatch.setattr(experts, "shipped", lambda: desk.folder / "nowhere")
    with pytest.raises(InputError, match="missing from this installation") as caught:
        prepare._experts(None, pocket)
    assert "reinstall" in caught.value.fix
    monkeypatch.setattr(experts, "shipped", lambda: desk.folder / "experts")
    assert prepare._experts(None, pocket).styles == PAPER


def test_rows_of_a_manifest_say_what_to_do_with_their_content(desk: Desk) -> None:
    prepared = desk.rows(
        recipe(),
        {"instruction": CAT},
        {"object": "dog", "style_name": "line art"},
        {"instruction": CAT, "route.apply.guidance": 5},
        {"content": "photo1.png", "instruction": f"{CAT}"},
    )
    roles = [[item.path.stem for item in job.inputs] for job in prepared.plan.jobs]
    assert roles == [
        ["photo0", "pixel_art"],
        ["photo0", "line_art"],
        ["photo0", "pixel_art"],
        ["photo1", "pixel_art"],
    ]
    cat, _, guided, _ = prepared.plan.jobs
    assert cat.key == key(desk, recipe(CAT))
    assert guided.key == key(desk, recipe(CAT, guidance=5.0))
    assert {result.status for result in prepared.run()} == {"done"}
    assert not np.array_equal(desk.pixels("rows/0.png"), desk.pixels("rows/2.png"))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"instruction": "make the cat pretty"}, "jobs.jsonl:1"),
        ({}, "nothing says what to do"),
        ({"instruction": CAT, "style": "photo1.png"}, "style is a column"),
        ({"instruction": CAT, "sampling.seed": 3}, "no use for"),
        ({"instruction": CAT, "backbone.quantize": "nf4"}, "no use for"),
        ({"instruction": CAT, "route.apply.steps": 0}, "route.apply.steps"),
    ],
)
def test_a_row_that_cannot_be_done_is_refused_with_its_place(
    desk: Desk, row: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError) as caught:
        desk.rows(recipe(), row)
    assert what in caught.value.what
    assert "jobs.jsonl:1" in caught.value.what


def test_batches_make_what_single_pictures_do(desk: Desk) -> None:
    settings = recipe(CAT, DOG, device__batch=2)
    desk.make("together", settings, desk.contents)
    desk.make("alone", settings, desk.contents[2:])
    name = "photo2__pixel_art+line_art.png"
    assert (desk.folder / "together" / name).read_bytes() == (
        desk.folder / "alone" / name
    ).read_bytes()
    assert desk.pixels(f"together/{name}").shape == (40, 48, 3)


def test_a_protected_background_keeps_the_files_own_pixels(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from stylecli.engine.route.applying.editing import Retoucher

    def left_half(self: Retoucher, one: Any, geometry: Any) -> Any:
        mask = torch.zeros(geometry.original)
        mask[:, : geometry.original[1] // 2] = 1
        return mask

    monkeypatch.setattr(Retoucher, "footprint", left_half)
    desk.make("kept.png", recipe(CAT, DOG, protect_background=True))
    before, after = desk.pixels("photo0.png"), desk.pixels("kept.png")
    assert np.array_equal(before[:, 24:], after[:, 24:])
    assert not np.array_equal(before[:, :24], after[:, :24])


def test_all_files_of_an_edit_are_made_again(desk: Desk, tmp_path: Path) -> None:
    settings = recipe(
        CAT, "make the dog in mosaic style", soft_route=True, protect_background=True,
        sampling__seed=3,
    )  # fmt: skip
    desk.make("out.png", settings, explain=True)
    machine = Machine(backbone=str(world.folder()))
    # Wherever the experts lie, and without their index.
    (desk.folder / "experts" / experts.INDEX).unlink()
    for name in ("out.png", "out.attention.png", "out.attention.npz"):
        file = desk.folder / name
        locator = locator_for([file], [desk.folder])
        found = rerun(file, Origins(), locator, machine, desk.listener)
        assert not found.differences, (name, found.differences)


def test_the_numbers_of_attention_say_what_they_are_of(desk: Desk) -> None:
    desk.make("out.png", recipe(CAT, DOG), explain=True)
    desk.make("bare.png", recipe(CAT, DOG), explain=True, strip=True)
    with np.load(desk.folder / "out.attention.npz", allow_pickle=False) as told:
        arrays = dict(told)
    edits, steps, *_ = arrays["maps"].shape
    assert (edits, steps) == (2, 2)
    assert arrays["maps"].dtype == np.float16
    assert arrays["times"].shape == (2, 2)
    assert (np.diff(arrays["times"]) < 0).all()
    assert arrays["styles"].tolist() == ["pixel-art", "line-art"]
    assert arrays["objects"].tolist() == ["cat", "dog"]
    # Nine letters, and eight.
    assert (arrays["tokens"] >= 0).sum(axis=1).tolist() == [9, 8]
    assert store.read_provenance(desk.folder / "out.attention.npz") is not None
    with np.load(desk.folder / "bare.attention.npz", allow_pickle=False) as told:
        bare = dict(told)
    assert store.KEY not in bare
    assert np.array_equal(bare["maps"], arrays["maps"])
    assert store.read_provenance(desk.folder / "bare.attention.npz") is None
