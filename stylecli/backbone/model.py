"""A frozen latent diffusion model behind five verbs: posterior, encode, decode, embed, predict.

Loading is strict. The library fills a tensor that a file lacks with random numbers; here that, an
unknown tensor or a wrong shape is an error that names it: weights are never silently random.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylecli.backbone.attention import UnetExchange
from stylecli.backbone.exchange import Exchange
from stylecli.backbone.levels import Schedule
from stylecli.backbone.offload import Offload
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.errors import WeightsError
from stylecli.recipe.schema import Injection


@dataclass(eq=False)
class Backbone:
    """Stable Diffusion's parts on one device, frozen, in eval mode.

    Latents are always float32 and scaled by ``vae.config.scaling_factor``; the UNet runs in
    `dtype`, the VAE in float32 (float16 overflows in many VAEs).

    Attributes:
        fingerprint: Digest of every weight and config file; part of each result's identity.
        device: Where it computes; weights may wait elsewhere.
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
    max_rows: int | None = None
    channels_last: bool = True
    offload: Offload | None = None
    tuned: Mapping[str, object] = field(default_factory=dict)

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
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
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


def load(
    name: str,
    folder: Path,
    *,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    is_resident: bool = True,
    is_editor: bool = False,
) -> Backbone:
    """Load a backbone from a local diffusers folder.

    Args:
        name: For messages and provenance.
        folder: From `stylecli.backbone.registry.snapshot`.
        fingerprint: Of that folder.
        device: Where it computes.
        dtype: Of the UNet and the text encoder.
        variant: Weight file variant, such as fp16.
        is_resident: All weights go to the device at once; else they stay in main memory until
            `stylecli.backbone.tuning.tune` has decided.
        is_editor: The UNet may see more than the latents that it denoises.

    Raises:
        WeightsError: Files missing or unreadable, a tensor missing, unknown or of another shape; or
            the UNet has to be told what nobody here can tell it.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    unet = load_part(UNet2DConditionModel, folder, "unet", dtype, variant)
    vae = load_part(AutoencoderKL, folder, "vae", torch.float32, variant)
    text_encoder = load_part(CLIPTextModel, folder, "text_encoder", dtype, variant)
    _refuse_unfit(name, unet.config, sees=None if is_editor else vae.config.latent_channels)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        scheduler = ConfigMixin._dict_from_json_file(folder / "scheduler" / "scheduler_config.json")
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{folder.name}: tokenizer or scheduler cannot be read: {_first_line(error)}",
            fix=f"style models verify {name}",
        ) from error
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, text_encoder.config.max_position_embeddings
    )
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False).eval()
        if is_resident:
            part.to(device)
    backbone = Backbone(
        name=name,
        fingerprint=fingerprint,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        schedule=NoiseSchedule.from_config(scheduler),
        device=device,
        dtype=dtype,
    )
    backbone.lay_out(channels_last=True)
    return backbone


def _refuse_unfit(name: str, unet: Any, *, sees: int | None) -> None:
    """See that a UNet needs nothing but latents, a timestep and words.

    Args:
        sees: Channels of those latents; None where others may come with them.

    Raises:
        WeightsError: It was made to be told more.
    """
    more = {
        "the size of the picture and pooled words, like SDXL's": unet.addition_embed_type,
        "classes": unet.class_embed_type or unet.num_class_embeds,
        "a mask or another picture": sees is not None and unet.in_channels != sees,
    }
    for what, is_wanted in more.items():
        if is_wanted:
            raise WeightsError(
                f"{name}: its UNet has to be told {what}, which this release cannot do",
                fix="use a model like Stable Diffusion 1.5 or 2.1-base",
            )


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def fingerprint(folder: Path) -> str:
    """One digest for all weight and config files of a snapshot.

    The hub's cache names a large file after its SHA-256, so those are not read again.
    """
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix not in (".json", ".safetensors", ".txt") or not file.is_file():
            continue
        if len(file.relative_to(folder).parts) != 2:
            continue
        blob = file.resolve().name
        if not re.fullmatch(r"[0-9a-f]{64}", blob):
            with file.open("rb") as stream:
                blob = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {blob}\n".encode())
    return total.hexdigest()[:16]


def load_part(
    cls: Any,
    folder: Path,
    part: str,
    dtype: torch.dtype,
    variant: str | None = None,
    *,
    ignored: Collection[str] = (),
    placed: Mapping[str, Any] | None = None,
) -> Any:
    """One model of a diffusers folder, on the CPU where `placed` does not say otherwise.

    Args:
        cls: Of diffusers or transformers.
        folder: What holds the part's own folder.
        part: Its name, such as unet.
        dtype: Of the weights.
        variant: Weight file variant, such as fp16.
        ignored: Tensors that files may hold and nobody wants.
        placed: What the library is told of quantization, and of where that happens.

    Raises:
        WeightsError: Files missing or unreadable, a tensor missing, unknown or of another shape.
    """
    where = folder / part
    if not where.is_dir():
        raise WeightsError(
            f"{folder.name}: no {part}/ folder", fix="give a complete diffusers folder"
        )
    if not any(where.glob("*.safetensors")):
        pickled = next(iter((*where.glob("*.bin"), *where.glob("*.ckpt"))), None)
        raise WeightsError(
            f"{folder.name}/{part}: no .safetensors file"
            + (f"; {pickled.name} is a pickle, which can run code" if pickled else ""),
            fix="get the safetensors files of this model, or convert the pickle where you trust it",
        )
    try:
        model, info = cls.from_pretrained(
            where,
            dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # but told of, and refused below by name
            **({} if part.startswith("text_encoder") else {"low_cpu_mem_usage": True}),
            **(placed or {}),
        )
    except Exception as error:  # the libraries raise many kinds for a damaged folder
        raise WeightsError(
            f"{folder.name}/{part}: cannot be loaded: {_first_line(error)}",
            fix="copy or pull the folder again",
        ) from error
    faults = {
        "missing": [k for k in info["missing_keys"] if not k.endswith("position_ids")],
        "unknown": [
            k for k in info["unexpected_keys"] if not k.endswith(("position_ids", *ignored))
        ],
        "of another shape": [k if isinstance(k, str) else k[0] for k in info["mismatched_keys"]],
    }
    for what, keys in faults.items():
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise WeightsError(
                f"{folder.name}/{part}: tensor {sorted(keys)[0]} is {what}{more}",
                fix="copy or pull the folder again; nothing was filled in at random",
            )
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
