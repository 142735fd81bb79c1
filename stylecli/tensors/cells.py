"""Maps brought to another number of cells by exact areas, whatever the sizes are.

A cell covers its share of the map, down to fractions of the map's own cells; nothing is drawn from
what lies in a cell's middle, so that no thin stripe is lost or doubled.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def mean_of_cells(
    values: Float[Tensor, "*batch height width"], size: tuple[int, int]
) -> Float[Tensor, "*batch h w"]:
    """The mean over each cell's area.

    >>> mean_of_cells(torch.tensor([[0.0, 3.0, 6.0]]), (1, 2)).tolist()
    [[1.0, 5.0]]
    """
    height, width = values.shape[-2:]
    covered = _covered(height, size[0]) @ values.double() @ _covered(width, size[1]).T
    return (covered / (height * width)).to(values.dtype)


def majority(labels: Int[Tensor, "height width"], size: tuple[int, int]) -> Int[Tensor, "h w"]:
    """The label that covers most of each cell; of equal ones the greatest.

    >>> majority(torch.tensor([[0, 0, 7, 7, 7, 0]]), (1, 2)).tolist()
    [[0, 7]]
    """
    rows, columns = (_covered(own, cells) for own, cells in zip(labels.shape, size, strict=True))
    best = torch.full(size, -1.0, dtype=torch.double)
    winner = torch.zeros(size, dtype=torch.long)
    for label in labels.unique().tolist():
        # Whole numbers, so that equal areas are equal.
        area = rows @ (labels == label).double() @ columns.T
        winner[area >= best] = label
        best = torch.maximum(area, best)
    return winner


def _covered(length: int, cells: int) -> Float[Tensor, "cells length"]:
    """How much of each place each cell covers, in parts of which a cell has ``length``."""
    start = torch.arange(cells)[:, None] * length
    place = torch.arange(length)[None] * cells
    left, right = torch.maximum(start, place), torch.minimum(start + length, place + cells)
    return (right - left).clamp(min=0).double()
