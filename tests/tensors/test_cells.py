"""Cells hold what their area holds, whatever the sizes."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors.cells import majority, mean_of_cells

sides = st.integers(1, 9)
seeds = st.integers(0, 10_000)


def magnified(values: Tensor, size: tuple[int, int]) -> Tensor:
    """So large that every cell is made of whole pixels: `[h, w, pixels]`."""
    for axis, cells in enumerate(size):
        times = math.lcm(values.shape[axis], cells) // values.shape[axis]
        values = values.repeat_interleave(times, dim=axis)
    tall, wide = values.shape[0] // size[0], values.shape[1] // size[1]
    return values.view(size[0], tall, size[1], wide).permute(0, 2, 1, 3).flatten(2)


@given(sides, sides, sides, sides, seeds)
def test_a_cell_holds_the_mean_of_its_area(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    values = torch.randn(height, width, generator=torch.Generator().manual_seed(seed)).double()
    found = mean_of_cells(values, (rows, columns))
    torch.testing.assert_close(found, magnified(values, (rows, columns)).mean(dim=2))


@pytest.mark.slow
@given(sides, sides, sides, sides, seeds)
def test_a_cell_has_the_label_of_most_of_its_area(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    """Of as much of two, the greater one."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (height, width), generator=random)
    found = majority(labels, (rows, columns))
    for row, cells in enumerate(magnified(labels, (rows, columns)).tolist()):
        for column, pixels in enumerate(cells):
            counts = Counter(pixels)
            assert int(found[row, column]) == max(counts, key=lambda n: (counts[n], n))


@given(sides, sides, seeds)
def test_the_same_size_changes_nothing(height: int, width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 9, (height, width), generator=random)
    values = torch.randn(2, height, width, generator=random)
    assert torch.equal(majority(labels, (height, width)), labels)
    torch.testing.assert_close(mean_of_cells(values, (height, width)), values)


@given(sides, sides, seeds)
def test_turned_maps_give_turned_cells(rows: int, columns: int, seed: int) -> None:
    labels = torch.randint(0, 3, (13, 7), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(majority(labels.T, (columns, rows)), majority(labels, (rows, columns)).T)


def test_labels_may_be_large_and_far_apart() -> None:
    labels = torch.tensor([[10**9, 10**9, 3, 10**9 + 1]])
    assert majority(labels, (1, 2)).tolist() == [[10**9, 10**9 + 1]]
