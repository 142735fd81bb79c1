"""How much of the content is left, pixel by pixel and window by window."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from stylecli.errors import ItemError
from stylecli.evaluation.metrics import LUMA

# Wang et al. 2004: an 11 x 11 Gaussian window, K1 = 0.01, K2 = 0.03, for values up to 1.
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def mse(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean squared error over pixels and channels.

    >>> mse(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5)).tolist()
    [0.25]
    """
    return (a - b).square().mean(dim=(1, 2, 3))


def ssim(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float64[Tensor, " b"]:
    """Structural similarity of luma (Wang et al. 2004, eq. 13), where the window fits whole.

    Raises:
        ItemError: A side is shorter than the window.
    """
    height, width = a.shape[-2:]
    if min(height, width) < WINDOW:
        raise ItemError(
            f"{width}x{height} is too small for SSIM", fix=f"at least {WINDOW} px a side"
        )
    x, y = luma(a), luma(b)
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = weights / weights.sum()

    def blurred(z: Tensor) -> Tensor:
        rows = F.conv2d(z, weights.view(1, 1, -1, 1))
        return F.conv2d(rows, weights.view(1, 1, 1, -1))

    mean_x, mean_y = blurred(x), blurred(y)
    variance_x = blurred(x * x) - mean_x.square()
    variance_y = blurred(y * y) - mean_y.square()
    covariance = blurred(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    denominator = (mean_x.square() + mean_y.square() + C1) * (variance_x + variance_y + C2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def luma(image: Float[Tensor, "b 3 h w"]) -> Float64[Tensor, "b 1 h w"]:
    """Rec. 601 luma in float64: differences of squares follow."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device)
    return torch.einsum("bchw,c->bhw", image.double(), weights)[:, None]
