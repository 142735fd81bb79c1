"""What an icon stands on, how it is placed, and how colours are shaken; all from a generator."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

T = TypeVar("T")

HUES = ("red", "orange", "yellow", "green", "green", "cyan", "blue", "blue", "purple", "pink")


def uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def interval(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * uniform(generator)


def flip(probability: float, generator: Generator) -> bool:
    return uniform(generator) < probability


def one_of(items: Sequence[T], generator: Generator) -> T:
    return items[int(torch.randint(len(items), (), generator=generator))]


def colour(generator: Generator) -> tuple[Float[Tensor, " 3"], str]:
    """An RGB colour, hues equally often, and a word for it."""
    hue, saturation = uniform(generator), uniform(generator) ** 0.7
    value = 1 - 0.9 * uniform(generator) ** 1.5
    rgb = torch.tensor(colorsys.hsv_to_rgb(hue, saturation, value))
    if value < 0.25:
        return rgb, "black"
    if saturation < 0.15:
        return rgb, "white" if value > 0.9 else "grey"
    shade = "dark " if value < 0.5 else "pale " if saturation < 0.4 else ""
    return rgb, shade + HUES[int(hue * 10 + 0.5) % 10]


def plain(px: int, generator: Generator) -> tuple[Float[Tensor, "3 px px"], str]:
    rgb, word = colour(generator)
    return rgb[:, None, None].expand(3, px, px), word


def gradient(px: int, generator: Generator) -> tuple[Float[Tensor, "3 px px"], str]:
    """Two colours, blended along a random direction."""
    (start, _), (stop, _) = colour(generator), colour(generator)
    angle = interval(0, 2 * math.pi, generator)
    axis = torch.linspace(-1, 1, px)
    ramp = axis[None, :] * math.cos(angle) + axis[:, None] * math.sin(angle)
    ramp = ((ramp / interval(0.7, 1.5, generator)) + 1).div(2).clamp(0, 1)
    return start[:, None, None] * (1 - ramp) + stop[:, None, None] * ramp, "gradient"


def place(
    icon: Float[Tensor, "4 s s"], px: int, scale: float, shift: tuple[float, float], turn: float
) -> Float[Tensor, "4 px px"]:
    """An icon of `scale` times the frame, moved by `shift` frames and turned by `turn` radians.

    Premultiplied in and out, so edges do not pick up a halo.
    """
    source = icon[None]
    while source.shape[-1] >= 2 * scale * px and source.shape[-1] > 16:
        source = F.avg_pool2d(source, 2)
    ratio = scale * px / source.shape[-1]
    if ratio < 1:  # bilinear sampling alone would alias below half size
        side = max(1, round(source.shape[-1] * ratio))
        source = F.interpolate(source, (side, side), mode="bilinear", antialias=True)
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    x, y = -2 * shift[0], -2 * shift[1]
    theta = torch.tensor([[[cos, sin, cos * x + sin * y], [-sin, cos, cos * y - sin * x]]])
    grid = F.affine_grid(theta, [1, 4, px, px], align_corners=False)
    return F.grid_sample(source, grid, align_corners=False)[0].clamp(0, 1)


def compose(
    icon: Float[Tensor, "4 px px"], ground: Float[Tensor, "3 px px"]
) -> Float[Tensor, "3 px px"]:
    return icon[:3] + (1 - icon[3:]) * ground


def shake_colours(
    picture: Float[Tensor, "3 px px"], generator: Generator
) -> Float[Tensor, "3 px px"]:
    """Permute channels, then turn the hue by any angle about the grey axis."""
    picture = picture[torch.randperm(3, generator=generator)]
    angle = interval(0, 2 * math.pi, generator)
    third, root = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    circulant = [math.cos(angle) + third, third - root, third + root]
    turned = torch.tensor([circulant[-k:] + circulant[:-k] if k else circulant for k in range(3)])
    return torch.einsum("ij,jhw->ihw", turned, picture).clamp(0, 1)
