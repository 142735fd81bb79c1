from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.methods.regionroute.losses import Forms
from stylecli.methods.regionroute.measures import argmax_hit, footprint, inside_mass, iou, lift

MASK = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
PERFECT, UNIFORM = 0.01 * MASK, torch.full((1, 8), 0.01)


def test_a_perfect_map_and_one_that_knows_nothing() -> None:
    assert inside_mass(PERFECT, MASK).tolist() == pytest.approx([1.0])
    assert lift(PERFECT, MASK).tolist() == pytest.approx([4.0])
    assert iou(PERFECT, MASK).tolist() == [1.0]
    assert argmax_hit(PERFECT, MASK).tolist() == [True]
    assert inside_mass(UNIFORM, MASK).tolist() == pytest.approx([0.25])
    assert lift(UNIFORM, MASK).tolist() == pytest.approx([1.0])
    assert iou(UNIFORM, MASK).tolist() == [0.25]
    assert argmax_hit(MASK.flip(1), MASK).tolist() == [False]


def test_a_cell_counts_from_the_threshold_of_cover_on() -> None:
    maps = torch.tensor([[0.4, 0.8, 0.31, 0.29, 0.0, 0.0, 0.0, 0.0]])
    assert iou(maps, MASK).tolist() == pytest.approx([2 / 3])
    assert iou(maps, MASK, Forms(kappa=0.45)).tolist() == pytest.approx([2 / 4])


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 100))
def test_how_large_attention_is_makes_no_difference(seed: int, factor: float) -> None:
    maps = torch.rand(2, 16, generator=torch.Generator().manual_seed(seed)) + 0.01
    mask = torch.zeros(2, 16)
    mask[0, :3] = mask[1, 4:] = 1
    for measure in (inside_mass, lift):
        once, more = measure(maps, mask), measure(factor * maps, mask)
        assert more.tolist() == pytest.approx(once.tolist(), rel=1e-4)
    assert torch.equal(argmax_hit(factor * maps, mask), argmax_hit(maps, mask))


def test_a_map_without_attention_is_no_division_by_zero() -> None:
    nothing = torch.zeros(1, 8)
    assert inside_mass(nothing, MASK).tolist() == [0.0]
    assert lift(PERFECT, nothing).tolist() == [0.0]
    assert iou(nothing, nothing).tolist() == [0.0]
    assert footprint(nothing).tolist() == nothing.tolist()


def test_a_footprint_is_the_object_where_the_map_is_sharp() -> None:
    maps = torch.zeros(1, 100)
    maps[0, :12] = 0.02
    drawn = footprint(maps)
    assert (drawn[0, :12] > 0.9).all()
    assert (drawn[0, 12:] < 0.01).all()


def test_a_footprint_is_half_at_its_threshold() -> None:
    maps = torch.full((1, 100), 0.01)
    maps[0, :10] = 0.02
    assert footprint(maps, Forms(kappa=0.5))[0, 50].item() == pytest.approx(0.5)
    assert footprint(maps, Forms(kappa=0.25))[0, 50].item() > 0.9
