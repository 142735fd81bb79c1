"""Arithmetic of soft regions: growing, feathering, latent cells, overlaps and blending.

Masks lie in [0, 1] throughout. Ones and zeros are exact where they should be: what a region does
not touch keeps its bits, and a region that is everything is no region at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.errors import ItemError

# Beyond four deviations a Gaussian holds 6e-5 of its weight; there a feather ends, so that what is
# far from an edge stays exactly zero or one.
REACH_DEVIATIONS = 4
# Rows that are blurred at once.
BLOCK_ROWS = 256
# Soft masks that were drawn to meet may sum to a little more than one.
MAX_EXCESS = 1e-3


def grow(mask: Float[Tensor, "h w"], px: int) -> Float[Tensor, "h w"]:
    """Dilate, or erode where `px` is negative, by the pixels with ``dx**2 + dy**2 <= px**2``.

    Every value becomes the greatest (smallest) within that disc, so soft edges keep their shape.
    Nothing is known outside the picture: a region does not shrink from the picture's edge. The time
    is that of about ``4 * min(px, h)`` passes over the mask.

    >>> grow(torch.tensor([[0.0, 0.0, 1.0]]), 1).tolist()
    [[0.0, 1.0, 1.0]]
    """
    if px < 0:
        return -_dilate(-mask, -px)
    return _dilate(mask, px)


def feather(mask: Float[Tensor, "h w"], deviation_px: float) -> Float[Tensor, "h w"]:
    """Blur by a Gaussian, as if the border pixels went on outside.

    What is one (zero) within four deviations stays exactly one (zero).

    Raises:
        ValueError: A negative deviation.
    """
    if deviation_px < 0:
        raise ValueError(f"a deviation of {deviation_px} px")
    if deviation_px == 0:
        return mask
    blurred = _blurred(_blurred(mask, deviation_px).T, deviation_px).T.contiguous()
    # The weights sum to one but for their rounding, which nothing may show.
    return blurred.clamp(mask.amin(), mask.amax())


def to_latent(
    mask: Float[Tensor, "h w"],
    cell_px: int,
    how: Literal["area", "threshold", "any", "nearest"],
) -> Float[Tensor, "1 1 hc wc"]:
    """One value for each cell of ``cell_px`` by ``cell_px`` pixels.

    Args:
        how: `area` is the mean; `threshold` is one where that is at least a half, else zero; `any`
            is the maximum; `nearest` is the pixel right below the middle.

    Raises:
        ValueError: A side is no multiple of a cell.

    >>> to_latent(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2, "area").item()
    0.25
    """
    height, width = mask.shape
    if height % cell_px or width % cell_px:
        raise ValueError(f"{height}x{width} is not made of cells of {cell_px} px")
    if how == "nearest":
        middle = cell_px // 2
        return mask[None, None, middle::cell_px, middle::cell_px].clone()
    cells = mask.view(height // cell_px, cell_px, width // cell_px, cell_px)
    if how == "any":
        return cells.amax(dim=(1, 3))[None, None]
    # In float64, because a device may multiply by the reciprocal of nine and miss one.
    area = cells.double().mean(dim=(1, 3))[None, None]
    return (area >= 0.5 if how == "threshold" else area).to(mask.dtype)


def shares(
    masks: Sequence[Float[Tensor, "1 1 h w"]],
    overlap: Literal["over", "normalise", "error"],
) -> tuple[list[Float[Tensor, "1 1 h w"]], Float[Tensor, "1 1 h w"]]:
    """What each region, and the background behind them, gets of every place; together one.

    Args:
        masks: At least one; later regions lie on top of earlier ones.
        overlap: `over` paints them in that order, ``M_i * prod_{j>i} (1 - M_j)``; `normalise`
            divides by ``max(1, sum M)``; `error` allows no overlap.

    Raises:
        ItemError: Under `error`, the masks sum to more than one somewhere.
    """
    if overlap == "over":
        return _painted(masks)
    total = torch.stack(list(masks)).sum(dim=0)
    greatest = total.max().item()
    if overlap == "error" and greatest > 1 + MAX_EXCESS:
        raise ItemError(
            f"the regions overlap: their masks sum to {greatest:.3g} where they do so most",
            fix="draw them apart, or allow it: overlap over (later ones on top) or normalise",
        )
    whole = total.clamp_min(1)
    return [mask / whole for mask in masks], (1 - total).clamp_min(0)


def compose(
    parts: Sequence[Float[Tensor, "b c h w"]], weights: Sequence[Float[Tensor, "1 1 h w"]]
) -> Float[Tensor, "b c h w"]:
    """The weighted sum; where one weight is 1 and the others 0, that part's bits.

    Args:
        parts: Of one dtype, which the result has.
        weights: A partition of unity, one for each part.
    """
    # Negative zero is what adds nothing to any float, the sign of a zero included.
    total = torch.full_like(parts[0], -0.0)
    for part, weight in zip(parts, weights, strict=True):
        weight = weight.to(part)
        total = torch.where(weight == 0, total, total + weight * part)
    return total


def composite(
    result: Float[Tensor, "3 h w"],
    original: UInt8[Tensor, "h w 3"],
    mask: Float[Tensor, "h w"],
) -> UInt8[Tensor, "h w 3"]:
    """The result inside the mask, the original outside, mixed in between; on the CPU.

    Args:
        result: In [0, 1]; what lies outside is cut.

    Returns:
        Pixels that are the original's bytes wherever the mask is zero.
    """
    share = mask.detach().cpu().float()[..., None]
    inside = result.detach().cpu().float().clamp(0, 1).permute(1, 2, 0) * 255
    outside = original.cpu()
    mixed = (share * inside + (1 - share) * outside).round().to(torch.uint8)
    return torch.where(share == 0, outside, mixed)


def _dilate(mask: Float[Tensor, "h w"], radius: int) -> Float[Tensor, "h w"]:
    """Row by row of the disc, from its poles to its equator, where the rows only become longer."""
    found, across, reach = mask.clone(), mask, 0
    for offset in range(radius, -1, -1):
        across = _widen(across, reach, math.isqrt(radius**2 - offset**2))
        reach = math.isqrt(radius**2 - offset**2)
        if offset < len(mask):
            found = _with_shifted(found, across, offset, dim=0)
    return found


def _widen(across: Float[Tensor, "h w"], reach: int, wanted: int) -> Float[Tensor, "h w"]:
    """Maxima over ``x - wanted .. x + wanted`` from those over ``x - reach .. x + reach``."""
    while reach < wanted and reach < across.shape[1]:
        # Windows further apart would leave a gap between them.
        step = min(wanted - reach, reach + 1)
        across = _with_shifted(across, across, step, dim=1)
        reach += step
    return across


def _with_shifted(
    values: Float[Tensor, "h w"], moved: Float[Tensor, "h w"], by: int, dim: int
) -> Float[Tensor, "h w"]:
    """The greatest of `values` and of `moved` shifted both ways."""
    kept = max(values.shape[dim] - by, 0)
    found = values.clone()
    for to, since in ((by, 0), (0, by)):
        target = found.narrow(dim, min(to, values.shape[dim]), kept)
        torch.maximum(target, moved.narrow(dim, min(since, values.shape[dim]), kept), out=target)
    return found


def _blurred(mask: Float[Tensor, "h w"], deviation_px: float) -> Float[Tensor, "h w"]:
    """Down the columns, some rows at a time, each block by a matrix over the rows it sees."""
    reach = math.ceil(REACH_DEVIATIONS * deviation_px)
    offsets = torch.arange(-reach, reach + 1, device=mask.device)
    weights = (-0.5 * (offsets.double() / deviation_px).square()).exp()
    weights = weights / weights.sum()
    height = len(mask)
    found = torch.empty_like(mask)
    for start in range(0, height, BLOCK_ROWS):
        rows = torch.arange(start, min(start + BLOCK_ROWS, height), device=mask.device)
        first = max(start - reach, 0)
        seen = mask[first : int(rows[-1]) + reach + 1].double()
        places = (rows[:, None] + offsets).clamp(0, height - 1) - first
        matrix = torch.zeros(len(rows), len(seen), dtype=torch.float64, device=mask.device)
        matrix.scatter_add_(1, places, weights.expand(len(rows), -1))
        found[rows] = (matrix @ seen).to(mask.dtype)
    return found


def _painted(
    masks: Sequence[Float[Tensor, "1 1 h w"]],
) -> tuple[list[Float[Tensor, "1 1 h w"]], Float[Tensor, "1 1 h w"]]:
    """From the topmost down: each takes its share of what those above have left."""
    left = torch.ones_like(masks[0])
    found = []
    for mask in reversed(masks):
        found.append(mask * left)
        left = left * (1 - mask)
    return found[::-1], left
