"""Pictures with their regions: colours, borders, and where numbers stand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stylecli.artifacts import atlas
from stylecli.artifacts.atlas import Entry, Panel, colour, tinted


@pytest.mark.slow
@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_number_stands_as_far_inside_as_it_can(region: np.ndarray) -> None:
    height, width = region.shape
    outside = [
        (y, x)
        for y in range(-1, height + 1)
        for x in range(-1, width + 1)
        if not (0 <= y < height and 0 <= x < width and region[y, x])
    ]

    def depth(y: int, x: int) -> float:
        return min(math.hypot(y - a, x - b) for a, b in outside)

    inside = [(y, x) for y, x in itertools.product(range(height), range(width)) if region[y, x]]
    x, y, found = atlas.pole(region)
    if not inside:
        assert found == 0
        return
    assert region[y, x]
    assert found == pytest.approx(max(depth(*place) for place in inside))
    assert abs(depth(y, x) - found) < 1e-9


def test_no_two_colours_of_a_picture_look_the_same() -> None:
    colours = np.array([colour(number) for number in range(24)]).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1)
    assert apart[~np.eye(24, dtype=bool)].min() > 24
    assert np.abs(colours[:6, None] - colours[None, :6]).sum(-1)[~np.eye(6, dtype=bool)].min() > 80


def test_regions_are_tinted_and_bordered_and_the_size_stays() -> None:
    grey = torch.full((3, 96, 160), 0.5)
    labels = torch.ones(6, 10, dtype=torch.long)
    labels[:, 5:] = 2
    drawn = tinted(grey, labels, [colour(0), None])
    assert drawn.shape == grey.shape
    wanted = 0.5 + atlas.TINT * (torch.tensor(colour(0)) / 255 - 0.5)
    assert torch.allclose(drawn[:, 4, 4], wanted, atol=1 / 255)
    assert drawn[:, 4, -4].std() < 1 / 255
    assert (drawn[:, :, 80] == 1).all()
    assert (drawn[:, :, 60:70].amin(1) < 1).all()
    # A plate of each colour, with white around it.
    plate = (drawn - torch.tensor(colour(0))[:, None, None] / 255).abs().amax(0) < 2 / 255
    assert plate[:, :80].sum() > 20
    assert not plate[:, 82:].any()


@pytest.mark.slow
def test_a_sheet_has_room_for_all_and_is_the_same_each_time() -> None:
    panels = [Panel(torch.rand(3, 40 + 7 * at, 50), f"panel {at} " * 20) for at in range(6)]
    entries = [Entry(colour(at), f"{at} > ref1:{at}") for at in range(9)]
    sheet = atlas.atlas(panels, entries)
    assert torch.equal(sheet, atlas.atlas(panels, entries))
    assert not torch.equal(sheet, atlas.atlas(panels, [*entries[:-1], Entry(None, "8 is kept")]))
    assert sheet.shape[0] > 2 * atlas.PANEL_PX
    for own in entries:
        is_own = (sheet == torch.tensor(own.colour, dtype=torch.uint8)).all(-1)
        assert is_own.sum() > 100
    wide = [Panel(torch.zeros(3, 10, 400), "wide"), Panel(torch.zeros(3, 400, 10), "high")]
    assert atlas.atlas(wide, entries).shape[1] < 3 * atlas.PANEL_PX
