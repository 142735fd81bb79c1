"""Fit a LoRA to the pictures of one style (DiffStyler eq. 3), resumable to the bit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.lora import COLOURS, export, plain_config
from stylecli.backbone.model import Backbone
from stylecli.backbone.objective import diffusion_loss
from stylecli.engine.context import Reporter
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training import lora_state
from stylecli.engine.training.draws import Draw
from stylecli.errors import InputError, ItemError, UsageError
from stylecli.recipe.schema import Lora
from stylecli.tensors.colour import Colours
from stylecli.tensors.seeds import generator

ADAPTER = "style"


@dataclass(frozen=True, slots=True)
class StylePicture:
    """One training picture: its file, its bytes' digest and its caption."""

    path: Path
    sha256: str
    caption: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained LoRA, ready to be written.

    Attributes:
        peft_config: For the folder layout of PEFT.
        loss_before: Mean loss on the fixed pairs with the base model.
        loss_after: The same with the LoRA.
        standard_error: Of the mean paired difference.
    """

    tensors: Mapping[str, Tensor]
    header: Mapping[str, str]
    peft_config: Mapping[str, Any]
    loss_before: float
    loss_after: float
    standard_error: float


def style_pictures(paths: Sequence[Path], prompt: str) -> list[StylePicture]:
    """Pair each picture with its caption: a ``.txt`` beside it wins over the common prompt.

    Raises:
        InputError: A caption cannot be read.
    """
    return [StylePicture(path, store.file_sha256(path), caption(path, prompt)) for path in paths]


def caption(picture: Path, prompt: str) -> str:
    """The caption of a picture, or the common prompt.

    Raises:
        InputError: It cannot be read.
    """
    file = caption_file(picture)
    try:
        return prompt if file is None else file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(
            f"caption {file} cannot be read: {reason}", fix="save it as UTF-8, or remove it"
        ) from error


def caption_file(picture: Path) -> Path | None:
    """The ``.txt`` beside a picture, where there is one."""
    file = picture.with_suffix(".txt")
    return file if file.is_file() else None


def identity(
    backbone: Backbone, pictures: Sequence[StylePicture], settings: Lora, seed: int
) -> str:
    """The digest of all that decides a LoRA's values; equal digests mean equal files."""
    decisive = settings.model_dump(exclude={"prompt", "save_every", "gradient_checkpointing"})
    return store.digest(
        {
            "kind": "lora with colours",
            "model": backbone.fingerprint,
            "dtype": str(backbone.dtype),
            "pictures": [[picture.sha256, picture.caption] for picture in pictures],
            "settings": decisive,
            "seed": seed,
        }
    )


def fit(
    backbone: Backbone,
    pictures: Sequence[StylePicture],
    settings: Lora,
    *,
    seed: int,
    state_file: Path,
    reporter: Reporter,
    team: Team = ALONE,
) -> Fitted:
    """Train one adapter; the UNet is the base model again afterwards.

    Everything random comes from ``(seed, step)``, so the result depends neither on the device's
    generator nor on how often the run was interrupted, and on how many processes share the rows of
    a step no more than a sum does on its order. The state file is left for the caller, who removes
    it once the LoRA is on the disk.

    Args:
        team: Who trains together; called in its `same_fate`.

    Raises:
        UsageError: `state_file` belongs to a run with other settings.
        ImageError: A picture cannot be read.
        ItemError: The loss is NaN or infinite.
    """
    latents = [_posterior(backbone, picture, settings) for picture in pictures]
    captions = sorted({picture.caption for picture in pictures} | {""})
    embeds = dict(zip(captions, backbone.encode_prompt(captions).clone(), strict=True))
    key = identity(backbone, pictures, settings, seed)
    cells = settings.crop_px // backbone.latent_px if settings.crop == "random" else None
    if settings.crop == "random" and settings.crop_px < backbone.multiple_px:
        raise UsageError(
            f"lora.crop_px {settings.crop_px} is too small for this backbone",
            fix=f"use {backbone.multiple_px} or more",
        )
    fixed = Draw.fixed(backbone, latents, seed, cells)

    parameters = _add_adapter(backbone.unet, settings, seed)
    adapters = Adapters(backbone.unet)
    adapters.adopt(ADAPTER)
    try:
        optimiser = torch.optim.AdamW(
            parameters.values(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.dtype == torch.float16)
        done = lora_state.resume(state_file, key, parameters, optimiser, scaler)
        team.must_agree(f"states in {state_file}", str(done))

        @torch.no_grad()
        def fixed_loss() -> Float[Tensor, " pairs"]:
            losses = torch.zeros(len(fixed), dtype=torch.float64)
            for pair in team.share(range(len(fixed))):
                embed = embeds[pictures[fixed[pair].index].caption][None]
                tensors = fixed[pair].tensors(backbone.device)
                losses[pair] = diffusion_loss(backbone, *tensors, embed).item()
            team.add_up([losses])
            return losses

        with adapters.use({}):
            before = fixed_loss()
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        if settings.gradient_checkpointing:
            backbone.unet.enable_gradient_checkpointing()
        with adapters.use({ADAPTER: 1.0}), reporter.task("train", settings.steps) as task:
            task.advance(done)
            for step in range(done, settings.steps):
                draws = Draw.of_step(backbone, latents, seed, step, settings.batch, cells)
                for draw in team.share(draws):
                    words = "" if draw.drops_caption(settings) else pictures[draw.index].caption
                    losses = diffusion_loss(
                        backbone, *draw.tensors(backbone.device), embeds[words][None]
                    )
                    loss = losses.mean() / len(draws)
                    if not torch.isfinite(loss):
                        raise ItemError(
                            f"the loss is {loss.item()} at step {step}",
                            fix="lower lora.lr, or use --dtype float32",
                        )
                    scaler.scale(loss).backward()
                team.add_up([p.grad for p in parameters.values() if p.grad is not None])
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad(set_to_none=True)
                task.advance()
                is_due = (step + 1) % settings.save_every == 0 and step + 1 < settings.steps
                if is_due and team.leads:
                    lora_state.save(state_file, key, step + 1, parameters, optimiser, scaler)
            after = fixed_loss()
        difference = before - after
        tensors, layout_header = export(
            backbone.unet,
            ADAPTER,
            layout=settings.format,
            dtype=torch.float16 if settings.dtype == "float16" else torch.float32,
        )
        return Fitted(
            tensors=tensors,
            header=layout_header | _header(backbone, pictures, settings, seed),
            peft_config=plain_config(backbone.unet.peft_config[ADAPTER]),
            loss_before=float(before.mean()),
            loss_after=float(after.mean()),
            standard_error=float(difference.std() / math.sqrt(len(difference))),
        )
    finally:
        backbone.unet.disable_gradient_checkpointing()
        adapters.remove(ADAPTER)
        backbone.unet.requires_grad_(False)


def _posterior(
    backbone: Backbone, picture: StylePicture, settings: Lora
) -> tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 c h w"]]:
    image = images.to_tensor(images.read(picture.path).pixels)
    geometry = images.Geometry.plan(
        *image.shape[-2:], short_side=settings.resolution, multiple=backbone.multiple_px
    )
    # Cut rather than pad: padding would be learned as part of the style.
    resized = images.crop_center(geometry.resize(image), backbone.multiple_px)
    mean, deviation = backbone.posterior(resized)
    return mean.cpu().clone(), deviation.cpu().clone()


def _colours(pictures: Sequence[StylePicture]) -> Colours:
    return Colours.of([images.to_tensor(images.read(picture.path).pixels) for picture in pictures])


def _add_adapter(unet: Any, settings: Lora, seed: int) -> dict[str, Tensor]:
    """Add the trainable pairs: A from N(0, 1/rank²), B zero, both float32.

    Raises:
        UsageError: A target is no linear layer of this UNet, which is as it was.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    module: torch.nn.Module = unet
    # A layer that once had a LoRA stays wrapped.
    linear = [
        name.removesuffix(".base_layer")
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    for target in settings.targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            raise UsageError(
                f"lora.targets {target} is no linear layer of this UNet",
                fix="use to_q, to_k, to_v, to_out.0",
            )
    alpha = settings.rank if settings.alpha is None else settings.alpha
    # PEFT draws from the global generator, which is not ours to move.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Other styles may be loaded; `Adapters` keeps them apart.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        unet.add_adapter(
            LoraConfig(
                r=settings.rank,
                lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
                init_lora_weights="gaussian",
                target_modules=list(settings.targets),
            ),
            adapter_name=ADAPTER,
        )
    cast_training_params(unet, torch.float32)
    parameters: dict[str, Tensor] = {
        name: p for name, p in module.named_parameters() if p.requires_grad
    }
    for name, parameter in parameters.items():
        if ".lora_A." in name:
            drawn = torch.randn(parameter.shape, generator=generator(seed, "init", name))
            parameter.data.copy_(drawn / settings.rank)
    return parameters


def _header(
    backbone: Backbone, pictures: Sequence[StylePicture], settings: Lora, seed: int
) -> dict[str, str]:
    """What sd-scripts, ComfyUI and model hubs look for. No paths, no names of people."""
    width = int(backbone.unet.config.cross_attention_dim)
    second = width == 1024
    velocity = backbone.schedule.prediction_type == "v_prediction"
    version = {768: "sd_v1", 1024: "sd_v2_v" if velocity else "sd_v2"}.get(width, backbone.name)
    architecture = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512"}.get(
        width, backbone.name
    )
    return {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(settings.rank),
        "ss_network_alpha": str(settings.rank if settings.alpha is None else settings.alpha),
        "ss_base_model_version": version,
        "ss_v2": str(second),
        "ss_steps": str(settings.steps),
        "ss_learning_rate": str(settings.lr),
        "ss_seed": str(seed),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.title": pictures[0].path.stem,
        "modelspec.trigger_phrase": pictures[0].caption,
        COLOURS: _colours(pictures).to_json(),
    }
