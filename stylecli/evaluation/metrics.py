"""Scores that need no weights: pure functions of images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.tensors import colour

# Rec. 601 luma, as in every JPEG.
LUMA = (0.299, 0.587, 0.114)


def psnr(image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels; infinite for equal images.

    >>> round(psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)), 6)
    20.0
    """
    error = float((image.double() - reference.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def edge_correlation(
    image: Float[Tensor, "b 3 h w"], content: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, " b"]:
    """Pearson correlation of the Sobel magnitudes of both luma planes: 1 keeps every edge."""

    def edges(x: Tensor) -> Tensor:
        luma = torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMA))[:, None]
        sobel = x.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 8
        kernels = torch.stack([sobel, sobel.T])[:, None]
        padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, kernels).square().sum(dim=1).sqrt().flatten(1)

    a, b = edges(image), edges(content)
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    return torch.cosine_similarity(a, b, dim=1)


def gram_matrix(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Which channels occur together: ``F F^T / (h w)``, blind to where (Gatys et al. 2016)."""
    flat = features.flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / flat.shape[-1]


def gram(
    image_features: Sequence[Float[Tensor, "b _c _h _w"]],
    style_features: Sequence[Float[Tensor, "b _c _hs _ws"]],
) -> Float[Tensor, " b"]:
    """Mean squared difference of Gram matrices, averaged over layers; scaled as the features."""
    distances = [
        (gram_matrix(a) - gram_matrix(b)).square().mean(dim=(1, 2))
        for a, b in zip(image_features, style_features, strict=True)
    ]
    return torch.stack(distances).mean(dim=0)


def gram_rel(
    image_features: Sequence[Float[Tensor, "b _c _h _w"]],
    style_features: Sequence[Float[Tensor, "b _c _hs _ws"]],
) -> Float[Tensor, " b"]:
    """Relative distance of Gram matrices, averaged over layers: how far two textures are apart.

    Per layer ``|G_a - G_b|^2 / (|G_a| |G_b|)``: symmetric, and free of each layer's scale, so that
    no layer counts more for being loud.
    """
    distances = []
    for one, other in zip(image_features, style_features, strict=True):
        a, b = gram_matrix(one).flatten(1), gram_matrix(other).flatten(1)
        scale = (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)
        distances.append((a - b).square().sum(dim=1) / scale)
    return torch.stack(distances).mean(dim=0)


def palette_transfer(
    content: Float[Tensor, "b 3 h w"], style: Float[Tensor, "b 3 hs ws"]
) -> Float[Tensor, "b 3 h w"]:
    """Give the content the style's colour mean and covariance, and nothing else of it.

    The baseline that any style transfer must beat.
    """
    return colour.match(content, *colour.moments(style))
