"""The distance of CLIP embeddings, against its definition written out pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stylecli.errors import ItemError
from stylecli.evaluation.cmmd import KernelSums, cmmd
from stylecli.evaluation.frechet import Table


def unit(rows: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


def by_definition(x: Tensor, y: Tensor, *, unbiased: bool) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        square = sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))
        return math.exp(-square / (2 * 10**2))

    def within(rows: Tensor) -> float:
        pairs = [
            kernel(a, b)
            for i, a in enumerate(rows)
            for j, b in enumerate(rows)
            if i != j or not unbiased
        ]
        return sum(pairs) / len(pairs)

    between = [kernel(a, b) for a in x for b in y]
    return 1000 * (within(x) + within(y) - 2 * sum(between) / len(between))


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("block", [3, 4, 100])
def test_it_is_its_definition_whatever_the_tiles(unbiased: bool, block: int) -> None:
    x, y = unit(11, 5, 1), unit(7, 5, 2)
    expected = by_definition(x, y, unbiased=unbiased)
    assert cmmd(x, y, unbiased=unbiased, block=block) == pytest.approx(expected, abs=1e-9)


def test_orthogonal_and_antipodal_vectors_are_as_far_as_arithmetic_says() -> None:
    one, other = torch.eye(2)
    assert cmmd(one[None], other[None]) == pytest.approx(2000 * (1 - math.exp(-0.01)))
    assert round(cmmd(one[None], other[None]), 4) == 19.9003
    assert round(cmmd(one[None], -one[None]), 4) == 39.6027


def test_a_set_is_at_no_distance_from_itself() -> None:
    x = unit(20, 6, 3)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)
    assert cmmd(x, x, unbiased=True) < 0


def test_the_unbiased_form_averages_zero_over_equal_distributions() -> None:
    draws = torch.tensor(
        [cmmd(unit(12, 4, 2 * i), unit(10, 4, 2 * i + 1), unbiased=True) for i in range(300)]
    )
    assert abs(float(draws.mean())) < 3 * float(draws.std()) / math.sqrt(len(draws))
    assert (draws < 0).any()
    biased = [cmmd(unit(12, 4, 2 * i), unit(10, 4, 2 * i + 1)) for i in range(50)]
    assert min(biased) > 0


@pytest.mark.parametrize("unbiased", [False, True])
def test_leaving_a_group_out_is_the_distance_of_the_others(unbiased: bool) -> None:
    x, y = unit(23, 5, 4), unit(9, 5, 5)
    # The third group has nobody.
    groups = torch.tensor([0, 1, 3, 4]).repeat(6)[:23]
    found = KernelSums.of(x, y, groups, block=6).jackknife(unbiased=unbiased)
    assert sorted(found) == [0, 1, 3, 4]
    for group, value in found.items():
        expected = cmmd(x[groups != group], y, unbiased=unbiased)
        assert value == pytest.approx(expected, abs=1e-9)


def test_one_group_or_one_picture_of_the_rest_gives_no_jackknife() -> None:
    x = unit(3, 4, 6)
    assert KernelSums.of(x, x, torch.zeros(3, dtype=torch.long)).jackknife() == {}
    assert KernelSums.of(x, x, torch.tensor([0, 0, 1])).jackknife() == {}


def test_one_picture_is_enough_for_the_published_form_only() -> None:
    x, y = unit(1, 4, 7), unit(5, 4, 8)
    assert cmmd(x, y) > 0
    with pytest.raises(ItemError, match="needs 2 pictures of each, and there is 1"):
        cmmd(x, y, unbiased=True)


def test_features_that_are_not_finite_are_refused() -> None:
    x = unit(4, 4, 9)
    with pytest.raises(ItemError, match="not finite"):
        cmmd(x, x / 0)


class Watched:
    """A table that notes how many of its rows were asked for at once."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.most = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> Tensor:
        found = self.rows[rows]
        self.most = max(self.most, len(found))
        return found


def test_no_more_than_a_block_of_either_set_is_in_memory() -> None:
    x, y = Watched(unit(50, 4, 10)), Watched(unit(30, 4, 11))
    assert isinstance(x, Table)
    found = cmmd(x, y, block=8)
    assert (x.most, y.most) == (8, 8)
    assert found == pytest.approx(cmmd(x.rows, y.rows), abs=1e-9)
