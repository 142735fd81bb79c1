"""Small sets of made-up pictures, through the real builder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from stylecli.artifacts import images
from stylecli.engine.route.data.building import Build, Built
from stylecli.engine.route.data.making import Hand, Styled, Subject, View, png
from stylecli.errors import ImageError
from stylecli.methods.regionroute.styles import PAPER, Style
from stylecli.recipe.route import Data

WORDS = ("bread", "dining table", "café")
SIZE = (24, 32)


class Silent:
    """A reporter nobody listens to."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def task(self, label: str, total: int) -> Any:
        return nullcontext(self)

    def advance(self, n: int = 1) -> None: ...


class Noise:
    """A source of noise with a box in it; the first picture is of validation."""

    left_out: Mapping[str, int] = {}

    def __init__(self, words: Sequence[str] = WORDS, broken: Sequence[str] = ()) -> None:
        self.subjects = [
            Subject(f"p{place}", word, "train" if place else "val")
            for place, word in enumerate(words)
        ]
        self.facts: Mapping[str, Any] = {"source": "noise", "words": list(words)}
        self.broken = set(broken)
        self.seen: list[str] = []

    def view(self, subject: Subject) -> View:
        self.seen.append(subject.image_id)
        if subject.image_id in self.broken:
            raise ImageError(f"{subject.image_id}: damaged", fix="copy it again")
        seed = int(hashlib.sha256(subject.image_id.encode()).hexdigest()[:8], 16)
        pixels = images.to_pixels(
            torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))
        )
        mask = torch.zeros(SIZE, dtype=torch.bool)
        mask[4 : 12 + seed % 8, 6:20] = True
        data = png(Image.fromarray(pixels.numpy()))
        return View(data, ".png", images.to_float(pixels), mask)

    def origin(self, image_id: str) -> None:
        return None

    def about(self) -> Mapping[str, Any]:
        return {}


class Negative:
    """Restyles into the negative, and can be told to stop at a sample."""

    facts: Mapping[str, Any] = {"stylist": "negative"}

    def __init__(self, stop_at: int | None = None) -> None:
        self.made: list[str] = []
        self._stop_at = stop_at

    def styled(self, subject: Subject, view: View, style: Style) -> Styled:
        if len(self.made) == self._stop_at:
            raise KeyboardInterrupt
        self.made.append(f"{style.id}/{subject.image_id}")
        return Styled(1 - view.picture, view.mask, 5, {"structure": 1.0})


def build(
    folder: Path, source: Noise | None = None, hand: Hand | None = None, **said: Any
) -> Build:
    hand = hand or Negative()
    return Build(
        source=source or Noise(),
        hands={PAPER[0]: hand, PAPER[3]: hand},
        data=said.pop("data", Data()),
        folder=folder,
        reporter=Silent(),
        **said,
    )


def made(folder: Path, source: Noise | None = None, hand: Hand | None = None, **said: Any) -> Built:
    return build(folder, source, hand, **said).run()
