"""LoRAs whose keys name a transformer's layers as other programs do, in diffusers' words.

diffusers knows these names and converts them, each kind by the loader of its own pipeline; what is
found out here is which kind a file is, from its keys and sizes alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from stylecli.errors import UsageError

Family = Literal["z-image", "z-image, fused", "flux1", "flux2", "flux"]
_PIPELINES: Mapping[Family, str] = {
    "z-image": "ZImagePipeline",
    "flux1": "FluxPipeline",
    "flux2": "Flux2KleinPipeline",
}
_Z_IMAGE = re.compile(r"lora_unet_(layers|noise_refiner|context_refiner)_\d+_")
_FUSED = re.compile(r"(.*\b(?:layers|noise_refiner|context_refiner)\.\d+\.attention)\.(qkv|out)\.")
# Black Forest Labs' own names, with dots or as sd-scripts writes them.
_BLACK_FOREST = re.compile(
    r"(?:diffusion_model\.|lora_unet_|base_model\.model\.)?(double|single)_blocks[._]\d+[._]"
)
# How many times as wide the layers of a single block, and of a feed-forward, are on their wide
# side: FLUX.1 and 2.
_SPREAD: Mapping[tuple[str, int], Family] = {
    ("linear1", 7): "flux1",
    ("linear2", 5): "flux1",
    ("mlp.0", 4): "flux1",
    ("mlp.2", 4): "flux1",
    ("linear1", 9): "flux2",
    ("linear2", 4): "flux2",
    ("mlp.0", 6): "flux2",
    ("mlp.2", 3): "flux2",
}
_NORM_UP = "transformer.norm_out.linear.lora_B.weight"
MOST_SAID = 160


def family(tensors: Mapping[str, Tensor]) -> Family | None:
    """Whose names these are; None where no translation is needed, or none is known."""
    if any(map(_Z_IMAGE.match, tensors)):
        return "z-image"
    if any(map(_FUSED.match, tensors)):
        return "z-image, fused"
    if any(map(_BLACK_FOREST.match, tensors)):
        return _of_flux(tensors) or "flux"
    return None


def renamed(path: Path, tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The same LoRA in diffusers' words, alphas in its numbers.

    Raises:
        UsageError: There is no such layer in that kind of model.
    """
    if any("dora_scale" in key for key in tensors):
        raise UsageError(
            f"LoRA {path} has magnitudes (DoRA), which cannot be read in this layout",
            fix="use a LoRA that was trained without them",
        )
    if family == "z-image, fused":
        return _unfused(tensors)
    if family == "flux":
        raise UsageError(
            f"LoRA {path} names layers as Black Forest Labs do, and no size in it tells which FLUX",
            fix="use a LoRA of a whole FLUX.1 or FLUX.2 model, or a file in the diffusers layout",
        )
    import diffusers
    from diffusers.utils import logging

    pipeline: Any = getattr(diffusers, _PIPELINES[family])
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        found: dict[str, Tensor] = pipeline.lora_state_dict(dict(tensors), local_files_only=True)
    except (ValueError, KeyError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:MOST_SAID]
        raise UsageError(
            f"LoRA {path} names layers that a {family} model has not: {reason}",
            fix="use a LoRA that was trained on this backbone",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    if family == "flux2" and _NORM_UP in found:
        # The authors' halves are shift and scale, diffusers' the other way round; its converter of
        # checkpoints knows, and that of FLUX.2's LoRAs does not.
        found[_NORM_UP] = torch.cat(found[_NORM_UP].chunk(2)[::-1])
    return found


def _of_flux(tensors: Mapping[str, Tensor]) -> Family | None:
    """FLUX.1 and FLUX.2 share most names and differ in how wide their feed-forward is."""
    if any("_stream_modulation" in key for key in tensors):
        return "flux2"
    for key, widths in _widths(tensors).items():
        layer = re.search(r"(linear[12]|mlp[._][02])$", key)
        narrow, wide = sorted(widths)
        if layer is not None and wide % narrow == 0:
            found = _SPREAD.get((layer[1].replace("_", "."), wide // narrow))
            if found is not None:
                return found
    return None


def _widths(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """What layers take and give, by the parts of their keys before the matrix."""
    downs: dict[str, int] = {}
    ups: dict[str, int] = {}
    for key, tensor in tensors.items():
        if match := re.fullmatch(r"(.+)\.lora_(A|B|down|up)\.(?:\w+\.)?weight", key):
            is_down = match[2] in ("A", "down")
            (downs if is_down else ups)[match[1]] = tensor.shape[1 if is_down else 0]
    return {key: (downs[key], ups[key]) for key in downs.keys() & ups.keys()}


def _unfused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of one projection are three layers in diffusers."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _FUSED.match(key)
        if match is None:
            found[key] = tensor
            continue
        rest = key[match.end() :]
        if match[2] == "out":
            found[f"{match[1]}.to_out.0.{rest}"] = tensor
            continue
        is_up = rest.startswith(("lora_B", "lora_up"))
        parts = tensor.chunk(3) if is_up else [tensor] * 3
        for name, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
            found[f"{match[1]}.{name}.{rest}"] = part.contiguous()
    return found


def refuse_mixed(path: Path, unknown: Collection[str]) -> None:
    """See that no layer of a UNet's file is one that no UNet has.

    Raises:
        UsageError: There is.
    """
    if unknown:
        raise UsageError(
            f"LoRA {path} names {min(unknown)}, which no UNet of Stable Diffusion has",
            fix="use a LoRA that was trained on this backbone, or make the file again",
        )
