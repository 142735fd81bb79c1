"""Four looks that are a rule: what the RegionRoute paper names, as fixed operators on pixels.

They stand in for a large editor where none is at hand: the true answer to "make the cat pixel-art"
is then known to the pixel. Sizes are shares of the short side, so a look is the same at every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Picture = Float[Tensor, "3 h w"]

LUMA = (0.299, 0.587, 0.114)
# Blocks on the short side of pixel art, and steps of each channel.
BLOCKS, STEPS = 16, 5
# Night, neon pink and cyan, by brightness.
NEON = ((0.04, 0.02, 0.14), (0.93, 0.10, 0.70), (0.35, 0.98, 1.0))
# Waves across the short side, and how far they move it.
WAVES, SWAY = 5.0, 0.012


def pixel_art(picture: Picture) -> Picture:
    """Square blocks of few colours."""
    height, width = picture.shape[-2:]
    side = min(height, width) / BLOCKS
    cells = max(1, round(height / side)), max(1, round(width / side))
    small = F.adaptive_avg_pool2d(picture[None], cells)
    small = (small * (STEPS - 1)).round() / (STEPS - 1)
    return F.interpolate(small, (height, width), mode="nearest")[0]


def cyberpunk(picture: Picture) -> Picture:
    """Hard contrast in the colours of neon signs at night."""
    grey = torch.sigmoid(7 * (_luma(picture) - 0.45))
    dark, middle, light = (torch.tensor(colour).view(3, 1, 1) for colour in NEON)
    low = dark + (middle - dark) * (2 * grey).clamp(max=1)
    neon = low + (light - middle) * (2 * grey - 1).clamp(min=0)
    return (0.85 * neon + 0.15 * picture).clamp(0, 1)


def expressionism(picture: Picture) -> Picture:
    """Swaying outlines, loud colours, few of them."""
    grey = _luma(picture)
    # A sixth of a turn of the hue, then twice the saturation.
    third, root = (1 - 0.5) / 3, math.sqrt(0.75) / math.sqrt(3)
    row = [0.5 + third, third - root, third + root]
    turn = torch.tensor([row[-k:] + row[:-k] if k else row for k in range(3)])
    loud = grey + 2.0 * (torch.einsum("ij,jhw->ihw", turn, picture) - grey)
    return _swayed((loud.clamp(0, 1) * 3).round() / 3)


def line_art(picture: Picture) -> Picture:
    """Dark lines where colours change, on white paper."""
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 4
    kernels = torch.stack([kernel, kernel.T])[:, None]
    padded = F.pad(picture[:, None], (1, 1, 1, 1), mode="replicate")
    edges = F.conv2d(padded, kernels).square().sum(1).sqrt().amax(0, keepdim=True)
    return (1 - 2.0 * edges).clamp(0, 1).expand(3, -1, -1).contiguous()


def _luma(picture: Picture) -> Float[Tensor, "1 h w"]:
    return torch.einsum("c,chw->hw", torch.tensor(LUMA), picture)[None]


def _swayed(picture: Picture) -> Picture:
    height, width = picture.shape[-2:]
    short = min(height, width)
    y = torch.linspace(-1, 1, height) * height / short
    x = torch.linspace(-1, 1, width) * width / short
    right = SWAY * torch.sin(WAVES * math.pi * y)[:, None] * short / width * 2
    down = SWAY * torch.cos(WAVES * math.pi * x)[None] * short / height * 2
    grid = torch.stack(
        [
            torch.linspace(-1, 1, width)[None] + right.expand(height, width),
            torch.linspace(-1, 1, height)[:, None] + down.expand(height, width),
        ],
        dim=-1,
    )
    return F.grid_sample(picture[None], grid[None], align_corners=True, padding_mode="reflection")[
        0
    ].clamp(0, 1)


FILTERS: Mapping[str, Callable[[Picture], Picture]] = {
    "pixel_art": pixel_art,
    "cyberpunk": cyberpunk,
    "expressionism": expressionism,
    "line_art": line_art,
}
