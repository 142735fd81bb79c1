"""Results of methods that do not exist: contents with some of a style laid over them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def save(path: Path, content: Path, style: Path, share: float) -> Path:
    """Blend two pictures and save the mixture at the content's size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(content) as first, Image.open(style) as second:
        mixed = Image.blend(first.convert("RGB"), second.convert("RGB").resize(first.size), share)
    mixed.save(path)
    return path
