"""Means and deviations of channels: brought to 0 and 1, or to those of other latents."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# A channel of less deviation says nothing.
FLAT = 1e-6


def adain(
    content: Float[Tensor, "b c h w"], style: Float[Tensor, "1 c hs ws"]
) -> Float[Tensor, "b c h w"]:
    """Give latents the channel means and deviations of others (StyleID eq. 7)."""

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True)

    mean, deviation = statistics(content)
    style_mean, style_deviation = statistics(style)
    return (content - mean) / deviation * style_deviation + style_mean


def standardised(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Channels of mean 0 and deviation 1; flat ones are 0, and none is left out."""
    centred = rows - rows.mean(dim=0)
    spread = centred.std(dim=0) if len(rows) > 1 else centred.new_zeros(rows.shape[1])
    return torch.where(spread > FLAT, centred / spread.clamp(min=FLAT), 0.0)
