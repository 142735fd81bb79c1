"""Tiny models of the real classes, made from config: random weights, but always the same ones."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch

from stylecli.backbone.loading import fingerprint, load
from stylecli.backbone.model import Backbone

WORDS = [
    "a",
    "picture",
    "in",
    "style",
    "of",
    "cat",
    "dog",
    "red",
    "blue",
    "sss",
    "<",
    ">",
    ",",
    ".",
    "the",
]


def save_folder(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    channels: tuple[int, ...] = (16, 16, 32, 32),
    width: int = 32,
    seed: int = 0,
    edits: bool = False,
) -> Path:
    """A complete diffusers folder of a Stable Diffusion with decoder layers 0 to 11.

    Args:
        edits: It sees a picture beside the noise, and reads whole instructions.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=8 if edits else 4,
            block_out_channels=channels,
            layers_per_block=2,
            norm_num_groups=8,
            cross_attention_dim=width,
            attention_head_dim=4,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
            mid_block_add_attention=False,
            scaling_factor=0.5,
        )
        length = 77 if edits else 16
        vocabulary = words(folder / "tokenizer", length, ascii_lowercase if edits else "")
        text_encoder = CLIPTextModel(clip_text(vocabulary, width, length))
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
        prediction_type=prediction_type,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionInstructPix2PixPipeline"
        if edits
        else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def backbone(folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    """The folder, loaded through the real route onto the CPU."""
    return load(
        str(folder),
        folder,
        fingerprint=fingerprint(folder),
        device=torch.device("cpu"),
        dtype=dtype,
    )


def randomise_lora(unet: torch.nn.Module, seed: int = 1, size: float = 0.3) -> None:
    """Give every LoRA's B matrix values, so that it changes something."""
    random = torch.Generator().manual_seed(seed)
    for name, parameter in unet.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=random) * size)


def clip_text(vocabulary: int, width: int, length: int = 16) -> Any:
    """The config of a text encoder of two layers; a projection of it is as wide."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        projection_dim=width,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=1,
    )


def words(folder: Path, length: int = 16, more: str = "") -> int:
    """Save a tokenizer of letters; how many tokens it knows."""
    from transformers import CLIPTokenizer

    letters = sorted({*"".join(WORDS), *more, *("-" if more else "")})
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in letters:
        vocabulary[letter] = len(vocabulary)
        vocabulary[f"{letter}</w>"] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=length)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)
