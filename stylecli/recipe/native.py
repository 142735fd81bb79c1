"""What a local model says of itself, where a recipe says nothing; JSON only, no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stylecli.recipe.schema import MIN_CROP_PX, Lora
from stylecli.recipe.source import Path as Key

# Of transformers, by what says which one it is: in `model_index.json`, or `config.json` alone.
_SIDES = {"ZImagePipeline": 1024, "Flux2KleinPipeline": 1024, "qwen3_vl": 2048}
_NAMES = (("model_index.json", "_class_name"), ("config.json", "model_type"))
_GUIDANCE = 4.0


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


def _transformer_px(folder: Path) -> int | None:
    for file, key in _NAMES:
        try:
            return _SIDES.get(json.loads((folder / file).read_text(encoding="utf-8"))[key])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def defaults(folder: Path) -> Iterator[tuple[Key, Any]]:
    """Settings whose built-in defaults suit only UNets, and of these only models of 512 px."""
    if (px := _transformer_px(folder)) is not None:
        yield ("sampling", "size"), px
        yield ("sampling", "guidance"), _GUIDANCE
    side = size_px(folder)
    if side is not None:
        yield ("sampling", "size"), side
        yield ("lora", "resolution"), side
        yield ("lora", "crop_px"), max(MIN_CROP_PX, min(side, Lora().crop_px))
