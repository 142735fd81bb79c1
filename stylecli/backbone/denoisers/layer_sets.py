"""Which linear layers of a model get a LoRA from i2L, found without a single weight.

A layer set is a rule about paths. Which layers it fits, and their widths, is asked of the model
itself, built from its config on the meta device: a renamed module is an error, never a shorter
list. Left out on purpose are layers that see the tokens of all rows in one sequence (Z-Image's
``all_x_embedder`` and ``cap_embedder``): rows could not have LoRAs of their own there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylecli.backbone.linears import Layer, matching
from stylecli.errors import RecipeError, WeightsError

_ATTENTION = r"to_(q|k|v|out\.0)"
_BLOCK = r".*\.transformer_blocks\.\d+"
# Of UNets; convolutions in those that do not say otherwise.
_PROJECTIONS = r".*\.attentions\.\d+\.proj_(in|out)"
_Z_LINEARS = rf"\.\d+\.(attention\.{_ATTENTION}|feed_forward\.w[123])"
# Of each kind: layer set -> patterns; the first is what `auto` means.
_SETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "unet": {
        "attn": (rf"{_BLOCK}\.attn[12]\.{_ATTENTION}",),
        "attn2": (rf"{_BLOCK}\.attn2\.{_ATTENTION}",),
        "attn+ff": (
            rf"{_BLOCK}\.attn[12]\.{_ATTENTION}",
            rf"{_BLOCK}\.ff\.net\.(0\.proj|2)",
            _PROJECTIONS,
        ),
    },
    "z-image": {
        "full": tuple(
            rf"{part}{_Z_LINEARS}" for part in ("layers", "noise_refiner", "context_refiner")
        ),
        "layers": (rf"layers{_Z_LINEARS}",),
    },
    "flux2": {
        "full": (
            rf"transformer_blocks\.\d+\.attn\.({_ATTENTION}|add_[qkv]_proj|to_add_out)",
            r"transformer_blocks\.\d+\.ff(_context)?\.linear_(in|out)",
            r"single_transformer_blocks\.\d+\.attn\.to_(qkv_mlp_proj|out)",
        )
    },
    "hidream": {
        "full": (
            r"model\.language_model\.layers\.\d+\.self_attn\.[qkvo]_proj",
            r"model\.language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
        )
    },
}
CONFIG_FILES = {
    "unet": "unet/config.json",
    "z-image": "transformer/config.json",
    "flux2": "transformer/config.json",
    "hidream": "config.json",
}


def names(kind: str) -> tuple[str, ...]:
    """The layer sets of a kind, its usual one first."""
    return tuple(_SETS[kind])


def layers_of(kind: str, config: Mapping[str, Any], layer_set: str = "auto") -> tuple[Layer, ...]:
    """The layers of a set in natural order, which is that of every file and tensor of i2L.

    Args:
        kind: Of the denoiser: unet, z-image, flux2 or hidream.
        config: Of its UNet or transformer; of HiDream's language model, or the whole one.
        layer_set: One that the kind has; auto is its usual one.

    Raises:
        RecipeError: This kind has no such set.
        WeightsError: The config describes no such model.
    """
    # A loaded model's config also says where it came from, which changes no layer.
    said = {key: value for key, value in config.items() if not key.startswith("_")}
    return _layers(kind, json.dumps(said, sort_keys=True, default=list), layer_set)


def layers_in(kind: str, folder: Path, layer_set: str = "auto") -> tuple[Layer, ...]:
    """`layers_of` a model by its folder; its weights are not opened.

    Raises:
        RecipeError: This kind has no such set.
        WeightsError: No readable config, or one of another kind of model.
    """
    file = folder / CONFIG_FILES[kind]
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{folder.name}: {CONFIG_FILES[kind]} cannot be read",
            fix="give a complete folder of the model, or pull it again",
        ) from error
    return layers_of(kind, config, layer_set)


def within(kind: str, layers: Iterable[Layer], layer_set: str) -> tuple[Layer, ...]:
    """Those of some layers that a set has too; no config is needed.

    >>> within("z-image", [Layer("noise_refiner.0.feed_forward.w1", 8, 8)], "layers")
    ()
    """
    patterns = _SETS[kind][layer_set]
    return tuple(
        layer for layer in layers if any(re.fullmatch(one, layer.path) for one in patterns)
    )


@cache
def _layers(kind: str, config: str, layer_set: str) -> tuple[Layer, ...]:
    sets = _SETS[kind]
    name = next(iter(sets)) if layer_set == "auto" else layer_set
    if name not in sets:
        raise RecipeError(
            f"i2l.layer_set {name}: a {kind} model has {' and '.join(sets)}",
            fix=f"--set i2l.layer_set={next(iter(sets))}",
        )
    said = json.loads(config)
    patterns = sets[name]
    if kind == "unet" and not said.get("use_linear_projection"):
        patterns = tuple(pattern for pattern in patterns if pattern != _PROJECTIONS)
    try:
        with torch.device("meta"):
            model = _MODELS[kind](said)
    except Exception as error:  # the libraries raise many kinds for a config of another model
        raise WeightsError(
            f"the config is not one of a {kind} model: {str(error).partition(chr(10))[0][:200]}",
            fix="name the backbone that this model is, or give another folder",
        ) from error
    return matching(model, patterns)


def _unet(config: Mapping[str, Any]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    model: nn.Module = UNet2DConditionModel.from_config(config)
    return model


def _z_image(config: Mapping[str, Any]) -> nn.Module:
    from diffusers import ZImageTransformer2DModel

    model: nn.Module = ZImageTransformer2DModel.from_config(config)
    return model


def _flux2(config: Mapping[str, Any]) -> nn.Module:
    from diffusers import Flux2Transformer2DModel

    model: nn.Module = Flux2Transformer2DModel.from_config(config)
    return model


def _hidream(config: Mapping[str, Any]) -> nn.Module:
    """The language model at the path it has in HiDream's files."""
    from transformers import Qwen3VLTextConfig, Qwen3VLTextModel

    text = Qwen3VLTextModel(Qwen3VLTextConfig(**config.get("text_config", config)))
    return nn.ModuleDict({"model": nn.ModuleDict({"language_model": text})})


_MODELS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": _unet,
    "z-image": _z_image,
    "flux2": _flux2,
    "hidream": _hidream,
}
