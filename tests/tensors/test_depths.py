"""Clusters fall apart where their depths do, and only there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors import depths
from tests.reference import stylegallery_regions as explicit

seeds = st.integers(0, 10_000)
values_of_many = st.lists(
    st.floats(-100, 100, width=32, allow_subnormal=False), min_size=2, max_size=25
)


def error(values: Tensor, upper: Tensor) -> float:
    groups = (values[upper].double(), values[~upper].double())
    return sum(float(((group - group.mean()) ** 2).sum()) for group in groups)


@given(values_of_many)
def test_the_cut_is_the_best_of_all(values: list[float]) -> None:
    found = torch.tensor(values)
    assume(len(found.unique()) > 1)
    least, _ = explicit.two_means(found.double())
    upper = found > depths.two_means(found)
    assert 0 < int(upper.sum()) < len(found)
    assert error(found, upper) == pytest.approx(least, rel=1e-6, abs=1e-6)


@given(seeds, st.integers(2, 30))
def test_of_separate_groups_each_is_found(seed: int, count: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(count, generator=random) * 0.3
    is_near = torch.rand(count, generator=random) > 0.5
    assume(0 < int(is_near.sum()) < count)
    values = values + 0.6 * is_near
    assert torch.equal(values > depths.two_means(values), is_near)


@pytest.mark.parametrize("far_off", [0.0, 1e6])
def test_a_common_offset_moves_no_cut(far_off: float) -> None:
    values = torch.tensor([0.0, 1.0, 4.0, 5.0, 5.5])
    assert depths.two_means(values + far_off) == 1.0 + far_off


def ramp(least: float, most: float, cells: int) -> tuple[Tensor, Tensor]:
    """One cluster in a row, its depths spread evenly."""
    return torch.zeros(1, cells, dtype=torch.long), torch.linspace(least, most, cells)[None]


@pytest.mark.parametrize(("most", "parts"), [(0.70, 1), (0.80, 1), (0.86, 2), (1.0, 2)])
def test_what_reaches_far_enough_is_split(most: float, parts: int) -> None:
    """Nine tenths of an even slope count."""
    labels, depth = ramp(0.0, most, 101)
    assert len(depths.split(labels, depth, span=0.75, smallest=20).unique()) == parts


def test_a_reach_of_just_the_span_is_enough() -> None:
    labels, depth = ramp(0.0, 1.0, 32)
    reach = depths.reach(depth.flatten())
    assert len(depths.split(labels, depth, span=reach, smallest=1).unique()) == 2
    assert len(depths.split(labels, depth, span=reach + 1e-6, smallest=1).unique()) == 1


@pytest.mark.parametrize(("cells", "parts"), [(19, 1), (20, 2)])
def test_small_clusters_stay_whole(cells: int, parts: int) -> None:
    labels, depth = ramp(0.0, 1.0, cells)
    assert len(depths.split(labels, depth, span=0.75, smallest=20).unique()) == parts


def test_a_few_cells_at_either_end_are_no_reach() -> None:
    labels, depth = torch.zeros(1, 100, dtype=torch.long), torch.full((1, 100), 0.5)
    depth[0, :4], depth[0, -4:] = 0.0, 1.0
    assert not depths.split(labels, depth, span=0.75, smallest=20).any()


@given(seeds, st.floats(0.0, 1.0))
def test_splitting_is_what_it_says(seed: int, span: float) -> None:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (9, 8), generator=random)
    depth = torch.rand(9, 8, generator=random)
    found = depths.split(labels, depth, span=span, smallest=20)
    assert torch.equal(found, explicit.split(labels, depth, span, 20))


def test_equal_depths_are_no_two_parts_even_without_a_span() -> None:
    labels, depth = torch.zeros(5, 5, dtype=torch.long), torch.full((5, 5), 0.3)
    assert not depths.split(labels, depth, span=0.0, smallest=1).any()


def test_outliers_do_not_squeeze_the_rest() -> None:
    depth = torch.linspace(1, 2, 1024).view(32, 32)
    depth[0, 0], depth[31, 31] = -500.0, 900.0
    found = depths.normalised(depth, (32, 32))
    assert found is not None
    assert float(found[16:].mean() - found[:16].mean()) > 0.45
    assert float(found.min()) == 0.0
    assert float(found.max()) == pytest.approx(1.0, abs=1e-4)


@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_depths_of_any_size_end_between_0_and_1(seed: int, height: int, width: int) -> None:
    depth = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) * 300
    found = depths.normalised(depth, (6, 5))
    assert found is None or (found.shape == (6, 5) and 0 <= found.min() <= found.max() <= 1)


@pytest.mark.parametrize(
    "depth",
    [
        torch.full((9, 9), 4.0),
        torch.full((9, 9), torch.nan),
        torch.arange(81.0).view(9, 9).index_fill(0, torch.tensor([3]), torch.inf),
    ],
)
def test_flat_and_broken_depths_tell_nothing(depth: Tensor) -> None:
    assert depths.normalised(depth, (4, 4)) is None
    assert depths.between_ends(depth) is None
