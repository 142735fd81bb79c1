"""Encoders for machines without SigLIP: latents of a frozen autoencoder, or random projections."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

# Latents of one token, a side.
PATCH = 4
# Of latents a picture has, a side: 64 tokens.
LATENTS = 32
Encode = Callable[[Float[Tensor, "b 3 px px"]], Float[Tensor, "b c h w"]]


class VaePatches:
    """Scaled latents, 4 x 4 a token, with their places."""

    def __init__(self, encode: Encode, *, channels: int, latent_px: int) -> None:
        """Take `encode`, which makes 32 x 32 latents of pictures of 32 x `latent_px` in [-1, 1]."""
        self._encode = encode
        self.width = PATCH * PATCH * channels
        self.tokens = (LATENTS // PATCH) ** 2
        self.px = LATENTS * latent_px

    def __call__(self, pictures: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b t e"]:
        """Tokens of pictures in [-1, 1]."""
        patches = F.pixel_unshuffle(self._encode(pictures).float(), PATCH)
        places = positions(LATENTS // PATCH, self.width).to(patches.device)
        return patches.flatten(2).mT + places


class RandomPatches:
    """Pixels of 8 x 8 px through a fixed random matrix, with their places; for tests."""

    width, tokens, px = 128, 64, 64
    _PATCH = 8

    def __init__(self) -> None:
        inside = 3 * self._PATCH**2
        drawn = torch.randn(inside, self.width, generator=Generator().manual_seed(0))
        self._matrix = drawn / math.sqrt(inside)

    def __call__(self, pictures: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b 64 128"]:
        """Tokens of pictures in [-1, 1]."""
        patches = F.pixel_unshuffle(pictures.float(), self._PATCH).flatten(2).mT
        places = positions(self.px // self._PATCH, self.width).to(patches.device)
        return patches @ self._matrix.to(patches.device) + places


def positions(side: int, width: int) -> Float[Tensor, "places width"]:
    """Sines and cosines of rows in the first half, of columns in the second, row by row.

    Wave lengths are as in "Attention is all you need".
    """
    quarter = width // 4
    rates = 10_000.0 ** (-torch.arange(quarter) / quarter)
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
