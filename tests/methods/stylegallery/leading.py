"""Contents and references of random numbers, for tests that lead latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.methods.stylegallery.match import Match
from stylecli.methods.stylegallery.optimise import Reference, Subject, stylise
from stylecli.recipe.gallery import Gallery
from tests import tiny
from tests.reference import stylegallery as reference
from tests.small import folder, noise

PAIRS: dict[int, tuple[int | None, tuple[int, ...]]] = {
    1: (0, (2,)),
    2: (1, (1, 3)),
    3: (None, ()),
}
MATCHES = [Match(number, style, regions) for number, (style, regions) in PAIRS.items()]
CONTENT_SIZE = (8, 12)
STYLE_SIZES = ((8, 8), (8, 12), (8, 8))


def precise() -> Backbone:
    """The tiny model in float64."""
    backbone = tiny.backbone(folder(), torch.float64)
    assert next(backbone.unet.parameters()).dtype == torch.float64
    return backbone


def drawn(size: tuple[int, int], regions: int, seed: int) -> Tensor:
    """Labels in vertical bands, ragged by a cell here and there."""
    height, width = size
    bands = (torch.arange(width) * regions // width + 1).expand(height, width).clone()
    random = torch.Generator().manual_seed(seed)
    bands[torch.rand(size, generator=random) < 0.1] = 1
    return bands


def content(seed: int = 0, matches: Sequence[Match] = tuple(MATCHES), **others: Any) -> Subject:
    size = others.get("size", CONTENT_SIZE)
    labels = drawn(size, others.get("regions", 3), seed)
    return Subject(*_latents(size, seed), labels, matches)


def references() -> list[Reference]:
    """Three, of which `MATCHES` names two."""
    return [
        Reference(*_latents(size, 100 + seed), drawn(size, 3, 100 + seed))
        for seed, size in enumerate(STYLE_SIZES)
    ]


def _latents(size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    clean, end = (noise(4, *size, seed=seed + k).double() for k in (0, 50))
    return clean, end


def picture(of: Subject | Reference) -> reference.Picture:
    """As the plain implementation wants it."""
    return reference.Picture(of.clean[None], of.noise[None], of.labels)


def led(backbone: Backbone, subject: Subject, settings: Gallery, **others: Any) -> Tensor:
    """One content, led; references are `references` unless others are given."""
    styles = others.pop("references", None) or references()
    return stylise(backbone, [subject], styles, settings, seeds=[0], **others)[0]


@dataclass
class Told:
    """What a watch was told."""

    timesteps: list[int] = field(default_factory=list)
    style: list[Tensor] = field(default_factory=list)
    content: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    skipped: list[list[int]] = field(default_factory=list)

    def __call__(
        self,
        timestep: int,
        style: Tensor,
        content: Tensor,
        gradient: Tensor,
        skipped: Sequence[int],
    ) -> None:
        self.timesteps.append(timestep)
        self.style.append(style)
        self.content.append(content)
        self.gradients.append(gradient)
        self.skipped.append(list(skipped))


@dataclass
class Passed:
    """Rows of passes that began, with gradients and without, and those that reached the end."""

    led: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


@contextmanager
def passes(backbone: Backbone) -> Iterator[Passed]:
    """Inside, every pass is noted."""
    found = Passed()

    def begins(_module: object, given: tuple[Tensor, ...]) -> None:
        (found.led if torch.is_grad_enabled() else found.seen).append(len(given[0]))

    def ends(_module: object, given: tuple[Tensor, ...]) -> None:
        found.ended.append(len(given[0]))

    handles = [
        backbone.unet.conv_in.register_forward_pre_hook(begins),
        backbone.unet.conv_out.register_forward_pre_hook(ends),
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
