"""What a local model says of itself, where a recipe says nothing; JSON only, no torch.

A checkpoint that is one file says it by the names of its tensors, which stand in JSON before them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from stylecli.recipe.schema import MIN_CROP_PX, Lora
from stylecli.recipe.source import Path as Key

# Of transformers, by what says which one it is: in `model_index.json`, or `config.json` alone.
_SIDES = {"ZImagePipeline": 1024, "Flux2KleinPipeline": 1024, "qwen3_vl": 2048}
_NAMES = (("model_index.json", "_class_name"), ("config.json", "model_type"))
_GUIDANCE = 4.0
# Of files with a transformer alone: a tensor that is in all models of a family, and in no other,
# behind a prefix or none; and the model of that family that this program knows.
SIGNS: Mapping[str, str] = {
    "noise_refiner.0.attention.qkv.weight": "z-image",
    "double_stream_modulation_img.lin.weight": "flux2-klein",
    "vector_in.in_layer.weight": "flux1-kontext",
}
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
_DRAWN = ("z-image", "flux2-klein")
# Of whole checkpoints, the second text encoder of the one that draws larger than the others.
_OF_XL = "conditioner.embedders.1.model."
_LARGE = 1024
# No header is nearly as long.
_MOST_BYTES = 100_000_000


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


def _keys(file: Path) -> frozenset[str]:
    """Names of a safetensors file's tensors; none where it cannot be read, as loading will say."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            said = json.loads(stream.read(length)) if length <= _MOST_BYTES else {}
    except (OSError, ValueError):
        return frozenset()
    return frozenset(said) if isinstance(said, dict) else frozenset()


def _of_file(keys: Collection[str]) -> tuple[int | None, int | None]:
    """Sides of the pictures that a transformer, and that a UNet, in one file was trained on."""
    for sign, name in SIGNS.items():
        if any(prefix + sign in keys for prefix in PREFIXES):
            return (_LARGE if name in _DRAWN else None), None
    return None, _LARGE if any(key.startswith(_OF_XL) for key in keys) else None


def defaults(model: Path) -> Iterator[tuple[Key, Any]]:
    """Settings whose built-in defaults suit only UNets, and of these only models of 512 px.

    Args:
        model: A folder, or a checkpoint that is one file.
    """
    if model.suffix == ".safetensors" and model.is_file():
        px, side = _of_file(_keys(model))
    else:
        px, side = _transformer_px(model), size_px(model)
    if px is not None:
        yield ("sampling", "size"), px
        yield ("sampling", "guidance"), _GUIDANCE
    if side is not None:
        yield ("sampling", "size"), side
        yield ("lora", "resolution"), side
        yield ("lora", "crop_px"), max(MIN_CROP_PX, min(side, Lora().crop_px))
