"""Object masks on the grid of attention maps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# From this share of a cell on, the cell is the object's.
HALF = 0.5


def on_grid(mask: Float[Tensor, "b h w"], grid: tuple[int, int]) -> Float[Tensor, "b n"]:
    """The share of each cell that a mask covers, row after row.

    Exact for any sizes: a pixel on a border counts for both cells by what lies in each, so thin
    parts keep their area. Adaptive pooling would count such a pixel whole, twice.

    Args:
        mask: In [0, 1].
        grid: Rows and columns.
    """
    rows, columns = (
        _shares(size, cells, mask.device) for size, cells in zip(mask.shape[1:], grid, strict=True)
    )
    return (rows @ mask.double() @ columns.T).flatten(1).to(mask.dtype)


def hard(mask: Float[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """The object's cells: at least half covered; of objects that have none, half of the most.

    Empty only where the mask is.
    """
    most = mask.amax(dim=1, keepdim=True)
    level = torch.where(most >= HALF, torch.full_like(most, HALF), HALF * most)
    return (mask >= level) & (mask > 0)


def _shares(size: int, cells: int, device: torch.device) -> Float[Tensor, "cells size"]:
    """What part of each cell each pixel is, along one side; every row sums to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64, device=device) * (size / cells)
    pixels = torch.arange(size, dtype=torch.float64, device=device)
    start = torch.maximum(edges[:-1, None], pixels)
    stop = torch.minimum(edges[1:, None], pixels + 1)
    return (stop - start).clamp(min=0) * (cells / size)
