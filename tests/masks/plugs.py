"""Mask backends of another package: one that works without a network, and some that do not."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from PIL import Image

from stylecli.masks import registry
from stylecli.masks.base import Box, MaskResult, Setup


class Fake:
    """Finds two deer, a sky, and nothing else; every region is a part of the picture's width."""

    name, licence = "fake", "MIT"

    def __init__(self, given: Setup) -> None:
        self.given = given

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        known = {"deer": [(0.25, 0.9), (0.75, 0.4)], "red deer": [(0.25, 0.9)], "sky": [(1.0, 0.7)]}
        if not prompts:
            return [_left(image, share, 0.0, "") for share in (0.25, 0.5, 0.75)]
        return [
            _left(image, share, score, prompt)
            for prompt in prompts
            for share, score in known.get(prompt, [])
        ]


class FakeAtPlaces(Fake):
    """The same, and a region at each place."""

    def segment_at(
        self,
        image: Image.Image,
        *,
        points: Sequence[tuple[float, float, bool]] = (),
        boxes: Sequence[Box] = (),
    ) -> list[MaskResult]:
        at = [_left(image, points[0][0] / image.width, 0.8, "")] if points else []
        return at + [_left(image, box[2] / image.width, 0.6, "") for box in boxes]


class Squeezed(Fake):
    """Masks of half the size."""

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        return super().segment(image.resize((image.width // 2, image.height // 2)), prompts)


class Silent:
    name = licence = "none"


def broken(given: Setup) -> Any:
    raise RuntimeError("its weights\nare gone")


def halved(given: Setup) -> Any:
    return Silent()


def install(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Entry points by name, as if a package had been installed."""
    points = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)


def _left(image: Image.Image, share: float, score: float, prompt: str) -> MaskResult:
    width = max(1, round(share * image.width))
    mask = torch.zeros(image.height, image.width)
    mask[:, :width] = 1.0
    box = (0.0, 0.0, float(width), float(image.height))
    return MaskResult(mask=mask, score=score, prompt=prompt, boxes=(box,))
