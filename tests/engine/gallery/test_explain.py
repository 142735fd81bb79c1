"""The report and the picture of who took style from where (7.1, item 30)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylecli.artifacts.images import Geometry
from stylecli.engine.gallery import explain
from stylecli.engine.gallery.analyst import Analysis
from stylecli.engine.gallery.explain import Explained
from stylecli.methods.stylegallery.descriptors import Described
from stylecli.methods.stylegallery.dfcc import Regions
from stylecli.methods.stylegallery.match import Match, Table
from tests.engine.gallery.desk import Desk, painted, recipe

SIZE = 64


def analysis(count: int, name: str = "x.png") -> Analysis:
    """Stripes of equal width, in cells of 8 pixels."""
    labels = torch.arange(8).mul(count).div(8).long().add(1)[None].repeat(8, 1)
    zeros = torch.zeros(4, 8, 8)
    regions = Regions(labels, {2: 0.5}, torch.linspace(0, 1, 8).repeat(8, 1), 0.0)
    circles = torch.full((count, 3), 0.5, dtype=torch.double)
    return Analysis(
        name=name,
        sha256=name,
        geometry=Geometry.plan(SIZE, SIZE, short_side=SIZE, multiple=8),
        cells=(8, 8),
        clean=zeros,
        noise=zeros,
        regions=regions,
        described=Described(None, None, circles),
        colours=torch.rand(count, 3),
    )


def explained(counts: tuple[int, ...], *matches: Match) -> Explained:
    styles = [analysis(count, f"style{at}.png") for at, count in enumerate(counts)]
    columns = tuple((at, r + 1) for at, count in enumerate(counts) for r in range(count))
    scores = torch.zeros(len(matches), len(columns), 3)
    return Explained(
        content=analysis(len(matches), "content.png"),
        image=torch.rand(3, SIZE, SIZE),
        styles=styles,
        table=Table(scores, columns, scores.sum(2)),
        matches=matches,
        seconds={"latents": 1.25},
    )


def test_what_goes_together_has_one_colour_and_nothing_else_has_it() -> None:
    found = explain.groups_of(
        explained(
            (3, 4, 2, 2),
            Match(1, 0, (2,)),
            Match(2, 1, (1, 3)),
            Match(3, 1, (3, 4)),
            Match(4, 2, ()),
            Match(5, None, ()),
            Match(6, 0, (2,)),
            Match(7, 0, (1,)),
        )
    )
    sets: dict[int, set[tuple[int, int]]] = {}
    for place, group in found.items():
        sets.setdefault(group, set()).add(place)
    assert sorted(map(sorted, sets.values())) == [
        [(0, 1)],
        [(0, 2)],
        [(1, 1), (1, 3), (1, 4)],
        [(2, 1), (2, 2)],
    ]
    assert sorted(sets) == [0, 1, 2, 3]


def test_the_pair_is_drawn_in_one_colour_and_the_rest_in_grey() -> None:
    one = explained((2, 1), Match(1, 0, (2,)), Match(2, None, ()))
    pictures = {at: torch.rand(3, SIZE, SIZE) for at in explain.shown(one)}
    assert list(pictures) == [0, 1]
    panels = explain.panels(one, pictures)
    assert [panel.picture.shape for panel in panels] == [(3, SIZE, SIZE)] * 3
    assert [panel.is_faint for panel in panels] == [False, False, True]

    def hue(picture: torch.Tensor) -> torch.Tensor:
        """What a tint adds, whatever lies under it."""
        mean = picture.flatten(1).mean(1)
        return mean - mean.mean()

    content, style, other = (panel.picture[:, :16] for panel in panels)
    left, right = slice(0, 28), slice(36, 64)
    assert torch.allclose(hue(content[..., left]), hue(style[..., right]), atol=0.08)
    assert hue(content[..., left]).abs().max() > 0.1
    for grey in (content[..., right], style[..., left], other):
        assert hue(grey).abs().max() < 0.02


def test_unused_references_fill_a_row_and_no_more() -> None:
    one = explained((1,) * 9, Match(1, 4, (1,)))
    assert explain.shown(one) == [4, 0, 1]
    full = explained((1,) * 9, Match(1, 4, (1,)), Match(2, 5, (1,)), Match(3, 8, (1,)))
    assert explain.shown(full) == [4, 5, 8]
    assert explain.shown(explained((1,), Match(1, None, ()))) == [0]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def read(desk: Desk, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((desk.folder / name).read_bytes())
    return found


@pytest.mark.slow
def test_a_report_says_all_of_section_2_5(desk: Desk) -> None:
    desk.make("out", explain=True)
    found = read(desk, "out/photo0.regions.json")
    assert found["version"] == 1
    keys = "config content k_scores matches networks scores style styles timing version"
    assert sorted(found) == keys.split()
    content = found["content"]
    assert content["size"] == [40, 48]
    count = len(content["regions"])
    assert [row["content"] for row in found["matches"]] == list(range(1, count + 1))
    assert [region["id"] for region in content["regions"]] == list(range(1, count + 1))
    assert sum(region["area"] for region in content["regions"]) == pytest.approx(1, abs=1e-4)
    assert [one["style"] for one in found["styles"]] == ["ref1", "ref2", "ref3"]
    assert [one["name"] for one in found["styles"]] == ["look0.png", "look1.png", "look2.png"]
    pairs = sum(len(one["regions"]) for one in found["styles"]) * count
    assert len(found["scores"]) == pairs
    for match in found["matches"]:
        (region,) = match["regions"]
        (row,) = (
            row
            for row in found["scores"]
            if (row["content"], row["style"], row["region"])
            == (match["content"], match["style"], region)
        )
        best = max(r["total"] for r in found["scores"] if r["content"] == match["content"])
        assert row["total"] == match["score"] == best
        total = 0.25 * row["stat"] + row["sem"] + 0.125 * row["geo"]
        assert row["total"] == pytest.approx(total, abs=2e-4)
    used = {match["style"] for match in found["matches"]}
    assert {one["style"] for one in found["styles"] if one["used"]} == used
    assert {"references", "regions", "matches", "latents", "decoding"} == found["timing"].keys()
    for region in content["regions"]:
        left, top, right, bottom = region["bbox"]
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert left <= region["centroid"][0] <= right
        assert 0 < region["area"] <= (right - left) * (bottom - top) + 1e-6
        assert region["mean_depth"] is None


@pytest.mark.slow
def test_colours_and_places_of_regions_are_those_of_the_picture(desk: Desk) -> None:
    photo = painted(desk.folder / "flag.png", ["#204060", "#c08040", "#c08040"])
    mask = painted(desk.folder / "m.png", ["red", "lime", "lime"])
    settings = recipe(gallery__mask=str(mask), dfcc__mask_mode="only")
    desk.make("out", [photo], settings=settings, explain=True)
    large, small = read(desk, "out/flag.regions.json")["content"]["regions"]
    assert large["mean_rgb"] == pytest.approx([192, 128, 64], abs=3)
    # Cells on its border hold some of the other.
    assert small["mean_rgb"] == pytest.approx([32, 64, 96], abs=20)
    assert small["centroid"] == pytest.approx([1 / 6, 0.5], abs=0.03)
    assert small["area"] == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.slow
def test_the_picture_is_written_beside_the_result(desk: Desk) -> None:
    desk.make("out.jpg", explain=True)
    sheet = np.array(Image.open(desk.folder / "out.regions.jpg"))
    assert sheet.shape[0] > 200
    assert sheet.std() > 20


@pytest.mark.slow
def test_scores_have_four_digits(desk: Desk) -> None:
    desk.make("out", explain=True)
    found = read(desk, "out/photo0.regions.json")
    said = [row[name] for row in found["scores"] for name in ("stat", "sem", "geo", "total")]
    said += [row[name] for row in found["matches"] for name in ("score", "margin")]
    assert said == [round(one, 4) for one in said]
    assert any(one != round(one, 3) for one in said)


def test_pictures_without_names_have_captions_without_names() -> None:
    one = explained((2, 1), Match(1, 0, (2,)), Match(2, None, ()))
    pictures = {at: torch.rand(3, SIZE, SIZE) for at in explain.shown(one)}
    plain = [panel.caption for panel in explain.panels(one, pictures)]
    assert plain == ["content: content.png", "ref1: style0.png", "ref2: style1.png (not used)"]
    mute = [panel.caption for panel in explain.panels(one, pictures, is_named=False)]
    assert mute == ["content", "ref1", "ref2 (not used)"]
    assert not np.array_equal(
        explain.drawn(one, pictures), explain.drawn(one, pictures, is_named=False)
    )
