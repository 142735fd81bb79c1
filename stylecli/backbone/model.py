"""A frozen latent diffusion model behind five verbs: posterior, encode, decode, embed, predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylecli.backbone.attention import UnetExchange
from stylecli.backbone.exchange import Exchange
from stylecli.backbone.levels import Schedule
from stylecli.backbone.offload import Offload
from stylecli.recipe.schema import Injection
from stylecli.recipe.strict import Quantize


@dataclass(eq=False)
class Backbone:
    """Stable Diffusion's parts on one device, frozen, in eval mode.

    Latents are always float32 and scaled by ``vae.config.scaling_factor``; the UNet runs in
    `dtype`, the VAE in float32 (float16 overflows in many VAEs).

    Attributes:
        fingerprint: Digest of every weight and config file; part of each result's identity.
        device: Where it computes; weights may wait elsewhere.
        quantize: How the frozen weights of the denoiser are kept.
        max_rows: Rows that pass together, and pictures; None is all that are asked for.
        channels_last: The layout of weights and of what they see.
        offload: Where weights wait; None is on the device.
        tuned: Settings that may change the last bits of what is computed here, where they are not
            the usual ones; part of the identity of what is cached.
    """

    name: str
    fingerprint: str
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype
    quantize: Quantize = "none"
    max_rows: int | None = None
    channels_last: bool = True
    offload: Offload | None = None
    tuned: Mapping[str, object] = field(default_factory=dict)

    @property
    def precision(self) -> dict[str, str]:
        """What the model computes with besides its files: part of each result's identity."""
        return precision(self.dtype, self.quantize)

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """What may wait elsewhere while another is at work."""
        vae = self.vae
        halves = (vae.encoder, vae.decoder, vae.quant_conv, vae.post_quant_conv)
        return {
            "text encoder": [self.text_encoder],
            "vae": [half for half in halves if half],
            "unet": [self.unet],
        }

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """What the denoiser is made of, in the order it runs."""
        unet = self.unet
        return [one for one in (*unet.down_blocks, unet.mid_block, *unet.up_blocks) if one]

    def exchange(self, injection: Injection) -> Exchange:
        """What a recipe asks to be handed from pass to pass in this model's layers.

        Raises:
            RecipeError: A layer that this model does not have.
        """
        return UnetExchange.of(self.unet, injection)

    @property
    def latent_channels(self) -> int:
        return int(self.unet.config.in_channels)

    def reads(self, prompt: str) -> tuple[int, int]:
        """How many tokens a prompt has, and how many of them are read at most."""
        return len(self.tokenizer(prompt).input_ids), int(self.tokenizer.model_max_length)

    @property
    def words_shape(self) -> tuple[int, int]:
        """Of a prompt's embeddings: tokens and width."""
        tokens = int(self.text_encoder.config.max_position_embeddings)
        return tokens, int(self.unet.config.cross_attention_dim)

    @cached_property
    def scaling_factor(self) -> float:
        return float(self.vae.config.scaling_factor)

    @cached_property
    def latent_px(self) -> int:
        """Pixels per latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @cached_property
    def multiple_px(self) -> int:
        """Picture sides must be multiples of this, or the UNet's skips do not meet."""
        return int(self.latent_px * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @torch.inference_mode()
    def posterior(
        self, images: Float[Tensor, "b 3 height width"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Scaled mean and deviation of the VAE posterior for images in [0, 1]."""
        means, deviations = [], []
        for some in images.split(self.max_rows or len(images)):
            pixels = some.to(self.device, torch.float32) * 2 - 1
            latent_dist = self.vae.encode(self._laid_out(pixels)).latent_dist
            means.append((latent_dist.mean * self.scaling_factor).contiguous())
            deviations.append((latent_dist.std * self.scaling_factor).contiguous())
        return torch.cat(means), torch.cat(deviations)

    def encode_image(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Latents of images in [0, 1]: the posterior's mean, never a sample."""
        return self.posterior(images)[0]

    @torch.inference_mode()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Images in [0, 1] from scaled latents."""
        pictures = []
        for some in latents.split(self.max_rows or len(latents)):
            pixels = self.vae.decode(self._laid_out(some / self.scaling_factor)).sample
            pictures.append((pixels / 2 + 0.5).clamp(0, 1).contiguous())
        return torch.cat(pictures)

    def _laid_out(self, pixels: Tensor) -> Tensor:
        return pixels.contiguous(memory_format=_layout(self.channels_last))

    def lay_out(self, *, channels_last: bool) -> None:
        """Convolutions are 2 to 4 times faster with channels last, on most CPUs too."""
        self.channels_last = channels_last
        for part in (self.unet, self.vae):
            part.to(memory_format=_layout(channels_last))

    @torch.inference_mode()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "b tokens width"]:
        """Prompt embeddings, each prompt padded and cut to the tokenizer's length."""
        tokens = tokenized(self.tokenizer, prompts)
        # Stable Diffusion passes a mask only to text encoders that ask for it.
        wants_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if wants_mask else None
        hidden = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0]
        return cast(Tensor, hidden.to(self.dtype))

    def predict(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: int,
        prompt_embeds: Float[Tensor, "b tokens width"],
    ) -> Float[Tensor, "b c h w"]:
        """The UNet's raw output in float32, one row per latent."""
        at_once = self.max_rows or len(latents)
        if len(latents) <= at_once:
            return self._pass(latents, timestep, prompt_embeds)
        chunks = zip(latents.split(at_once), prompt_embeds.split(at_once), strict=True)
        return torch.cat([self._pass(rows, timestep, embeds) for rows, embeds in chunks])

    def _pass(self, latents: Tensor, timestep: int, prompt_embeds: Tensor) -> Tensor:
        return self.call(latents.to(self.dtype), timestep, prompt_embeds).float()

    def call(
        self,
        latents: Float[Tensor, "b _seen h w"],
        timesteps: int | Int[Tensor, " b"],
        prompt_embeds: Float[Tensor, "b tokens width"],
    ) -> Float[Tensor, "b c h w"]:
        """The model itself, all rows at once; where gradients are wanted too.

        Args:
            latents: In the model's own type.
            timesteps: One for all rows, or one for each.
            prompt_embeds: From `encode_prompt`.
        """
        output = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=prompt_embeds,
            return_dict=False,
        )[0]
        return cast(Tensor, output)


def precision(dtype: torch.dtype, quantize: Quantize) -> dict[str, str]:
    """The type of a model's numbers, and how its weights are kept where that is not as usual."""
    return {"dtype": str(dtype), **({} if quantize == "none" else {"quantize": quantize})}


def tokenized(tokenizer: Any, prompts: list[str]) -> Any:
    """Token ids of prompts, each padded and cut to the tokenizer's length."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
