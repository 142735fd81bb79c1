"""Rows: the same whatever stands beside them, and computed once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylecli.artifacts import images
from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.scoring.pictures import ANCHORS, Album, paired, region
from stylecli.engine.scoring.rows import Bench
from stylecli.errors import ItemError
from stylecli.evaluation.table import METRICS, choose
from stylecli.recipe.scoring import Evaluate
from tests.engine.scoring.conftest import World


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_neighbours(
    world: World, tmp_path: Path, networks: Networks
) -> None:
    metrics, found = choose("pocket").metrics, []
    for name, chosen in (("all", slice(None)), ("one", slice(5, 6))):
        with FeatureStore(tmp_path / name) as store:
            bench, album = Bench(Evaluate(batch=4), metrics, networks, store), Album(store)
            cases = [album.case(item) for item in world.items()[chosen]]
            found.append([dict(scored.values) for scored in bench.score_all(cases)])
    assert found[0][5] == found[1][0]
    assert "pocket-lpips" in found[1][0]


def test_what_was_scored_is_not_computed_again(
    world: World, bench: Bench, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [Album(bench.store).case(item) for item in world.items()[:2]]
    first = list(bench.score_all(cases))

    def refuse(*_: object) -> None:
        raise AssertionError("a network was asked again")

    monkeypatch.setattr(Networks, "get", refuse)
    again = list(Bench(bench.settings, bench.metrics, networks, bench.store).score_all(cases))
    assert [s.values for s in again] == [s.values for s in first]


def test_other_settings_or_another_version_are_computed_anew(world: World, bench: Bench) -> None:
    case = Album(bench.store).case(world.items()[0])
    ssim = next(m for m in bench.metrics if m.name == "ssim")
    keys = {
        bench._key(ssim, case),
        Bench(Evaluate(pair_size="512"), [], bench.networks, bench.store)._key(ssim, case),
        bench._key(next(iter(choose("core", ["psnr"]).metrics)), case),
    }
    assert len(keys) == 3
    same = Bench(Evaluate(seed=3, resamples=100), [], bench.networks, bench.store)
    assert same._key(ssim, case) in keys


def test_other_weights_are_other_numbers(
    world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Album(bench.store).case(world.items()[0])
    lpips = next(m for m in bench.metrics if m.name == "pocket-lpips")
    before = bench._key(lpips, case)
    monkeypatch.setattr(Networks, "identity", lambda *_: "another")
    assert bench._key(lpips, case) != before


@pytest.mark.slow
def test_every_forward_pass_has_the_same_shape(
    world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    embed = Networks.embed

    def watched(self: Networks, name: str, batch: torch.Tensor) -> torch.Tensor:
        shapes.append((name, tuple(batch.shape)))
        return embed(self, name, batch)

    monkeypatch.setattr(Networks, "embed", watched)
    album = Album(bench.store)
    list(bench.score_all([album.case(item) for item in world.items()[:3]]))
    assert set(shapes) == {(name, (4, 3, 64, 64)) for name in ("pocket-clip", "pocket-embedding")}


def test_anchors_are_made_at_the_outputs_size(world: World, bench: Bench) -> None:
    album = Album(bench.store)
    item = world.items()[0]
    case = album.case(item)
    made = {c.method: c.output.load() for c in album.anchors([item], list(ANCHORS))}
    assert set(made) == set(ANCHORS)
    size = case.output.load().shape
    assert {tuple(output.shape) for output in made.values()} == {tuple(size)}
    assert item.content is not None
    with Image.open(item.content) as content:
        assert np.array_equal(made["content_copy"].numpy(), np.array(content.convert("RGB")))
    blend = (made["content_copy"].int() + made["style_copy"].int() + 1) // 2
    assert torch.equal(made["mid_blend"].int(), blend)


def test_an_anchor_that_lacks_a_picture_is_left_out(world: World, bench: Bench) -> None:
    item = world.items()[0]
    album = Album(bench.store)
    without = type(item)(id="x", method="m", output=item.output, place="x")
    assert list(album.anchors([without], list(ANCHORS))) == []


def test_an_anchor_does_not_hang_on_one_methods_output(world: World, bench: Bench) -> None:
    items = [item for item in world.items() if item.id == world.items()[0].id]
    gone = replace(items[0], output=world.root / "gone.png")
    album = Album(bench.store)
    ours, others = (
        [case.output.key for case in album.anchors(of, list(ANCHORS))]
        for of in ([gone, items[1]], items)
    )
    assert len(ours) == len(ANCHORS)
    assert ours == others
    assert list(album.anchors([gone], list(ANCHORS))) == []


def test_the_size_of_an_anchor_is_found_out_once(
    world: World, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = world.items()[:1]
    keys = [case.output.key for case in Album(bench.store).anchors(items, list(ANCHORS))]
    monkeypatch.setattr(images, "size_of", lambda _: pytest.fail("decoded again"))
    again = [case.output.key for case in Album(bench.store).anchors(items, list(ANCHORS))]
    assert again == keys


def test_a_file_that_vanished_fails_its_row(world: World, bench: Bench) -> None:
    gone = replace(world.items()[0], output=world.root / "gone.png")
    (scored,) = bench.score_all([Album(bench.store).case(gone)])
    assert scored.error is not None
    assert "gone.png" in scored.error.what


def test_a_picture_too_small_for_one_network_is_scored_by_the_others(
    world: World, bench: Bench
) -> None:
    item = world.items()[0]
    small = world.root / "small.png"
    Image.new("RGB", (10, 8), "red").save(small)
    tiny = replace(item, output=small, content=small)
    (scored,) = bench.score_all([Album(bench.store).case(tiny)])
    assert "too small" in scored.reasons["pocket-lpips"]
    assert "too small" in scored.reasons["ssim"]
    assert scored.values["psnr"] == 100
    assert "pocket-fid" not in scored.reasons


@pytest.mark.parametrize("colour", [(255, 255, 255), (200, 200, 200)])
def test_the_clear_part_of_a_mask_is_no_region(
    world: World, bench: Bench, tmp_path: Path, colour: tuple[int, int, int]
) -> None:
    mask = Image.new("RGBA", (48, 40), (255, 255, 255, 0))
    mask.paste((*colour, 255), (5, 6, 40, 20))
    mask.save(tmp_path / "mask.png")
    case = Album(bench.store).case(replace(world.items()[0], mask=tmp_path / "mask.png"))
    assert case.mask is not None
    assert region(case.mask.load(), (40, 48), "white").sum() == 35 * 14


CHANGED = {
    "pair_size": "512",
    "aspect": "crop",
    "mask_polarity": "black",
    "rsm_fit": "clip",
    "rsm_template": "a {style} thing",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_that_changes_a_number_is_part_of_its_key(
    world: World, tmp_path: Path, networks: Networks, name: str
) -> None:
    """Every metric that ships, before and after, each from an empty store."""
    mask = Image.new("L", (48, 40))
    mask.paste(255, (5, 6, 40, 20))
    mask.save(tmp_path / "mask.png")
    item = world.items()[0]
    other = tmp_path / "wide.png"
    with Image.open(item.output) as output:
        output.resize((48, 60)).save(other)
    item = replace(item, mask=tmp_path / "mask.png", target=item.content, style_text="ink")
    metrics = [m for m in METRICS.values() if m.compute and not m.needs]
    found = []
    for number, settings in enumerate((Evaluate(), Evaluate.model_validate({name: CHANGED[name]}))):
        with FeatureStore(tmp_path / str(number)) as store:
            bench = Bench(settings, metrics, networks, store)
            shown = replace(item, content=other) if name == "aspect" else item
            if name == "aspect" and number == 0:
                bench.settings = Evaluate(aspect="squash")
            (scored,) = bench.score_all([Album(store).case(shown)])
            found.append(scored.values)
    changed = {m for m in found[0] if found[0][m] != found[1].get(m)}
    assert changed
    assert changed <= {m.name for m in metrics if name in m.settings}


def test_copies_score_what_copies_must(world: World, bench: Bench) -> None:
    album = Album(bench.store)
    anchors = album.anchors(world.items()[:1], ["content_copy", "style_copy"])
    content, style = (scored.values for scored in bench.score_all(anchors))
    assert content["pocket-lpips"] == 0
    assert content["ssim"] == 1
    assert content["edge_correlation"] == pytest.approx(1)
    assert style["pocket-clip-style"] > content["pocket-clip-style"]
    assert style["color_sw"] < content["color_sw"]


@pytest.mark.slow
def test_a_bad_picture_fails_its_row_and_no_other(world: World, bench: Bench) -> None:
    items = world.items()[:3]
    bad = world.root / "bad.png"
    bad.write_bytes(items[0].output.read_bytes()[:60])
    broken = type(items[0])(
        id="bad", method="near", output=bad, content=items[0].content, style=items[0].style,
        place="bad",
    )  # fmt: skip
    album = Album(bench.store)
    scored = list(bench.score_all([album.case(i) for i in (items[0], broken, items[1])]))
    assert [s.error is None for s in scored] == [True, False, True]
    assert "bad.png" in str(scored[1].error)
    assert scored[2].values["pocket-clip-style"]


def test_a_metric_without_its_column_says_so_and_fails_nothing(world: World, bench: Bench) -> None:
    item = world.items()[0]
    case = Album(bench.store).case(
        type(item)(id="x", method="m", output=item.output, style=item.style, place="x")
    )
    (scored,) = bench.score_all([case])
    assert scored.error is None
    assert scored.reasons["ssim"] == "the item has no content"
    assert "color_sw" in scored.values


@pytest.mark.parametrize(("aspect", "pair_size"), [("crop", "output"), ("squash", "512")])
def test_pairs_come_out_at_one_size(aspect: str, pair_size: str) -> None:
    settings = Evaluate.model_validate({"aspect": aspect, "pair_size": pair_size})
    output, content = paired(picture(60, 80), picture(90, 90), settings, "content")
    assert (
        output.shape == content.shape == ((60, 80, 3) if pair_size == "output" else (512, 682, 3))
    )


def test_another_shape_is_refused_unless_the_recipe_allows_it() -> None:
    paired(picture(60, 80), picture(120, 161), Evaluate(), "content")
    with pytest.raises(ItemError, match="80x60, the content 90x90: another shape"):
        paired(picture(60, 80), picture(90, 90), Evaluate(), "content")


def test_a_crop_keeps_the_middle() -> None:
    content = picture(100, 60)
    _, cropped = paired(picture(30, 60), content, Evaluate(aspect="crop"), "content")
    assert torch.equal(cropped, content[35:65])
    _, cropped = paired(picture(100, 20), content, Evaluate(aspect="crop"), "content")
    assert torch.equal(cropped, content[:, 20:40])


def test_masks_are_bright_or_dark_and_never_empty() -> None:
    mask = torch.zeros(4, 6, 3, dtype=torch.uint8)
    mask[1:3, 2:4] = 128
    assert region(mask, (4, 6), "white").sum() == 4
    assert region(mask, (4, 6), "black").sum() == 20
    assert region(mask, (8, 12), "white").sum() == 16
    mask[mask > 0] = 127
    with pytest.raises(ItemError, match="the mask is empty"):
        region(mask, (4, 6), "white")
    with pytest.raises(ItemError, match="another shape"):
        region(mask, (6, 6), "white")
