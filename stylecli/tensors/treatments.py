"""Ways to draw an icon otherwise: what turns a dozen families into thousands of styles.

A style is a family, at most two treatments of it, and a ground, all with fixed parameters: the same
style draws every icon alike (i2L, section 8 of our recipe for small models). Parameters are plain
numbers, so a style is one line of JSON, and sizes are shares of the frame, so it looks alike at
every size.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from stylecli.tensors.seeds import generator as seeded

Values = Mapping[str, Any]
Icon = Float[Tensor, "4 px px"]
Picture = Float[Tensor, "3 px px"]
LUMA = (0.299, 0.587, 0.114)
# Of which no predictor sees an example in training: what "medium" of its examination asks for.
HELD_OUT = ("silhouette", "halftone")
# How often a ground is white, plain, or a gradient of two colours.
GROUNDS = (0.45, 0.35, 0.20)


@dataclass(frozen=True, slots=True)
class Style:
    """One hand: how it draws, in words that JSON can hold.

    Attributes:
        family: Of `glyphs.FAMILIES`.
        treatments: Names and parameters, in the order in which they are applied.
        ground: Its colours, one or two, and the direction in which they blend.
    """

    family: str
    treatments: tuple[tuple[str, Values], ...] = ()
    ground: Values | None = None

    @classmethod
    def drawn(cls, family: str, generator: Generator, *, among: Sequence[str]) -> Self:
        """One or two of the named treatments of a family, and a ground, at random."""
        count = 1 + int(_uniform(generator) < 0.5)
        order = torch.randperm(len(among), generator=generator)[:count].tolist()
        names = sorted((among[place] for place in order), key=list(TREATMENTS).index)
        treatments = tuple((name, TREATMENTS[name].draw(generator)) for name in names)
        return cls(family, treatments, _ground(generator))

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        treatments = tuple((name, dict(values)) for name, values in said["treatments"])
        return cls(str(said["family"]), treatments, said["ground"])

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and names."""
        return {
            "family": self.family,
            "treatments": [[name, dict(values)] for name, values in self.treatments],
            "ground": self.ground,
        }

    def draw(self, icon: Icon, seed: int = 0) -> Picture:
        """One icon as this style has it.

        Args:
            icon: Premultiplied RGBA in [0, 1].
            seed: Of what is random in each picture, such as the grain of paper.
        """
        px = icon.shape[-1]
        ground = paved(self.ground, px)
        for name, values in self.treatments:
            if (change := TREATMENTS[name].icon) is not None:
                icon = change(icon, values)
        picture = icon[:3] + (1 - icon[3:]) * ground
        for name, values in self.treatments:
            if (finish := TREATMENTS[name].picture) is not None:
                picture = finish(picture, values, seed)
        return picture.clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Treatment:
    """How one kind chooses its parameters, and what it does to an icon or to the picture."""

    draw: Callable[[Generator], dict[str, Any]]
    icon: Callable[[Icon, Values], Icon] | None = None
    picture: Callable[[Picture, Values, int], Picture] | None = None


def paved(ground: Values | None, px: int) -> Picture:
    """The ground of a style; None is white."""
    if ground is None:
        return torch.ones(3, px, px)
    start, stop = (_rgb(ground[key]) for key in ("from", "to"))
    axis = torch.linspace(-1, 1, px)
    angle = ground["angle"]
    ramp = (axis[None] * math.cos(angle) + axis[:, None] * math.sin(angle)).add(1).div(2)
    return start + (stop - start) * ramp.clamp(0, 1)


def _ground(generator: Generator) -> dict[str, Any] | None:
    lot = _uniform(generator)
    if lot < GROUNDS[0]:
        return None
    first = _colour(generator)
    second = first if lot < GROUNDS[0] + GROUNDS[1] else _colour(generator)
    return {"from": first, "to": second, "angle": round(2 * math.pi * _uniform(generator), 3)}


def _two_tones(icon: Icon, values: Values) -> Icon:
    dark, light = _rgb(values["dark"]), _rgb(values["light"])
    grey = _luma(_straight(icon))
    return _worn(icon, dark + (light - dark) * grey)


def _turned(icon: Icon, values: Values) -> Icon:
    colour = _straight(icon)
    third, root = (1 - math.cos(values["angle"])) / 3, math.sin(values["angle"]) / math.sqrt(3)
    row = [math.cos(values["angle"]) + third, third - root, third + root]
    matrix = torch.tensor([row[-k:] + row[:-k] if k else row for k in range(3)])
    turned = torch.einsum("ij,jhw->ihw", matrix, colour)
    grey = _luma(turned)
    return _worn(icon, (grey + values["saturation"] * (turned - grey)).clamp(0, 1))


def _outlined(icon: Icon, values: Values) -> Icon:
    grown = _grown(icon[3:], values["width"] * icon.shape[-1])
    rim = torch.cat([_rgb(values["colour"]) * grown, grown])
    return icon + (1 - icon[3:]) * rim


def _filled(icon: Icon, values: Values) -> Icon:
    return _worn(icon, _rgb(values["colour"]).expand(3, *icon.shape[1:]))


def _shadowed(icon: Icon, values: Values) -> Icon:
    px = icon.shape[-1]
    down, right = (round(values[key] * px) for key in ("down", "right"))
    # Nothing that leaves on one side comes back on the other: negative padding cuts off.
    moved = F.pad(icon[3:], (right, -right, down, -down))
    soft = _blurred(moved, values["blur"] * px) * values["strength"]
    return icon + (1 - icon[3:]) * torch.cat([_rgb(values["colour"]) * soft, soft])


def _dotted(picture: Picture, values: Values, _seed: int) -> Picture:
    """Dots of ink, the larger the darker, along a turned grid."""
    px = picture.shape[-1]
    axis = (torch.arange(px) + 0.5) / px
    cos, sin = math.cos(values["angle"]), math.sin(values["angle"])
    u = (axis[None] * cos + axis[:, None] * sin) / values["pitch"]
    v = (axis[:, None] * cos - axis[None] * sin) / values["pitch"]
    distance = ((u - u.round()).square() + (v - v.round()).square()).sqrt()
    softened = _blurred(_luma(picture), values["pitch"] * px / 3)[0]
    radius = 0.75 * (1 - softened).clamp(0, 1).sqrt()
    ink = ((radius - distance) * values["pitch"] * px + 0.5).clamp(0, 1)
    paper, colour = _rgb(values["paper"]), _rgb(values["ink"])
    printed: Tensor = paper + (colour - paper) * ink
    return printed


def _blocky(picture: Picture, values: Values, _seed: int) -> Picture:
    small = F.adaptive_avg_pool2d(picture[None], values["cells"])
    return F.interpolate(small, picture.shape[-2:], mode="nearest")[0]


def _stepped(picture: Picture, values: Values, _seed: int) -> Picture:
    most: int = values["levels"] - 1
    return (picture * most).round() / most


def _on_paper(picture: Picture, values: Values, seed: int) -> Picture:
    px = picture.shape[-1]
    chance = seeded(seed)
    fine = torch.randn(1, 1, px, px, generator=chance)
    coarse = torch.randn(1, 1, max(2, px // 6), max(2, px // 6), generator=chance)
    coarse = F.interpolate(coarse, (px, px), mode="bilinear")
    grain: Tensor = values["grain"] * (0.6 * fine + 0.8 * coarse)[0]
    return (picture * _rgb(values["tint"]) + grain).clamp(0, 1)


def _straight(icon: Icon) -> Picture:
    return (icon[:3] / icon[3:].clamp(min=1e-3)).clamp(0, 1)


def _worn(icon: Icon, colour: Picture) -> Icon:
    return torch.cat([colour * icon[3:], icon[3:]])


def _luma(picture: Picture) -> Float[Tensor, "1 px px"]:
    return torch.einsum("c,chw->hw", torch.tensor(LUMA), picture)[None]


def _grown(mask: Float[Tensor, "1 px px"], radius: float) -> Float[Tensor, "1 px px"]:
    whole = max(1, math.ceil(radius))
    axis = torch.arange(-whole, whole + 1)
    disc = (axis[None].square() + axis[:, None].square()).sqrt() <= radius + 0.5
    padded = F.pad(mask[None], (whole,) * 4)
    patches = F.unfold(padded, 2 * whole + 1)[0][disc.flatten()]
    return patches.amax(0).view_as(mask)


def _blurred(plane: Float[Tensor, "1 px px"], sigma: float) -> Float[Tensor, "1 px px"]:
    whole = max(1, math.ceil(2.5 * sigma))
    axis = torch.arange(-whole, whole + 1, dtype=torch.float32)
    kernel = torch.exp(-axis.square() / (2 * max(sigma, 0.3) ** 2))
    kernel = kernel / kernel.sum()
    padded = F.pad(plane[None], (whole,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1))[0]


def _rgb(colour: Sequence[float]) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(colour).view(3, 1, 1)


def _uniform(generator: Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _colour(generator: Generator, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Any hue equally often, of a brightness between two."""
    hue, saturation = _uniform(generator), _uniform(generator) ** 0.6
    value = _uniform(generator, low, high)
    return [round(part, 3) for part in colorsys.hsv_to_rgb(hue, saturation, value)]


def _draw_two_tones(generator: Generator) -> dict[str, Any]:
    return {"dark": _colour(generator, 0.0, 0.5), "light": _colour(generator, 0.7, 1.0)}


def _draw_turned(generator: Generator) -> dict[str, Any]:
    angle = _uniform(generator, 0.5, 2 * math.pi - 0.5)
    return {"angle": round(angle, 3), "saturation": round(_uniform(generator, 0.0, 1.8), 3)}


def _draw_outlined(generator: Generator) -> dict[str, Any]:
    return {"colour": _colour(generator), "width": round(_uniform(generator, 0.02, 0.06), 3)}


def _draw_filled(generator: Generator) -> dict[str, Any]:
    return {"colour": _colour(generator, 0.0, 0.8)}


def _draw_shadowed(generator: Generator) -> dict[str, Any]:
    return {
        "down": round(_uniform(generator, 0.02, 0.09), 3),
        "right": round(_uniform(generator, -0.06, 0.06), 3),
        "blur": round(_uniform(generator, 0.01, 0.05), 3),
        "strength": round(_uniform(generator, 0.4, 0.9), 3),
        "colour": _colour(generator, 0.0, 0.4),
    }


def _draw_dotted(generator: Generator) -> dict[str, Any]:
    return {
        "pitch": round(_uniform(generator, 0.06, 0.13), 3),
        "angle": round(_uniform(generator, 0.0, math.pi / 2), 3),
        "ink": _colour(generator, 0.0, 0.6),
        "paper": _colour(generator, 0.85, 1.0),
    }


def _draw_blocky(generator: Generator) -> dict[str, Any]:
    return {"cells": (8, 10, 12, 16, 20, 24)[int(_uniform(generator) * 6)]}


def _draw_stepped(generator: Generator) -> dict[str, Any]:
    return {"levels": 2 + int(_uniform(generator) * 3)}


def _draw_paper(generator: Generator) -> dict[str, Any]:
    return {"grain": round(_uniform(generator, 0.03, 0.12), 3), "tint": _colour(generator, 0.8, 1)}


TREATMENTS: Mapping[str, Treatment] = {
    "duotone": Treatment(_draw_two_tones, icon=_two_tones),
    "hue": Treatment(_draw_turned, icon=_turned),
    "silhouette": Treatment(_draw_filled, icon=_filled),
    "outline": Treatment(_draw_outlined, icon=_outlined),
    "shadow": Treatment(_draw_shadowed, icon=_shadowed),
    "posterise": Treatment(_draw_stepped, picture=_stepped),
    "pixelate": Treatment(_draw_blocky, picture=_blocky),
    "halftone": Treatment(_draw_dotted, picture=_dotted),
    "paper": Treatment(_draw_paper, picture=_on_paper),
}
