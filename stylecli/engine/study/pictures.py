"""Pictures as raters see them: one size, one format, and nothing that says where they come from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from stylecli.artifacts import images

SUFFIX = ".webp"
# Above it no one tells a picture from its original; the same for all of them.
QUALITY = 95
# Shapes that differ by less are one shape: results are often cut to multiples of eight.
SAME_SHAPE = 0.02


def encoded(paths: Sequence[Path], side_px: int) -> list[bytes]:
    """The pictures of one task, upright, sRGB, on white, each with that long side.

    Those of about the first one's shape get its size exactly: a margin would tell them apart.

    Raises:
        ImageError: One cannot be read; the message names it.
    """
    found = []
    model: tuple[int, int] | None = None
    for path in paths:
        pixels = images.read(path).pixels
        height, width = pixels.shape[:2]
        size = _size(width, height, side_px)
        if model is None:
            model = size
        elif abs(width * model[1] / (height * model[0]) - 1) < SAME_SHAPE:
            size = model
        picture = Image.fromarray(pixels.numpy())
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY, method=4)
        found.append(buffer.getvalue())
    return found


def _size(width: int, height: int, side_px: int) -> tuple[int, int]:
    scale = side_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
