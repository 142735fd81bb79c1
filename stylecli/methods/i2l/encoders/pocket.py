"""Pocket-clip as the encoder: what its stages see in each cell of a 4 x 4 grid."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 4
PX = 64
# Pixels, and what leaves the stem and the first three stages.
CHANNELS = (3, 12, 48, 96, 192)
# The last map has one value a cell and no deviation.
WIDTH = 2 * sum(CHANNELS[:-1]) + CHANNELS[-1]


class PocketTokens:
    """Means and deviations over cells, of pixels and of four maps: colours, strokes, things."""

    width, tokens, px = WIDTH, GRID * GRID, PX

    def __init__(self, clip: nn.Module) -> None:
        self._net: Any = clip.visual

    @torch.no_grad()
    def __call__(self, pictures: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 16 510"]:
        """Tokens of pictures in [-1, 1]."""
        net = self._net
        maps = [pictures, net.stem(pictures)]
        for stage in (net.layer1, net.layer2, net.layer3):
            maps.append(stage(maps[-1]))
        found = [statistic for each in maps[:-1] for statistic in _statistics(each)]
        grid = torch.cat([*found, maps[-1]], dim=1)
        return grid.flatten(2).mT


def _statistics(each: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c 4 4"]]:
    cell = each.shape[-1] // GRID
    mean = F.avg_pool2d(each, cell)
    square = F.avg_pool2d(each.square(), cell)
    return [mean, (square - mean.square()).clamp(min=0).sqrt()]
