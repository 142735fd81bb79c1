"""A tiny Stable Diffusion XL of the real classes, saved by its own stock pipeline."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from stylecli.backbone.sdxl import SdxlBackbone
from tests import tiny

WIDTHS = (16, 24)


def pipeline(folder: Path, seed: int = 0) -> Any:
    """Three blocks a side like the real one's, the outermost without attention."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    size = tiny.words(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            layers_per_block=2,
            norm_num_groups=8,
            cross_attention_dim=sum(WIDTHS),
            attention_head_dim=(2, 4, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTHS[1] + 6 * 8,
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
            scaling_factor=0.13025,
        )
        first = CLIPTextModel(tiny.clip_text(size, WIDTHS[0]))
        second = CLIPTextModelWithProjection(tiny.clip_text(size, WIDTHS[1]))
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(vae, first, second, tokenizer, tokenizer, unet, scheduler)


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    where = Path(kept.name)
    pipeline(where).save_pretrained(where / "sdxl")
    return kept, where / "sdxl"


def folder() -> Path:
    """A diffusers folder, made once a process."""
    return _folder()[1]


def backbone() -> SdxlBackbone:
    """A model of its own for whoever asks."""
    found = tiny.backbone(folder())
    assert isinstance(found, SdxlBackbone)
    return found
