"""Checkpoints of Stable Diffusion that are one file, as trainers and web interfaces write them.

A file says nothing of its configuration, so what it is has to be read off the names and sizes of
its tensors. diffusers converts the names; that nothing is missing afterwards, and nothing left over
in the UNet, is found out here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stylecli.backbone.architectures import ARCHITECTURES
from stylecli.errors import UsageError, WeightsError

if TYPE_CHECKING:
    import torch

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# Of text encoders: the file of which model has them.
_WORDS: Mapping[str, str] = {
    "conditioner.embedders.1.model.": "sdxl",
    "cond_stage_model.model.": "sd21-base",
    "cond_stage_model.transformer.": "sd15",
}
_REFINER = "conditioner.embedders.0.model."
_FIRST = f"{UNET}input_blocks.0.0.weight"
Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a file turned out to be.

    Attributes:
        architecture: In `stylecli.backbone.architectures.ARCHITECTURES`.
        prediction: What it says that it answers with; None where it says nothing.
        is_zero_snr: Its noisiest level has no signal, by what it says.
    """

    architecture: str
    prediction: Prediction | None = None
    is_zero_snr: bool = False

    @property
    def scheduler(self) -> dict[str, Any]:
        """The architecture's, with what the file says of itself."""
        said = dict(ARCHITECTURES[self.architecture].scheduler)
        if self.prediction is not None:
            said["prediction_type"] = self.prediction
        if self.is_zero_snr:
            said |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return said


def identify(file: Path) -> Found:
    """What a file holds; its header alone is read.

    Raises:
        WeightsError: Missing, a pickle, damaged, or without a part of a whole model.
        UsageError: A LoRA, or a model that is told more than words.
    """
    return _told(file, *_header(file))


def _told(file: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> Found:
    if not any(key.startswith(UNET) for key in shapes):
        if any("lora" in key for key in shapes):
            raise UsageError(f"{file} is a LoRA", fix="give it with --lora, and name its backbone")
        raise WeightsError(
            f"{file} is no checkpoint of Stable Diffusion: it has no {UNET} tensors",
            fix="give a whole checkpoint, or a diffusers folder",
        )
    name = next((name for stem, name in _WORDS.items() if _has(shapes, stem)), None)
    if name is None and _has(shapes, _REFINER):
        raise UsageError(f"{file} is SDXL's refiner", fix="give the base model")
    missing = {"text encoder": name is None, "autoencoder": not _has(shapes, VAE)}
    if lacks := [part for part, is_missing in missing.items() if is_missing]:
        raise WeightsError(
            f"{file} has no {' and no '.join(lacks)}",
            fix="give a whole checkpoint, or a diffusers folder",
        )
    channels = shapes.get(_FIRST, (0, 0))[1]
    if channels != 4:
        raise UsageError(
            f"{file}: its UNet sees {channels} channels, such as a mask or another picture",
            fix="give a checkpoint that draws from words alone",
        )
    said = metadata.get("modelspec.prediction_type", "")
    is_v = said.startswith("v") or "v_pred" in shapes
    prediction: Prediction | None = "v_prediction" if is_v else "epsilon" if said else None
    return Found(str(name), prediction, is_zero_snr="ztsnr" in shapes)


def _header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise WeightsError(f"{file} does not exist", fix="check the path")
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file} is not a .safetensors file; pickles can run code and are refused",
            fix="convert it where you trust it",
        )
    try:
        with safe_open(file, framework="pt") as stream:
            keys = stream.keys()
            shapes = {key: tuple(stream.get_slice(key).get_shape()) for key in keys}
            return shapes, dict(stream.metadata() or {})
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{file} cannot be read: {reason}", fix="copy it again") from error


def _has(shapes: Mapping[str, object], stem: str) -> bool:
    return any(key.startswith(stem) for key in shapes)


def fingerprint(file: Path) -> str:
    """Digest of all that the file holds."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def parts(file: Path, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The models in a file, by their names in a pipeline.

    Args:
        file: The checkpoint.
        folder: From `stylecli.backbone.architectures.lay_out`, of what `identify` found.
        dtype: Of the UNet and the text encoders; the autoencoder is float32.

    Raises:
        WeightsError: A tensor is missing, of another shape, or none of this model's.
    """
    import diffusers
    from diffusers.utils import logging

    shapes, metadata = _header(file)
    found = _told(file, shapes, metadata)
    pipeline: Any = getattr(diffusers, ARCHITECTURES[found.architecture].pipeline)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        loaded = pipeline.from_single_file(
            str(file),
            config=str(folder),
            local_files_only=True,
            torch_dtype=dtype,
        )
    except Exception as error:  # the library raises many kinds for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{file}: not all of a {found.architecture} model: {reason}",
            fix="copy the file again",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    names = ARCHITECTURES[found.architecture].parts
    made = {name: getattr(loaded, name) for name in names}
    for name, part in made.items():
        empty = [key for key, tensor in part.state_dict().items() if tensor.is_meta]
        if empty:
            raise WeightsError(
                f"{file}: the tensor of {name}/{empty[0]} is missing",
                fix="copy the file again; nothing was filled in at random",
            )
    own = sum(key.startswith(UNET) for key in shapes)
    if own != len(made["unet"].state_dict()):
        raise WeightsError(
            f"{file}: its UNet has {own} tensors, and that of {found.architecture} "
            f"{len(made['unet'].state_dict())}",
            fix="give a checkpoint of a known model, or a diffusers folder",
        )
    made["vae"].float()
    return made
