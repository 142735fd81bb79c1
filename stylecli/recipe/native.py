"""What a local model says of itself, where a recipe says nothing; JSON only, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stylecli.recipe.schema import MIN_CROP_PX, Lora
from stylecli.recipe.source import Path as Key


def size_px(folder: Path) -> int | None:
    """Side of the pictures a diffusers folder was trained on; None when it does not say."""
    try:
        unet, vae = (
            json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
            for part in ("unet", "vae")
        )
        # The VAE halves the picture between its blocks.
        side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return side if isinstance(side, int) and side > 0 else None


def defaults(folder: Path) -> Iterator[tuple[Key, Any]]:
    """Settings whose built-in defaults suit only models of 512 px."""
    side = size_px(folder)
    if side is not None:
        yield ("sampling", "size"), side
        yield ("lora", "resolution"), side
        yield ("lora", "crop_px"), max(MIN_CROP_PX, min(side, Lora().crop_px))
