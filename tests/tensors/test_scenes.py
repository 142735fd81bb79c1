"""Scenes tell the truth about where their things are seen."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors import scenes

PX = 48


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(red: float, green: float) -> Tensor:
    """Premultiplied RGBA with a hard edge."""
    axis = torch.linspace(-1, 1, 32)
    alpha = (axis[:, None] ** 2 + axis[None] ** 2 < 0.8).float()
    return torch.stack([red * alpha, green * alpha, torch.zeros(32, 32), alpha])


ICONS = [("red", disc(1.0, 0.0)), ("green", disc(0.0, 1.0)), ("both", disc(1.0, 1.0))]
GROUND = torch.zeros(3, PX, PX)
GROUND[2] = 1.0


@given(st.integers(0, 500), st.integers(1, 5), st.floats(0.0, 0.3))
def test_squares_stay_inside_and_apart(seed: int, count: int, overlap: float) -> None:
    placed = scenes.squares(count, overlap, generator(seed))
    assert len(placed) == count
    for one in placed:
        assert 0 <= one.x <= one.x + one.side <= 1 + 1e-9
        assert 0 <= one.y <= one.y + one.side <= 1 + 1e-9
        assert one.side <= scenes.MAX_SIDE
    for one, other in combinations(placed, 2):
        width = min(one.x + one.side, other.x + other.side) - max(one.x, other.x)
        height = min(one.y + one.side, other.y + other.side) - max(one.y, other.y)
        common = max(0.0, width) * max(0.0, height)
        assert common <= overlap * min(one.side, other.side) ** 2 + 1e-9


@given(st.integers(0, 500))
def test_the_picture_is_its_things_by_their_masks_on_the_ground(seed: int) -> None:
    scene = scenes.arrange(ICONS, GROUND, generator(seed), overlap=0.3)
    total = torch.stack([thing.mask for thing in scene.things]).sum(dim=0)
    assert total.max() <= 1 + 1e-5
    expected = (1 - total) * GROUND
    colours = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "both": (1.0, 1.0, 0.0)}
    for thing in scene.things:
        expected = expected + torch.tensor(colours[thing.name])[:, None, None] * thing.mask
    torch.testing.assert_close(scene.picture, expected, atol=1e-4, rtol=0)


def test_every_thing_is_seen_and_named_in_order() -> None:
    scene = scenes.arrange(ICONS, GROUND, generator(1))
    assert [thing.name for thing in scene.things] == ["red", "green", "both"]
    assert all(thing.mask.sum() > 20 for thing in scene.things)


def test_a_later_icon_hides_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    same = scenes.Square(0.2, 0.3, 0.5)
    monkeypatch.setattr(scenes, "squares", lambda count, *_: [same] * count)
    scene = scenes.arrange(ICONS[:2], GROUND, generator(0))
    back, front = scene.things
    assert front.mask.max() == 1
    assert (back.mask * (front.mask == 1)).max() == 0
    rows, columns = (front.mask > 0.5).nonzero(as_tuple=True)
    assert float(columns.float().mean() + 0.5) / PX == pytest.approx(0.45, abs=0.02)
    assert float(rows.float().mean() + 0.5) / PX == pytest.approx(0.55, abs=0.02)


def test_equal_generators_give_equal_scenes() -> None:
    first = scenes.arrange(ICONS, GROUND, generator(7))
    again = scenes.arrange(ICONS, GROUND, generator(7))
    assert torch.equal(first.picture, again.picture)
    assert not torch.equal(first.picture, scenes.arrange(ICONS, GROUND, generator(8)).picture)
