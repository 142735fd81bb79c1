"""Stock pipelines of diffusers around tiny models, and prompts that need no text encoder."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tests import small
from tests.small import noise

PX = 32
WIDTH = 16


def picture(seed: int) -> Image.Image:
    numbers = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


def half_mask() -> Image.Image:
    """White, that is to be painted, on the left."""
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    return mask


def sd(name: str, **parts: Any) -> Any:
    """`StableDiffusion...Pipeline` on the tiny UNet, which is loaded anew."""
    import diffusers
    from diffusers import AutoencoderKL, DDIMScheduler

    cls = getattr(diffusers, name)
    where = small.folder()
    pipeline = cls(
        vae=AutoencoderKL.from_pretrained(where / "vae"),
        text_encoder=None,
        tokenizer=None,
        unet=small.base_unet(),
        scheduler=DDIMScheduler.from_pretrained(where / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    return _quiet(pipeline)


def sd_controlnet(unet: nn.Module) -> Any:
    """A ControlNet that says something: new ones begin with zeros."""
    from diffusers import ControlNetModel

    built = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    return _random(built, seed=4)


def z_image(name: str, **parts: Any) -> Any:
    import diffusers
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[8, 4, 4],
            axes_lens=[128, 32, 32],
        )
        vae = AutoencoderKL(**_SMALL_VAE, sample_size=PX, scaling_factor=0.5, shift_factor=0.1)
    pipeline = getattr(diffusers, name)(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        transformer=_random(transformer, seed=2),
        **parts,
    )
    return _quiet(pipeline)


def z_image_controlnet() -> Any:
    from diffusers import ZImageControlNetModel

    built = ZImageControlNetModel(
        control_layers_places=[0],
        control_in_dim=4,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return _random(built, seed=5)


def klein(name: str) -> Any:
    import diffusers
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2Transformer2DModel,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(**_SMALL_VAE, sample_size=PX)
    pipeline = getattr(diffusers, name)(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=None,
        tokenizer=None,
        transformer=_random(transformer, seed=3),
    )
    return _quiet(pipeline)


_SMALL_VAE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "mid_block_add_attention": False,
}


def prompts(seed: int, pictures: int, width: int = WIDTH) -> Tensor:
    return noise(pictures, 6, width, seed=seed)


def _random(model: Any, *, seed: int) -> Any:
    """Every matrix random: what begins as zero would hide what is tested."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                size = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=random) * size)
    return model.requires_grad_(False).eval()


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
