"""The parts of every backbone at full size, from the published configurations, without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from stylecli.backbone.configs import (
    CLIP_G,
    CLIP_H,
    CLIP_L,
    CONFIGS,
    QWEN3_4B,
    T5_XXL,
    VAE,
    VAE_OF_FLUX,
    VAE_OF_XL,
)
from stylecli.backbone.denoisers.layer_sets import _hidream

_QWEN2_VL_TEXT: Mapping[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}


def _diffusers(name: str, config: Mapping[str, Any]) -> nn.Module:
    import diffusers

    model: nn.Module = getattr(diffusers, name).from_config(dict(config))
    return model


def _transformers(name: str, config: Mapping[str, Any]) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    model: nn.Module = cls(cls.config_class(**config))
    return model


# Backbone -> part -> how it is made, and how many parameters it has: those of the model cards and
# checkpoints, where these are known.
PARTS: Mapping[str, Mapping[str, tuple[Callable[[], nn.Module], int]]] = {
    "sd15": {
        "unet": (partial(_diffusers, "UNet2DConditionModel", CONFIGS["sd15"]), 859_520_964),
        "vae": (partial(_diffusers, "AutoencoderKL", VAE), 83_653_863),
        "text_encoder": (partial(_transformers, "CLIPTextModel", CLIP_L), 123_060_480),
    },
    "sd21-base": {
        "unet": (partial(_diffusers, "UNet2DConditionModel", CONFIGS["sd21-base"]), 865_910_724),
        "vae": (partial(_diffusers, "AutoencoderKL", VAE), 83_653_863),
        "text_encoder": (partial(_transformers, "CLIPTextModel", CLIP_H), 340_387_840),
    },
    "sdxl": {
        "unet": (partial(_diffusers, "UNet2DConditionModel", CONFIGS["sdxl"]), 2_567_463_684),
        "vae": (partial(_diffusers, "AutoencoderKL", VAE_OF_XL), 83_653_863),
        "text_encoder": (partial(_transformers, "CLIPTextModel", CLIP_L), 123_060_480),
        "text_encoder_2": (
            partial(_transformers, "CLIPTextModelWithProjection", CLIP_G),
            694_659_840,
        ),
    },
    "z-image": {
        "transformer": (
            partial(_diffusers, "ZImageTransformer2DModel", CONFIGS["z-image"]),
            6_154_908_736,
        ),
        "vae": (partial(_diffusers, "AutoencoderKL", VAE_OF_FLUX), 83_819_683),
        "text_encoder": (partial(_transformers, "Qwen3Model", QWEN3_4B), 4_022_468_096),
    },
    "flux2-klein": {
        "transformer": (
            partial(_diffusers, "Flux2Transformer2DModel", CONFIGS["flux2-klein"]),
            3_875_544_576,
        ),
        "vae": (partial(_diffusers, "AutoencoderKLFlux2", {}), 84_046_115),
        "text_encoder": (partial(_transformers, "Qwen3Model", QWEN3_4B), 4_022_468_096),
    },
    "hidream-o1": {"all": (partial(_hidream, CONFIGS["hidream-o1"]), 7_568_405_504)},
    "flux1-kontext": {
        "transformer": (
            partial(_diffusers, "FluxTransformer2DModel", CONFIGS["flux1-kontext"]),
            11_901_408_320,
        ),
        "vae": (partial(_diffusers, "AutoencoderKL", VAE_OF_FLUX), 83_819_683),
        "text_encoder": (partial(_transformers, "CLIPTextModel", CLIP_L), 123_060_480),
        "text_encoder_2": (partial(_transformers, "T5EncoderModel", T5_XXL), 4_762_310_656),
    },
    "judges": {
        "qwen2.5-vl-7b": (
            partial(
                _transformers,
                "Qwen2_5_VLForConditionalGeneration",
                {
                    "text_config": _QWEN2_VL_TEXT,
                    "vision_config": {"hidden_size": 1280, "out_hidden_size": 3584},
                },
            ),
            8_292_166_656,
        ),
        # 8,291,375,616 with the head for words, which the reward leaves out.
        "hpsv3": (
            partial(_transformers, "Qwen2VLModel", {"text_config": _QWEN2_VL_TEXT}),
            7_746_378_240,
        ),
    },
}


def on_paper(make: Callable[[], nn.Module]) -> nn.Module:
    """The architecture without its gigabytes."""
    with torch.device("meta"):
        return make()
