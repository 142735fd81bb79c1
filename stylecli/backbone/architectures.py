"""The models of the registry as their authors published them, but for the weights.

Configurations are facts, and small: with them a model can be planned and timed that is not on the
machine, and a checkpoint can be read that is a single file. They are laid out as a diffusers
folder.
"""

from __future__ import annotations

import atexit
import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stylecli.errors import UsageError

_STABLE_DIFFUSION = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
}
# Of full size, by the names of backbones: what costs and tests need where no weights are.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "sd15": {**_STABLE_DIFFUSION, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21-base": {
        **_STABLE_DIFFUSION,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "z-image": {
        "in_channels": 16,
        "dim": 3840,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "n_heads": 30,
        "n_kv_heads": 30,
        "cap_feat_dim": 2560,
        "axes_dims": (32, 48, 48),
    },
    "flux2-klein": {
        "in_channels": 128,
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "joint_attention_dim": 7680,
        "mlp_ratio": 3.0,
        "guidance_embeds": False,
    },
    "hidream-o1": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}
VAE: Mapping[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
VAE_OF_XL = {**VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}
# FLUX.1's, which Z-Image uses too: more channels, and no convolutions around the latents.
VAE_OF_FLUX = {
    **VAE,
    "sample_size": 1024,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
CLIP_L: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 0,
    # What transformers take for a file of before they read the end of a prompt by its token.
    "eos_token_id": 2,
    "pad_token_id": 1,
}
# OpenCLIP's H/14, of which Stable Diffusion 2 leaves out the last layer.
CLIP_H = {
    **CLIP_L,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
# OpenCLIP's bigG/14, with its projection.
CLIP_G = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
T5_XXL: Mapping[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
QWEN3_4B: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}
# What all Stable Diffusions were taught with.
NOISE: Mapping[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
FLOW: Mapping[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
# Of CLIP's tokenizers, by what fills a prompt up.
START, END = "<|startoftext|>", "<|endoftext|>"
TOKENIZERS = {"first": END, "second": "!"}
# In open_clip's package.
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model of a pipeline.

    Attributes:
        library: diffusers or transformers.
        cls: Its class there.
    """

    library: str
    cls: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A pipeline.

    Attributes:
        parts: By the names of their folders.
        tokenizers: Folders of CLIP's tokenizers, and which of `TOKENIZERS` they are; of others the
            vocabulary is not at hand.
    """

    pipeline: str
    parts: Mapping[str, Part]
    scheduler: Mapping[str, Any]
    tokenizers: Mapping[str, str] = field(default_factory=dict)


def _unet(config: Mapping[str, Any]) -> Part:
    return Part(library="diffusers", cls="UNet2DConditionModel", config=config)


def _vae(config: Mapping[str, Any], cls: str = "AutoencoderKL") -> Part:
    return Part(library="diffusers", cls=cls, config=config)


def _text(config: Mapping[str, Any], cls: str = "CLIPTextModel") -> Part:
    return Part(library="transformers", cls=cls, config=config)


ARCHITECTURES: Mapping[str, Architecture] = {
    "sd15": Architecture(
        pipeline="StableDiffusionPipeline",
        parts={
            "unet": _unet(CONFIGS["sd15"]),
            "vae": _vae(VAE),
            "text_encoder": _text(CLIP_L),
        },
        scheduler=NOISE,
        tokenizers={"tokenizer": "first"},
    ),
    "sd21-base": Architecture(
        pipeline="StableDiffusionPipeline",
        parts={
            "unet": _unet(CONFIGS["sd21-base"]),
            "vae": _vae(VAE),
            "text_encoder": _text(CLIP_H),
        },
        scheduler=NOISE,
        tokenizers={"tokenizer": "second"},
    ),
    "sdxl": Architecture(
        pipeline="StableDiffusionXLPipeline",
        parts={
            "unet": _unet(CONFIGS["sdxl"]),
            "vae": _vae(VAE_OF_XL),
            "text_encoder": _text(CLIP_L),
            "text_encoder_2": _text(CLIP_G, "CLIPTextModelWithProjection"),
        },
        scheduler=NOISE,
        tokenizers={"tokenizer": "first", "tokenizer_2": "second"},
    ),
    "z-image": Architecture(
        pipeline="ZImagePipeline",
        parts={
            "transformer": Part(
                library="diffusers", cls="ZImageTransformer2DModel", config=CONFIGS["z-image"]
            ),
            "vae": _vae(VAE_OF_FLUX),
            "text_encoder": _text(QWEN3_4B, "Qwen3Model"),
        },
        scheduler=FLOW,
    ),
    "flux2-klein": Architecture(
        pipeline="Flux2KleinPipeline",
        parts={
            "transformer": Part(
                library="diffusers", cls="Flux2Transformer2DModel", config=CONFIGS["flux2-klein"]
            ),
            "vae": _vae(
                {"sample_size": 1024, "block_out_channels": VAE["block_out_channels"]},
                "AutoencoderKLFlux2",
            ),
            "text_encoder": _text(QWEN3_4B, "Qwen3Model"),
        },
        scheduler={
            **FLOW,
            "use_dynamic_shifting": True,
            "time_shift_type": "exponential",
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
    ),
}


def lay_out(
    name: str,
    folder: Path,
    *,
    tokenizers: bool = True,
    scheduler: Mapping[str, Any] | None = None,
) -> Path:
    """Write what a diffusers folder of a model holds beside its weights.

    Args:
        name: In `ARCHITECTURES`.
        folder: Made where it is not there.
        tokenizers: CLIP's too.
        scheduler: Another config than the published one.

    Returns:
        The folder.

    Raises:
        UsageError: Of this model nothing is known but its name.
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"of {name} no configuration ships with style",
            fix=f"use one of {', '.join(ARCHITECTURES)}, or a folder with its configs",
        )
    found = ARCHITECTURES[name]
    index: dict[str, Any] = {"_class_name": found.pipeline}
    for part, said in found.parts.items():
        index[part] = [said.library, said.cls]
        own = {"_class_name": said.cls} if said.library == "diffusers" else _of_transformers(said)
        _write(folder / part / "config.json", {**own, **said.config})
    said_of_noise = scheduler or found.scheduler
    index["scheduler"] = ["diffusers", said_of_noise["_class_name"]]
    _write(folder / "scheduler" / "scheduler_config.json", said_of_noise)
    if tokenizers:
        for part, which in found.tokenizers.items():
            index[part] = ["transformers", "CLIPTokenizer"]
            _save_tokenizer(folder / part, TOKENIZERS[which])
    _write(folder / "model_index.json", index)
    return folder


@cache
def on_paper(name: str) -> Path:
    """`lay_out` without tokenizers, in a folder that lasts as long as the process.

    Raises:
        UsageError: As `lay_out`.
    """
    return lay_out(name, _passing() / name, tokenizers=False)


@cache
def in_passing(name: str, scheduler: str) -> Path:
    """`lay_out` in a folder that lasts as long as the process.

    Args:
        name: In `ARCHITECTURES`.
        scheduler: Another config than the published one, as JSON.
    """
    return lay_out(name, _passing() / name, scheduler=json.loads(scheduler))


def _passing() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="style-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _of_transformers(part: Part) -> dict[str, Any]:
    kind = "qwen3" if part.cls.startswith("Qwen3") else "clip_text_model"
    return {"architectures": [part.cls], "model_type": kind}


def _write(file: Path, said: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(said, indent=1), encoding="utf-8")


def _save_tokenizer(folder: Path, filler: str) -> None:
    """CLIP's, of the vocabulary that open_clip carries: all of OpenAI's and OpenCLIP's have it."""
    from transformers import CLIPTokenizer

    merges = _merges()
    letters = _letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=filler,
        model_max_length=CLIP_L["max_position_embeddings"],
    ).save_pretrained(folder)


def _letters() -> list[str]:
    """A letter for each byte: its own where it can be seen, and the next ones there are."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    seen += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + place) for place in range(len(others))]


def _merges() -> list[tuple[str, str]]:
    """Pairs of pieces in the order they are joined; the package need not be imported for them."""
    found = find_spec("open_clip")
    assert found is not None, "open_clip is installed with style"  # noqa: S101
    (package,) = list(found.submodule_search_locations or ())
    text = gzip.decompress((Path(package) / VOCABULARY).read_bytes()).decode()
    count = CLIP_L["vocab_size"] - 2 * 256 - 2
    pairs = (line.split() for line in text.split("\n")[1 : 1 + count])
    return [(left, right) for left, right in pairs]
