"""What a source of pictures is to the builder of a set, and how a picture comes to be in one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from stylecli.artifacts.files import write_atomic
from stylecli.engine.i2l.data.items import Item

IMAGES = "images"
# Lossless: the least effort that is not much larger (at 64 px 3 % against the default's, and a
# third of its time).
WEBP_EFFORT = 2
MAX_WEBP_PX = 16383


@dataclass(frozen=True, slots=True)
class Failed:
    """A picture that could not be had."""

    key: str
    error: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that does not belong into the set, and why."""

    why: str


Made = Item | Failed | LeftOut


class Source(Protocol):
    """Where the pictures of a set come from.

    Attributes:
        facts: All that decides what the set will be, without names of folders.
        unit_names: Parts of the work, in order; what is lost when a run is killed.
        total: Pictures in all units together.
    """

    facts: Mapping[str, Any]
    unit_names: list[str]
    total: int

    def make(self, unit: int, folder: Path) -> Iterator[Made]:
        """Bring the pictures of a unit into the folder of the set; any thread may.

        Raises:
            InputError: What the unit is made of is gone, or has changed.
        """

    def extras(self) -> Mapping[str, str]:
        """Text files that belong to the set, by name."""

    def about(self) -> Mapping[str, Any]:
        """What `dataset.json` says besides."""


def keep(folder: Path, data: bytes, suffix: str) -> tuple[str, str]:
    """Bring a picture's file into a set, under its digest: equal ones lie there once.

    Returns:
        Its name below the folder, and the digest.

    Raises:
        DiskFullError: There is no room for it.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{IMAGES}/{sha256[:2]}/{sha256}{suffix}"
    path = folder / name
    if not (path.is_file() and path.stat().st_size == len(data)):
        write_atomic(path, data)
    return name, sha256


def encoded(image: Image.Image) -> tuple[bytes, str]:
    """A file that holds just these pixels, and its suffix."""
    buffer = io.BytesIO()
    if max(image.size) > MAX_WEBP_PX:
        image.save(buffer, "PNG")
        return buffer.getvalue(), ".png"
    image.save(buffer, "WEBP", lossless=True, method=WEBP_EFFORT)
    return buffer.getvalue(), ".webp"
