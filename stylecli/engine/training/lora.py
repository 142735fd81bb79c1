"""Fit LoRAs to the pictures of styles (DiffStyler eq. 3), resumable to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import store
from stylecli.backbone.lora import COLOURS, laid_out, plain_config
from stylecli.backbone.lora_names import Prefix
from stylecli.backbone.lora_trial import part_of
from stylecli.backbone.model import Backbone
from stylecli.engine.context import Reporter
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.training import factors
from stylecli.engine.training.draws import Draw
from stylecli.engine.training.encoded import Encoded, Seen
from stylecli.engine.training.together import Material, Pupils, cells
from stylecli.errors import InputError, UsageError
from stylecli.recipe.schema import Lora
from stylecli.tensors.colour import Colours

# Settings in force of which the latents of pictures depend.
PICTURED = ("tiling", "channels_last")
# By the width of a UNet's prompts, as model hubs call them.
ARCHITECTURES = {
    768: "stable-diffusion-v1",
    1024: "stable-diffusion-v2-512",
    2048: "stable-diffusion-xl-v1-base",
}


@dataclass(frozen=True, slots=True)
class StylePicture:
    """One training picture: its file, its bytes' digest and its caption."""

    path: Path
    sha256: str
    caption: str


@dataclass(frozen=True, slots=True)
class Course:
    """What one LoRA is to be learned from, and where it is kept until it is."""

    pictures: Sequence[StylePicture]
    state_file: Path


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
    # In tiles or laid out otherwise, pictures are other latents; rows of one LoRA pass together.
    tuned = {key: backbone.tuned[key] for key in PICTURED if key in backbone.tuned}
    decisive = settings.model_dump(exclude={"prompt", "save_every", "gradient_checkpointing"})
    return store.digest(
        {
            "kind": "lora with colours",
            "model": backbone.fingerprint,
            **backbone.precision,
            **({"tuned": tuned} if tuned else {}),
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
    """Train one LoRA; see `fit_together`."""
    course = Course(pictures, state_file)
    (fitted,) = fit_together(backbone, [course], settings, seed=seed, reporter=reporter, team=team)
    return fitted


def fit_together(
    backbone: Backbone,
    courses: Sequence[Course],
    settings: Lora,
    *,
    seed: int,
    reporter: Reporter,
    rows: int = 1,
    encoded: Encoded | None = None,
    team: Team = ALONE,
) -> list[Fitted]:
    """Train LoRAs side by side; the model is the base throughout.

    Everything random comes from ``(seed, step)``, so the result depends neither on the device's
    generator nor on how often the run was interrupted, and on how many processes share the rows of
    a step, or how many LoRAs a pass, no more than a sum does on its order. State files are left for
    the caller, who removes them once the LoRAs are on the disk.

    Args:
        courses: One for each LoRA.
        settings: Of all of them; the prompt counts for nothing, since pictures have captions.
        rows: That pass the model together, of whichever LoRAs.
        encoded: What is known of pictures and captions; default: nothing.
        team: Who trains together; called in its `same_fate`.

    Raises:
        UsageError: A state file belongs to a run with other settings.
        ImageError: A picture cannot be read.
        ItemError: A loss is NaN or infinite.
    """
    if settings.crop == "random" and settings.crop_px < backbone.multiple_px:
        raise UsageError(
            f"lora.crop_px {settings.crop_px} is too small for this backbone",
            fix=f"use {backbone.multiple_px} or more",
        )
    encoded = encoded or Encoded(backbone)
    seen = [
        [encoded.picture(picture.path, picture.sha256, settings) for picture in course.pictures]
        for course in courses
    ]
    materials = [
        _material(backbone, course, own, encoded, settings, seed)
        for course, own in zip(courses, seen, strict=True)
    ]
    pupils = Pupils(backbone, materials, settings, seed=seed, rows=rows, team=team)
    files = ", ".join(str(course.state_file) for course in courses)
    team.must_agree(f"states in {files}", str(pupils.done))
    before = pupils.losses(base=True)
    total = settings.steps * len(courses)
    with _frugal(backbone.unet, settings), reporter.task("train", total) as task:
        task.advance(sum(pupils.done))
        while active := pupils.step():
            task.advance(active)
            pupils.save()
        pupils.look()
    after = pupils.losses()
    headers = [
        _header(backbone, course.pictures, own, settings, seed)
        for course, own in zip(courses, seen, strict=True)
    ]
    part = part_of(backbone.unet)
    learned = zip(headers, pupils.tensors(), before, after, strict=True)
    return [
        _fitted(header, settings, part, tensors, was, now) for header, tensors, was, now in learned
    ]


def _material(
    backbone: Backbone,
    course: Course,
    seen: Sequence[Seen],
    encoded: Encoded,
    settings: Lora,
    seed: int,
) -> Material:
    latents = [(own.mean, own.deviation) for own in seen]
    captions = [picture.caption for picture in course.pictures]
    return Material(
        latents=latents,
        captions=captions,
        embeds=encoded.captions(captions),
        fixed=Draw.fixed(backbone, latents, seed, cells(settings, backbone)),
        state_file=course.state_file,
        key=identity(backbone, course.pictures, settings, seed),
    )


def _fitted(
    header: Mapping[str, str],
    settings: Lora,
    part: Prefix,
    tensors: Mapping[str, Tensor],
    before: Float[Tensor, " pairs"],
    after: Float[Tensor, " pairs"],
) -> Fitted:
    config = factors.config(settings)
    dtype = torch.float16 if settings.dtype == "float16" else torch.float32
    laid, layout_header = laid_out(tensors, config, layout=settings.format, dtype=dtype, part=part)
    difference = before - after
    return Fitted(
        tensors=laid,
        header=layout_header | dict(header),
        peft_config=plain_config(config),
        loss_before=float(before.mean()),
        loss_after=float(after.mean()),
        standard_error=float(difference.std() / math.sqrt(len(difference))),
    )


@contextmanager
def _frugal(unet: Any, settings: Lora) -> Iterator[None]:
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        unet.disable_gradient_checkpointing()


def _header(
    backbone: Backbone,
    pictures: Sequence[StylePicture],
    seen: Sequence[Seen],
    settings: Lora,
    seed: int,
) -> dict[str, str]:
    """What sd-scripts, ComfyUI and model hubs look for. No paths, no names of people."""
    width = int(backbone.unet.config.get("cross_attention_dim", 0))
    second = width == 1024
    velocity = backbone.schedule.prediction_type == "v_prediction"
    of_second = "sd_v2_v" if velocity else "sd_v2"
    versions = {768: "sd_v1", 1024: of_second, 2048: "sdxl_base_v1-0"}
    version = versions.get(width, backbone.name)
    architecture = ARCHITECTURES.get(width, backbone.name)
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
        COLOURS: Colours.of_moments([own.colours for own in seen]).to_json(),
    }
