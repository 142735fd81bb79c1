"""Backbones made of configs alone: on the meta device to be counted, elsewhere to be timed.

What a pass costs does not depend on the numbers in it. These models have none that anybody trained,
so nothing that they draw may be kept; they are for plans and for `style bench --weights random`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.loading import OF_SDXL, json_of, scheduler_config
from stylecli.backbone.model import Backbone
from stylecli.backbone.registry import FLOWS, Kind
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.backbone.sdxl import SdxlBackbone
from stylecli.errors import WeightsError

META = torch.device("meta")


def backbone(
    kind: Kind, folder: Path, *, dtype: torch.dtype, size_px: int, device: torch.device = META
) -> Backbone:
    """The model that a diffusers folder describes, without the folder's weights.

    Off the meta device it has no text encoder: a prompt is random numbers of the shape that
    embeddings have.

    Args:
        kind: Of the model, as the registry says.
        folder: Only its configs are read.
        dtype: Of the denoiser and the text encoders.
        size_px: Short side of the pictures; see `flow_model.schedule`.
        device: Where it is made; on any but `META` it is filled with random numbers.

    Raises:
        WeightsError: A config is missing or damaged.
    """
    try:
        make = partial(_flow, kind, size_px=size_px) if kind in FLOWS else _unet
        made = make(folder=folder, dtype=dtype, device=device)
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise WeightsError(
            f"{folder.name}: a config cannot be read: {reason}",
            fix="copy or pull the folder again",
        ) from error
    if device != META:
        without_words(made)
    return made


def without_words(backbone: Backbone) -> None:
    """Have prompts be random numbers from now on, always the same."""

    def encode_prompt(prompts: list[str]) -> Float[Tensor, "b tokens width"]:
        shape = (len(prompts), *backbone.words_shape)
        if backbone.device == META:
            return torch.empty(shape, device=META, dtype=backbone.dtype)
        random = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=random).to(backbone.device, backbone.dtype)

    vars(backbone)["encode_prompt"] = encode_prompt


def _unet(folder: Path, dtype: torch.dtype, device: torch.device) -> Backbone:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def words(cls: Any, part: str) -> Any:
        return cls(CLIPTextConfig.from_pretrained(folder / part, local_files_only=True))

    with device:
        unet = _of_diffusers(UNet2DConditionModel, folder / "unet")
        vae = _of_diffusers(AutoencoderKL, folder / "vae")
    is_xl = unet.config.addition_embed_type == OF_SDXL
    with META:
        text_encoder = words(CLIPTextModel, "text_encoder")
        second = words(CLIPTextModelWithProjection, "text_encoder_2") if is_xl else None
    for part, own in ((unet, dtype), (vae, torch.float32), (text_encoder, dtype), (second, dtype)):
        _settle(part, own)
    for part in (unet, vae):
        part.to(memory_format=torch.channels_last)
    made: dict[str, Any] = {
        "name": folder.name,
        "fingerprint": "",
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": None,
        "schedule": NoiseSchedule.from_config(scheduler_config(folder)),
        "device": device,
        "dtype": dtype,
    }
    if second is None:
        return Backbone(**made)
    return SdxlBackbone(**made, text_encoder_2=second, tokenizer_2=None, is_silence_zero=True)


def _flow(
    kind: Kind, folder: Path, dtype: torch.dtype, size_px: int, device: torch.device
) -> Backbone:
    import diffusers
    from transformers import Qwen3Config, Qwen3Model

    from stylecli.backbone import denoisers, flow_model
    from stylecli.backbone.denoisers.parts import flow_scheduler
    from stylecli.backbone.denoisers.qwen import Qwen

    index = json_of(folder, "model_index.json")
    with device:
        model, vae = (
            _of_diffusers(getattr(diffusers, index[part][1]), folder / part)
            for part in ("transformer", "vae")
        )
    with META:
        config = Qwen3Config.from_pretrained(folder / "text_encoder", local_files_only=True)
        text: Any = Qwen3Model(config)
    for part, own in ((model, dtype), (vae, torch.float32), (text, dtype)):
        _settle(part, own)
    flow = denoisers.latent_flow(kind)(
        model,
        vae,
        Qwen(text, None, thinks=False, is_padded=False),
        flow_scheduler(folder),
        device=device,
        dtype=dtype,
    )
    return flow_model.of(flow, name=folder.name, fingerprint="", size_px=size_px)


def _of_diffusers(cls: Any, folder: Path) -> Any:
    return cls.from_config(cls.load_config(folder, local_files_only=True))


def _settle(part: Any, dtype: torch.dtype) -> None:
    if part is None:
        return
    # The libraries' own `to` warns of layers that no model here has.
    torch.nn.Module.to(part, dtype)
    part.requires_grad_(False).eval()
