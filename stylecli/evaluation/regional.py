"""Inside and outside a mask: RegionRoute's RSE-Score, and forms of it that do not leak.

A mask is 1 where the picture was to be changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from stylecli.errors import ItemError
from stylecli.evaluation.content import luma

# Authors scale squared errors differently: values in [-1, 1], or channels added up.
MSE_BG_SCALES: Mapping[str, float] = {"unit": 1.0, "pm1": 4.0, "sum": 3.0}
BAND_PX = 16
TAPER_PX = 10
PADDING, MIN_PADDING_PX = 0.05, 4
# How often grain alone may be taken for a movement.
FALSE_PEAK = 1e-3


def background_mean(values: Float[Tensor, "*c h w"], mask: Float[Tensor, "h w"]) -> float:
    """Mean of values outside the mask, over channels too, weighted where the mask is soft.

    Raises:
        ItemError: There is no outside.
    """
    outside = 1 - mask
    if not float(outside.sum()):
        raise ItemError("the mask covers the whole picture", fix="give a mask with a background")
    return float((outside * values).sum() / outside.expand_as(values).sum())


def mse_bg(
    a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "h w"]
) -> float:
    """Squared error of values in [0, 1], over background pixels and channels.

    Raises:
        ItemError: There is no background.
    """
    return background_mean((a - b).square().mean(dim=1)[0], mask)


def psnr_bg(
    a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "h w"]
) -> float:
    """The same in dB; infinite for an untouched background."""
    error = mse_bg(a, b, mask)
    return math.inf if error == 0 else -10 * math.log10(error)


def paste_inside(
    output: Float[Tensor, "b 3 h w"],
    content: Float[Tensor, "b 3 h w"],
    mask: Float[Tensor, "h w"],
) -> Float[Tensor, "b 3 h w"]:
    """The output with the content inside the mask.

    A network's receptive field looks into the region from outside; with this there is nothing to
    see.
    """
    return torch.lerp(output, content, mask)


def outside_band(mask: Float[Tensor, "h w"], band_px: int = BAND_PX) -> Float[Tensor, "h w"]:
    """The mask grown by so many pixels in every direction, diagonals too."""
    return F.max_pool2d(mask[None, None], 2 * band_px + 1, stride=1, padding=band_px)[0, 0]


def bg_shift(
    a: Float[Tensor, "1 3 h w"], b: Float[Tensor, "1 3 h w"], mask: Float[Tensor, "h w"]
) -> float:
    """How far the background moved, in pixels, by phase correlation.

    A picture that was framed anew has a huge error outside the mask without any style there. 0 also
    where nothing stands out from what chance alone would give, as on a plain wall.

    Raises:
        ItemError: There is no background.
    """
    background = _tapered(mask)
    if not float(background.sum()):
        raise ItemError("the mask covers the whole picture", fix="give a mask with a background")

    def spectrum(image: Tensor) -> Tensor:
        plane = luma(image)[0, 0]
        mean = (plane * background).sum() / background.sum()
        found: Tensor = torch.fft.fft2((plane - mean) * background)
        return found

    first, second = spectrum(a), spectrum(b)
    cross = first * second.conj()
    surface = torch.fft.ifft2(cross / cross.abs().clamp_min(1e-12)).real
    # The highest of so many normal values, each with the variance that random phases leave.
    chance = math.sqrt(2 * math.log(surface.numel() / FALSE_PEAK) / float(background.sum()))
    if float(surface.max()) < chance:
        return 0.0
    height, width = a.shape[-2:]
    row, column = divmod(int(surface.argmax()), width)
    return math.hypot(min(row, height - row), min(column, width - column))


def _tapered(mask: Float[Tensor, "h w"]) -> Float64[Tensor, "h w"]:
    """Weights that fade towards the region and the edge.

    The hole stands at the same place in both pictures: with a sharp rim it is the strongest
    correlation there is, at no shift at all.
    """
    # In double: the rounding of a flat background has a phase as well.
    height, width = mask.shape
    reach = max(1, min(TAPER_PX, min(height, width) // 16))
    near = outside_band(mask, reach).double()
    blurred = F.avg_pool2d(
        (1 - near)[None, None], 2 * reach + 1, stride=1, padding=reach, count_include_pad=False
    )[0, 0]
    rows, columns = (
        torch.hann_window(side + 2, periodic=False, dtype=torch.float64, device=mask.device)[1:-1]
        for side in (height, width)
    )
    return blurred * rows[:, None] * columns


def rsm(cosine: float) -> float:
    """A cosine on [0, 1], as RegionRoute prints it.

    >>> round(rsm(0.2256), 4)
    0.6128
    """
    return (cosine + 1) / 2


def rsm_box(mask: Float[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the region with a margin, cut at the picture's edge.

    Raises:
        ItemError: The mask is empty.
    """
    inside = mask >= 0.5
    if not inside.any():
        raise ItemError("the mask is empty", fix="give a mask with a region")
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    margin = max(MIN_PADDING_PX, math.ceil(PADDING * max(bottom - top, right - left)))
    height, width = mask.shape
    return (
        max(0, top - margin),
        max(0, left - margin),
        min(height, bottom + margin),
        min(width, right + margin),
    )


def square_crop(
    image: UInt8[Tensor, "h w 3"], box: tuple[int, int, int, int], *, fit: str = "square"
) -> tuple[UInt8[Tensor, "hc wc 3"], float]:
    """A box as a picture for a network that sees the middle square of what it is given.

    Args:
        fit: ``clip`` leaves the box as it is, and its ends unseen; ``letterbox`` adds black bands;
            ``square`` widens the short side within the picture first.

    Returns:
        The crop, and the share of the box that the network will not see.
    """
    top, left, bottom, right = box
    if fit == "clip":
        tall, wide = bottom - top, right - left
        return image[top:bottom, left:right], 1 - min(tall, wide) / max(tall, wide)
    if fit == "square":
        side = max(bottom - top, right - left)
        top, bottom = _widened(top, bottom, side, image.shape[0])
        left, right = _widened(left, right, side, image.shape[1])
    crop = image[top:bottom, left:right]
    tall, wide = crop.shape[:2]
    side = max(tall, wide)
    canvas = torch.zeros(side, side, 3, dtype=torch.uint8)
    row, column = (side - tall) // 2, (side - wide) // 2
    canvas[row : row + tall, column : column + wide] = crop
    return canvas, 0.0


def _widened(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    """As near to `side` as fits, around the same middle where it can be."""
    side = min(side, limit)
    if high - low >= side:
        return low, high
    start = min(max(0, low - (side - (high - low)) // 2), limit - side)
    return start, start + side
