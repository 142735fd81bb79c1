"""Regions painted by hand: a picture in which every colour is one region, and black is free."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageColor
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.artifacts.images import Geometry
from stylecli.engine.plan import UNREADABLE, Input
from stylecli.engine.regions import MAX_ASPECT_ERROR
from stylecli.errors import ImageError, ItemError
from stylecli.tensors import cells

# More colours than people paint are the blur of a lossy file, not regions.
MOST_COLOURS = 64
# Colours of fewer pixels, of all that there are, are the soft edge between two others: no region
# would be left of them. A mask that has more of these than so many is none.
RARE, MOST_RARE = 1 / 1024, 0.25
# With soft edges, colours that differ less in every channel are one.
SHADE = 24
FREE, OPAQUE = 0, 128


@dataclass(frozen=True, slots=True)
class Paint:
    """A painted mask as its file has it.

    Attributes:
        labels: 0 is free, other numbers are one region each.
        colours: ``#rrggbb`` of every number.
    """

    labels: Int[Tensor, "h w"]
    colours: Mapping[int, str]

    def number_of(self, name: str) -> int | None:
        """The number that a colour has here; None where it has none.

        Args:
            name: As CSS calls it, or ``#rrggbb``.
        """
        wanted = as_hex(name)
        return next((number for number, own in self.colours.items() if own == wanted), None)

    def names(self) -> list[str]:
        """Its colours as people would call them."""
        known = {as_hex(name): name for name in sorted(ImageColor.colormap)}
        return [known.get(colour) or colour for colour in self.colours.values()]

    def lost(self, regions: Collection[int]) -> str | None:
        """What was painted and became no region, in words; None where all did.

        Args:
            regions: Numbers that did.
        """
        if not self.colours:
            return "nothing is painted in its mask"
        named = zip(self.colours, self.names(), strict=True)
        few = [name for number, name in named if number not in regions]
        return f"too little is painted {', '.join(few)} to be a region" if few else None

    def at(self, geometry: Geometry) -> Int[Tensor, "hp wp"]:
        """As the model has its picture, margin included: by area, so that no stroke is skipped."""
        return images.pad(cells.majority(self.labels, geometry.resized), *geometry.padded)

    def sha256(self) -> str:
        """Of the regions, whatever the file's colours and format."""
        numbers = self.labels.to(torch.uint8).contiguous().numpy()
        return hashlib.sha256(f"{numbers.shape}".encode() + numbers.tobytes()).hexdigest()


def as_hex(name: str) -> str | None:
    """``#rrggbb`` of a colour; None for what is none.

    >>> as_hex("Red"), as_hex("#F80"), as_hex("sky")
    ('#ff0000', '#ff8800', None)
    """
    text = name.strip().lower()
    if not text.startswith("#") and text not in ImageColor.colormap:
        return None
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        return None
    return f"#{red:02x}{green:02x}{blue:02x}"


def read(item: Input, size: tuple[int, int]) -> Paint:
    """Read a mask.

    Black is free, and so are what is transparent and the first colour of a palette. Colours of a
    few pixels are the soft edges of others, and become the one they resemble most.

    Args:
        size: Height and width of the picture it was painted over.

    Raises:
        ImageError: It cannot be read, or has as many colours as a photograph.
        ItemError: It is missing, changed during the run, or of another shape.
    """
    if item.sha256 == UNREADABLE:
        raise ItemError(f"mask {item.path} is missing", fix="check the name, or paint it")
    paint = decode(item.path, size)
    if store.file_sha256(item.path) != item.sha256:
        raise ItemError(f"mask {item.path}: changed during the run", fix="run it again")
    return paint


def decode(path: Path, size: tuple[int, int]) -> Paint:
    """As `read`, of a file that nobody has looked at.

    Raises:
        ImageError: As `read`.
        ItemError: As `read`.
    """
    numbers, colours = images.decode(path, lambda image: _numbered(path, image))
    height, width = numbers.shape
    if abs(height * size[1] / (width * size[0]) - 1) > MAX_ASPECT_ERROR:
        raise ItemError(
            f"mask {path} is {width}x{height}, of another shape than its picture, which is "
            f"{size[1]}x{size[0]}",
            fix="paint it over the picture",
        )
    return Paint(torch.from_numpy(numbers), colours)


def _numbered(path: Path, image: Image.Image) -> tuple[np.ndarray, dict[int, str]]:
    free = np.asarray(image) == 0 if image.mode == "P" else None
    colour, alpha = images.split(image)
    pixels = np.asarray(colour.convert("RGB")).astype(np.int64)
    packed = pixels @ np.array([1 << 16, 1 << 8, 1])
    if free is not None:
        packed[free] = FREE
    if alpha is not None:
        packed[np.asarray(alpha) < OPAQUE] = FREE
    found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    is_kept = counts >= packed.size * RARE
    if is_kept.sum() > MOST_COLOURS or counts[~is_kept].sum() > packed.size * MOST_RARE:
        raise ImageError(
            f"mask {path} has {len(found)} colours, and each would be a region",
            fix=f"paint at most {MOST_COLOURS} plain colours, and save it as PNG",
        )
    # Where there are none of these, colours may be numbers, one shade apart.
    is_soft = not is_kept.all()
    order = np.flatnonzero(is_kept)[np.argsort(-counts[is_kept], kind="stable")]
    kept = _apart(found[order]) if is_soft else found
    own = _nearest(found, kept)
    colours = kept[kept != FREE]
    numbers = np.zeros(len(kept), np.int64)
    numbers[kept != FREE] = np.arange(1, len(colours) + 1)
    return (
        numbers[own][inverse.reshape(packed.shape)],
        {number: f"#{int(value):06x}" for number, value in enumerate(colours, start=1)},
    )


def _apart(found: np.ndarray) -> np.ndarray:
    """Colours that are no shade of one before them, ascending."""
    kept: list[int] = []
    for packed in found.tolist():
        own = _channels(np.array(kept, np.int64))
        if not kept or (abs(own - _channels(np.array([packed]))).max(axis=-1) > SHADE).all():
            kept.append(packed)
    return np.array(sorted(kept), np.int64)


def _nearest(found: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of every colour, the place of the kept one that resembles it most."""
    # One row at a time: a photograph has a million colours.
    best = np.zeros(len(found), np.int64)
    least = np.full(len(found), np.iinfo(np.int64).max)
    wanted = _channels(found)
    for place, colour in enumerate(_channels(kept)):
        apart = ((wanted - colour) ** 2).sum(axis=-1)
        best[apart < least] = place
        least = np.minimum(least, apart)
    return best


def _channels(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
