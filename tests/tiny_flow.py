"""Tiny Z-Image and FLUX.2-klein of the real classes, saved by their own stock pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def z_image(seed: int = 0) -> Any:
    """A stock pipeline: latents of 4 channels, cells of 2 px, tokens of 2 x 2 cells."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[1024, 32, 32],
        )
        vae = AutoencoderKL(
            **_vae(), latent_channels=4, scaling_factor=0.36, shift_factor=0.12, sample_size=32
        )
        text_encoder = _qwen(width=16, layers=3)
    return ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), vae, text_encoder, _tokenizer(), transformer
    )


def klein(seed: int = 0) -> Any:
    """A stock pipeline: latents of 16 channels, cells of 4 px; 28 layers of text."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(**_vae(), latent_channels=4, sample_size=32)
        vae.bn.running_mean.uniform_(-0.5, 0.5)
        vae.bn.running_var.uniform_(0.5, 2.0)
        text_encoder = _qwen(width=8, layers=28, has_head=True)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae.eval(), text_encoder, _tokenizer(), transformer)


PIPELINES: dict[str, Callable[[], Any]] = {"z-image": z_image, "flux2": klein}


def save_folder(kind: str, folder: Path) -> Path:
    """As the pipeline itself saves it."""
    PIPELINES[kind]().save_pretrained(folder)
    return folder


def _vae() -> dict[str, Any]:
    return {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    }


def _qwen(*, width: int, layers: int, has_head: bool = False) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(
        vocab_size=256 + len(SPECIAL),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=width // 2,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    return (Qwen3ForCausalLM if has_head else Qwen3Model)(config).eval()


def _tokenizer() -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:3]})
    tokenizer.add_tokens(SPECIAL[3:])
    tokenizer.chat_template = CHAT
    return tokenizer
