"""Means and deviations of latent channels, and latents that take over those of others."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def adain(
    content: Float[Tensor, "b c h w"], style: Float[Tensor, "1 c hs ws"]
) -> Float[Tensor, "b c h w"]:
    """Give latents the channel means and deviations of others (StyleID eq. 7)."""

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True)

    mean, deviation = statistics(content)
    style_mean, style_deviation = statistics(style)
    return (content - mean) / deviation * style_deviation + style_mean
