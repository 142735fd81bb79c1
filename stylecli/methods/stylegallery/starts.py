"""First latents (section 3.5, init)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.methods.stylegallery import grids
from stylecli.methods.stylegallery.keysets import KeySet
from stylecli.tensors.seeds import generator

TINY = 1e-8


def start(
    clean: Float[Tensor, "c h w"],
    noise: Float[Tensor, "c h w"],
    how: str,
    seed: int,
) -> Float[Tensor, "c h w"]:
    """Latents before the first update, but for `adain`, which is `recoloured`.

    Args:
        clean: Of the content.
        noise: Of its inversion.
        how: Value of the setting `init`.
        seed: Of `noise`.
    """
    if how == "content":
        return clean
    if how == "noise":
        drawn = torch.randn(clean.shape, generator=generator("gallery", "init", seed))
        return drawn.to(clean)
    if how == "inv_chnorm":
        return _normalised(noise, (0,))
    if how == "inv_instnorm":
        return _normalised(noise, (1, 2))
    return noise


def recoloured(
    noise: Float[Tensor, "c h w"],
    labels: Int[Tensor, "h w"],
    wanted: Mapping[int, KeySet],
    noises: Sequence[Float[Tensor, "c _h _w"]],
    regions: Sequence[Int[Tensor, "_h _w"]],
) -> Float[Tensor, "c h w"]:
    """Give each region the means and deviations of the regions it looks at, channel by channel.

    Args:
        noise: Of the content's inversion.
        labels: Its regions; those that look at nothing stay.
        wanted: What each looks at.
        noises: Of every picture.
        regions: Likewise.
    """
    found = noise.clone()
    for region, keys in wanted.items():
        here = (labels == region).to(noise.device)
        cells = [
            noises[number][:, grids.of_regions(regions[number], some).to(noise.device)]
            for number, some in keys
        ]
        theirs = torch.cat(cells, dim=1)
        own = noise[:, here]
        # Of one cell the deviation is zero, not unknown.
        spread, mean = torch.std_mean(own, dim=1, correction=0, keepdim=True)
        to_spread, to_mean = torch.std_mean(theirs, dim=1, correction=0, keepdim=True)
        found[:, here] = (own - mean) / (spread + TINY) * to_spread + to_mean
    return found


def _normalised(latents: Tensor, dims: tuple[int, ...]) -> Tensor:
    spread, mean = torch.std_mean(latents, dim=dims, keepdim=True)
    normalised: Tensor = (latents - mean) / (spread + TINY)
    return normalised
