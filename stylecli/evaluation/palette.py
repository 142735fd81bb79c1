"""Colours without places: distances between palettes, and a transfer of nothing else."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stylecli.errors import ItemError

# sRGB to XYZ under D65, and that white.
_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_EPSILON, _KAPPA = (6 / 29) ** 3, 841 / 108
HIST_PX, HIST_BINS, HIST_SIGMA, HIST_RANGE = 150, 64, 0.02, 3.0
HIST_EPSILON = 1e-6
DIRECTIONS, QUANTILES, MOST_COLOURS = 64, 1024, 16_384


def to_lab(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """CIELAB (D65) of gamma-encoded sRGB in [0, 1]; L in 0..100."""
    linear: Tensor = torch.where(
        image <= 0.04045, image / 12.92, ((image.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    )
    xyz = torch.einsum("ij,bjhw->bihw", image.new_tensor(_TO_XYZ), linear)
    ratio = xyz / image.new_tensor(_WHITE)[:, None, None]
    cube = torch.where(
        ratio > _EPSILON, ratio.clamp_min(_EPSILON) ** (1 / 3), _KAPPA * ratio + 4 / 29
    )
    x, y, z = cube.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def from_lab(lab: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Gamma-encoded sRGB; colours beyond it are cut to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    cube = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    ratio = torch.where(cube > 6 / 29, cube**3, (cube - 4 / 29) / _KAPPA)
    xyz = ratio * lab.new_tensor(_WHITE)[:, None, None]
    inverse = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).to(lab)
    linear = torch.einsum("ij,bjhw->bihw", inverse, xyz).clamp(0, 1)
    gamma: Tensor = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, gamma).clamp(0, 1)


def delta_e(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean CIE76 difference, pixel by pixel; 2.3 is just noticeable."""
    apart: Tensor = (to_lab(a) - to_lab(b)).norm(dim=1)
    return apart.mean(dim=(1, 2))


def color_hist(
    a: Float[Tensor, "1 3 _ha _wa"], b: Float[Tensor, "1 3 _hb _wb"]
) -> Float[Tensor, ""]:
    """Hellinger distance of RGB-uv histograms (HistoGAN, Afifi et al. 2021, eq. 3-5), 0 to 1."""
    first, second = histogram(a).sqrt(), histogram(b).sqrt()
    return (first - second).square().sum().sqrt() / math.sqrt(2)


def histogram(image: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "3 bins bins"]:
    """Soft counts of log-chroma, weighted by intensity; they add up to one."""
    scale = HIST_PX / max(image.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[-2:]]
        image = F.interpolate(image, size, mode="bilinear", antialias=True)
    pixels = image.clamp(0, 1)[0].flatten(1)
    log = (pixels + HIST_EPSILON).log()
    # Black weighs a little too, or a black picture would have no colours at all.
    intensity = (pixels.square().sum(0) + HIST_EPSILON).sqrt()
    bins = torch.linspace(-HIST_RANGE, HIST_RANGE, HIST_BINS, device=image.device)

    def kernel(values: Tensor) -> Tensor:
        return 1 / (1 + ((values[:, None] - bins) / HIST_SIGMA).square())

    planes = []
    for channel in range(3):
        first, second = (other for other in range(3) if other != channel)
        u = kernel(log[channel] - log[first])
        v = kernel(log[channel] - log[second])
        planes.append((u * intensity[:, None]).T @ v)
    counts = torch.stack(planes)
    return counts / counts.sum().clamp_min(1e-12)


def color_sw(
    a: Float[Tensor, "1 3 ha wa"],
    b: Float[Tensor, "1 3 hb wb"],
    mask_a: Float[Tensor, "ha wa"] | None = None,
    mask_b: Float[Tensor, "hb wb"] | None = None,
) -> Float[Tensor, ""]:
    """Sliced Wasserstein-1 distance of colours in CIELAB, over fixed directions.

    Of larger pictures 16,384 pixels, evenly spread.

    Args:
        mask_a: Pixels of `a` that count, where at least one half.

    Raises:
        ItemError: A mask leaves no pixel.
    """
    ours, theirs = _colours(a, mask_a), _colours(b, mask_b)
    directions = _directions().to(ours)
    levels = (torch.arange(QUANTILES, device=ours.device, dtype=ours.dtype) + 0.5) / QUANTILES
    return (
        (_quantiles(ours @ directions, levels) - _quantiles(theirs @ directions, levels))
        .abs()
        .mean()
    )


def reinhard(
    content: Float[Tensor, "b 3 h w"], style: Float[Tensor, "b 3 hs ws"]
) -> Float[Tensor, "b 3 h w"]:
    """The content with the style's mean and deviation of each CIELAB channel (Reinhard 2001)."""
    # In double: of a flat picture single precision would scale up its own rounding.
    ours, theirs = to_lab(content.double()), to_lab(style.double())
    mean, std = ours.mean((2, 3), keepdim=True), ours.std((2, 3), correction=0, keepdim=True)
    wanted = theirs.std((2, 3), correction=0, keepdim=True)
    moved = (ours - mean) / std.clamp_min(1e-6) * wanted + theirs.mean((2, 3), keepdim=True)
    return from_lab(moved).to(content.dtype)


def _colours(image: Tensor, mask: Tensor | None) -> Tensor:
    colours = to_lab(image)[0].flatten(1).T
    if mask is not None:
        colours = colours[mask.flatten() >= 0.5]
    if not len(colours):
        raise ItemError("the mask leaves no pixels to take colours from", fix="give another mask")
    if len(colours) <= MOST_COLOURS:
        return colours
    # Spread by the golden ratio: even, and in step with no row of the picture.
    golden = (math.sqrt(5) - 1) / 2
    at = torch.arange(MOST_COLOURS, dtype=torch.float64, device=image.device) * golden % 1
    return colours[(at * len(colours)).long()]


def _quantiles(projected: Tensor, levels: Tensor) -> Tensor:
    """Of every column, between neighbours as numpy does."""
    ordered = projected.sort(dim=0).values
    at = levels * (len(ordered) - 1)
    low = at.floor().long()
    high = (low + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], (at - low)[:, None])


@lru_cache
def _directions() -> Tensor:
    """Unit vectors spread evenly over the half sphere (a Fibonacci lattice)."""
    index = torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5
    height = index / DIRECTIONS
    turn = index * math.pi * (1 + math.sqrt(5))
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * turn.cos(), radius * turn.sin(), height])
