"""What is where, whatever its colours: distances of a transformer's tokens to those of the content.

Maps have shape (1, channels, height, width); tokens that form no grid are a column of width 1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

# Below it a channel is constant over the picture, and has no shape to compare.
EPSILON = 1e-5


def self_similarity(tokens: Float[Tensor, "1 c h w"]) -> Float[Tensor, "n n"]:
    """Cosines of all tokens of a picture with one another (Shechtman & Irani 2007)."""
    rows = F.normalize(tokens[0].flatten(1).T, dim=1)
    return rows @ rows.T


def structure_distance(
    output: Float[Tensor, "1 c h w"], content: Float[Tensor, "1 c h w"]
) -> Float[Tensor, ""]:
    """Mean squared difference of self-similarities (Tumanyan et al. 2022, sec. 3.2).

    Args:
        output: Keys of an attention layer, heads side by side.
        content: The same of the content.
    """
    return (self_similarity(output) - self_similarity(content)).square().mean()


def standardised(features: Float[Tensor, "1 c h w"]) -> Float[Tensor, "1 c h w"]:
    """Every channel with mean 0 and variance 1 over the picture: what style is told by is gone."""
    centred = features - features.mean(dim=(2, 3), keepdim=True)
    spread = centred.square().mean(dim=(2, 3), keepdim=True)
    return centred / (spread + EPSILON).sqrt()


def content_distance(
    output: Float[Tensor, "1 c h w"], content: Float[Tensor, "1 c h w"]
) -> Float[Tensor, ""]:
    """Mean squared difference of standardised features.

    Unmoved by a gain and an offset of each channel; up to 4, where all is turned round.
    """
    return (standardised(output) - standardised(content)).square().mean()
