"""Regions at the size of an attention layer: which tokens belong to one, and which keys it offers.

A token spans so many cells of the latents each way (`backbone.layers.cells_per_token`); where the
latents' sides are no multiples of that, one token more shares them evenly.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from stylecli.tensors.cells import majority, mean_of_cells

How = Literal["area", "nearest"]
# With fewer keys a region's texture is hardly more than one colour (section 6.1).
FEW_KEYS = 8


def labels_at(labels: Int[Tensor, "h w"], span: int, how: How) -> Int[Tensor, "rows columns"]:
    """The region of every token.

    Args:
        labels: Of the cells.
        span: Cells to a token, each way.
        how: By `area` it is the region that covers most of the token, the smaller region (which has
            the greater number) where two cover as much; `nearest` is the token's first cell, as the
            authors' code has it, so that what lies between is lost.
    """
    return labels[::span, ::span] if how == "nearest" else majority(labels, size_at(labels, span))


def keys_at(cells: Bool[Tensor, "h w"], span: int, how: How) -> Int[Tensor, " keys"]:
    """The tokens that a region offers as keys, at least one, in the order of the layer.

    Args:
        cells: Of the region.
        span: Cells to a token, each way.
        how: By `area`, tokens that are covered to at least a half, grown by a token each way until
            there are enough keys; `nearest` as in `labels_at`, grown by nothing. Where that gives
            none, those that are covered most.

    Raises:
        ValueError: The region has no cell.
    """
    if not cells.any():
        raise ValueError("a region without a cell")
    covered = mean_of_cells(cells.double(), size_at(cells, span))
    chosen = cells[::span, ::span] if how == "nearest" else covered >= 0.5
    if not chosen.any():
        chosen = covered == covered.max()
    if how == "area":
        chosen = _grown(chosen)
    return chosen.flatten().nonzero()[:, 0]


def _grown(chosen: Bool[Tensor, "rows columns"]) -> Bool[Tensor, "rows columns"]:
    enough = min(FEW_KEYS, chosen.numel())
    while int(chosen.sum()) < enough:
        chosen = F.max_pool2d(chosen[None].float(), 3, stride=1, padding=1)[0] > 0
    return chosen


def size_at(cells: Shaped[Tensor, "h w"], span: int) -> tuple[int, int]:
    """Rows and columns of a picture's tokens."""
    height, width = cells.shape
    return -(-height // span), -(-width // span)


def of_regions(labels: Int[Tensor, "*grid"], numbers: tuple[int, ...]) -> Bool[Tensor, "*grid"]:
    """The cells of some regions together; of none, all cells."""
    if not numbers:
        return torch.ones_like(labels, dtype=torch.bool)
    return torch.isin(labels, torch.tensor(numbers, dtype=labels.dtype, device=labels.device))
