"""A tiny FLUX.1-Kontext of the real classes, saved by its own stock pipeline."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch

from stylecli.backbone.editors.flux_kontext import FluxKontext, load
from tests import tiny

TEXT_LENGTH = 24
WORDS = ("make", "turn", "the", "cat", "dog", "in", "style", "keep", "other", "area", "unchanged")


def transformer(
    *, double: int = 1, single: int = 2, heads: int = 2, head_dim: int = 16, text: int = 24
) -> Any:
    """Random, with tokens of 2 x 2 cells of 4 channels."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=head_dim,
        num_attention_heads=heads,
        joint_attention_dim=text,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(head_dim // 4, head_dim * 3 // 8, head_dim * 3 // 8),
    )


def pipeline(folder: Path, seed: int = 0, **sizes: int) -> Any:
    """The stock pipeline: latents of 4 channels, cells of 2 px, tokens of 4 px.

    Args:
        folder: For the CLIP tokenizer's files.
        seed: Of the weights.
        sizes: Of `transformer`.
    """
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        T5Config,
        T5EncoderModel,
        T5TokenizerFast,
    )

    vocabulary = tiny.words(folder / "clip")
    clip = CLIPTokenizer.from_pretrained(folder / "clip", model_max_length=16)
    letters = [(f"▁{letter}", -5.0) for letter in ascii_lowercase]
    letters += [(letter, -6.0) for letter in (*ascii_lowercase, "-", ",", "▁", "_")]
    named = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [*named, *((f"▁{word}", -2.0) for word in WORDS), *letters]
    t5 = T5TokenizerFast(vocab=words, extra_ids=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = transformer(**sizes)
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
            mid_block_add_attention=False,
            scaling_factor=0.36,
            shift_factor=0.12,
        )
        encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(words),
                d_model=denoiser.config.joint_attention_dim,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=2,
                feed_forward_proj="gated-gelu",
            )
        )
        pooling = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=16,
                eos_token_id=1,
                bos_token_id=0,
                pad_token_id=1,
            )
        )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxKontextPipeline(
        scheduler, vae.eval(), pooling.eval(), clip, encoder.eval(), t5, denoiser.eval()
    )


def save_folder(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """As the pipeline itself saves it."""
    pipeline(folder / "made", seed, **sizes).save_pretrained(folder / "kontext")
    return folder / "kontext"


def editor(
    folder: Path, *, dtype: torch.dtype = torch.float32, text_length: int = TEXT_LENGTH
) -> FluxKontext:
    """The folder, loaded through the real route onto the CPU."""
    return load(
        str(folder),
        folder,
        fingerprint="tiny",
        device=torch.device("cpu"),
        dtype=dtype,
        text_length=text_length,
    )
