"""Several icons on one ground, and the truth about where each of them is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stylecli.tensors.grounds import compose, interval, place

# The icons' squares together cover about this share of the frame, whatever their number.
COVER = (0.3, 0.55)
MAX_SIDE = 0.6
TRIES = 60
SHRINK = 0.94


@dataclass(frozen=True, slots=True)
class Thing:
    """One icon in a scene; its mask is what later icons leave visible of its alpha."""

    name: str
    mask: Float[Tensor, "px px"]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture in [0, 1] and its things, the hindmost first."""

    picture: Float[Tensor, "3 px px"]
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Square:
    """Where an icon's frame goes, in shares of the scene's side."""

    x: float
    y: float
    side: float


def arrange(
    icons: Sequence[tuple[str, Float[Tensor, "4 _s _s"]]],
    ground: Float[Tensor, "3 px px"],
    generator: Generator,
    *,
    overlap: float = 0.1,
) -> Scene:
    """Put icons at random places of random sizes on a ground, the first one hindmost.

    Args:
        icons: Names and premultiplied RGBA.
        ground: Square, in [0, 1].
        generator: Of sizes and places.
        overlap: Share of the smaller of two icons' squares that the other may cover.
    """
    return drawn(icons, squares(len(icons), overlap, generator), ground)


def drawn(
    icons: Sequence[tuple[str, Float[Tensor, "4 _s _s"]]],
    places: Sequence[Square],
    ground: Float[Tensor, "3 px px"],
) -> Scene:
    """Put icons where they belong on a ground, the first one hindmost."""
    px = ground.shape[-1]
    picture = ground
    masks: list[Tensor] = []
    for (_, icon), square in zip(icons, places, strict=True):
        shift = (square.x + square.side / 2 - 0.5, square.y + square.side / 2 - 0.5)
        placed = place(icon, px, square.side, shift, 0.0)
        masks = [mask * (1 - placed[3]) for mask in masks]
        masks.append(placed[3])
        picture = compose(placed, picture)
    things = (Thing(name, mask) for (name, _), mask in zip(icons, masks, strict=True))
    return Scene(picture.clamp(0, 1), tuple(things))


def squares(count: int, overlap: float, generator: Generator) -> list[Square]:
    """Squares inside the frame, no pair of which overlaps more than it may."""
    cover = interval(*COVER, generator)
    sides = [
        min(MAX_SIDE, sqrt(cover / count) * interval(0.75, 1.25, generator)) for _ in range(count)
    ]
    while True:
        for _ in range(TRIES):
            placed = [_anywhere(side, generator) for side in sides]
            if all(
                _shared(one, other) <= overlap
                for index, one in enumerate(placed)
                for other in placed[:index]
            ):
                return placed
        sides = [side * SHRINK for side in sides]


def _anywhere(side: float, generator: Generator) -> Square:
    x, y = torch.rand(2, generator=generator).tolist()
    return Square(x * (1 - side), y * (1 - side), side)


def _shared(one: Square, other: Square) -> float:
    width = min(one.x + one.side, other.x + other.side) - max(one.x, other.x)
    height = min(one.y + one.side, other.y + other.side) - max(one.y, other.y)
    return max(width, 0.0) * max(height, 0.0) / min(one.side, other.side) ** 2
