"""How LoRA files name their tensors: the layout of a file, told from its keys alone.

Three layouts look right and are not: diffusers loads them without an exception and changes nothing
of the model. They are read here, since what they mean is plain, and are never written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

Format = Literal["diffusers", "kohya", "peft", "comfy"]
Layout = Literal[
    "diffusers", "kohya", "peft", "comfy", "authors", "bare", "adapter-name", "old-diffusers"
]
Prefix = Literal["unet", "transformer"]

# Of layouts that name a layer as its module is called; the rest need diffusers to be understood.
_MATRIX = re.compile(
    r"(?:(?P<stem>base_model\.model|diffusion_model|transformer|unet|pipe\.dit)\.)?"
    r"(?P<path>.+)\.(?P<matrix>lora_A|lora_B|lora_down|lora_up)\.(?:(?P<adapter>\w+)\.)?weight"
)
_ALPHA = re.compile(
    r"(?:(?:base_model\.model|diffusion_model|transformer|unet|pipe\.dit)\.)?(?P<path>.+)\.alpha"
)
# What no layer of a transformer is called in any of the backbones.
_OF_UNET = re.compile(r"(down_blocks|mid_block|up_blocks|time_embedding|conv_in|conv_out)\b.*")
_OF_Z_IMAGE = re.compile(r"(layers|noise_refiner|context_refiner)\.\d+\..*")
_OF_STEM: Mapping[str, Layout] = {
    "base_model.model": "peft",
    "diffusion_model": "comfy",
    "pipe.dit": "authors",
}
_TEXT = ("text_encoder.", "text_encoder_2.", "lora_te_", "lora_te1_", "lora_te2_")


class Name(NamedTuple):
    """What one key says.

    Attributes:
        stem: What stands before the path, such as ``unet``; empty where nothing does.
        adapter: PEFT's name of the adapter, where the key has it inside.
    """

    stem: str
    path: str
    is_down: bool
    adapter: str


def named(key: str) -> Name | None:
    """The layer and the side of a key; None where it names its layer in another way."""
    if key.startswith("lora_unet_") or (match := _MATRIX.fullmatch(key)) is None:
        return None
    is_down = match["matrix"] in ("lora_A", "lora_down")
    return Name(match["stem"] or "", match["path"], is_down, match["adapter"] or "")


def alpha_of(key: str) -> str | None:
    """The layer whose alpha a key holds."""
    match = _ALPHA.fullmatch(key)
    return match and match["path"]


def is_of_text(key: str) -> bool:
    """Whether a tensor changes a text encoder, which this program leaves as it is."""
    return key.startswith(_TEXT)


def layout_of(keys: Collection[str]) -> Layout | None:
    """The layout of a file; None for one that is no LoRA."""
    ours = [key for key in keys if not is_of_text(key)]
    if any(key.startswith("lora_unet_") for key in ours):
        return "kohya"
    found = next((name for key in ours if (name := named(key)) is not None), None)
    if found is None:
        is_old = any("lora." in key and key.endswith(".weight") for key in ours)
        return "old-diffusers" if is_old else None
    if not found.stem:
        return "authors" if found.adapter else "bare"
    is_understood = found.stem == "diffusion_model" and _OF_Z_IMAGE.fullmatch(found.path)
    if found.adapter and not is_understood:
        return "adapter-name"
    return _OF_STEM.get(found.stem, "diffusers")


def strangers(paths: Collection[str]) -> set[str]:
    """Of paths of which some are a UNet's, those that are not."""
    found = {path for path in paths if not _OF_UNET.fullmatch(path)}
    return found if len(found) < len(set(paths)) else set()


def prefix_of(paths: Collection[str]) -> Prefix:
    """Which part of a pipeline these layers belong to."""
    return "unet" if all(map(_OF_UNET.fullmatch, paths)) else "transformer"


def flaw(layout: Layout, paths: Collection[str]) -> str | None:
    """Why other programs would load a file without a word and change nothing, if they would."""
    match layout:
        case "bare":
            return "its keys name layers without a prefix, so diffusers loads nothing of it"
        case "adapter-name":
            return (
                "its keys have a prefix and the name of an adapter too, so diffusers refuses it, "
                "or makes fresh layers that change nothing"
            )
        # Diffusers knows these names of Z-Image alone.
        case "authors" if not all(map(_OF_Z_IMAGE.fullmatch, paths)):
            return (
                "its keys have the name of an adapter and no prefix, so diffusers loads nothing "
                "of it"
            )
    return None
