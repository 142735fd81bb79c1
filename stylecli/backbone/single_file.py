"""Checkpoints that are one file, as trainers and web interfaces write them.

A file says nothing of its configuration, so what it is has to be read off the names and sizes of
its tensors. Those of Stable Diffusion hold a whole model; diffusers converts their names, and that
nothing is missing afterwards, and nothing left over in the UNet, is found out here. Others hold a
transformer alone, and are read by `stylecli.backbone.transformer_files`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stylecli.backbone import headers, transformer_kinds
from stylecli.backbone.architectures import ARCHITECTURES
from stylecli.backbone.headers import Header
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
_OF_768 = (
    "does not say what it predicts, and is taken for 2.1-base, which predicts noise; convert 2.1 "
    "at 768 px, which predicts velocities, to a folder"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a file turned out to be.

    Attributes:
        architecture: In `stylecli.backbone.architectures.ARCHITECTURES`.
        prediction: What it says that it answers with; None where it says nothing.
        is_zero_snr: Its noisiest level has no signal, by what it says.
        is_transformer: It holds that alone.
        doubt: What else it may be, for all that its tensors say.
    """

    architecture: str
    prediction: Prediction | None = None
    is_zero_snr: bool = False
    is_transformer: bool = False
    doubt: str | None = field(default=None, compare=False)

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
        UsageError: A LoRA, a model that is told more than words, or a transformer that this program
            does not know.
    """
    return _told(file, headers.read(file))


def _told(file: Path, header: Header) -> Found:
    shapes, metadata = header.shapes, header.metadata
    if (alone := transformer_kinds.told(file, header)) is not None:
        doubt = transformer_kinds.doubt(file, header, alone)
        return Found(alone, is_transformer=True, doubt=doubt)
    if not any(key.startswith(UNET) for key in shapes):
        if any("lora" in key for key in shapes):
            raise UsageError(f"{file} is a LoRA", fix="give it with --lora, and name its backbone")
        raise WeightsError(
            f"{file} is no checkpoint of Stable Diffusion: it has no {UNET} tensors",
            fix="give a whole checkpoint, a transformer of "
            f"{', '.join(transformer_kinds.FAMILIES)}, or a diffusers folder",
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
    doubt = _OF_768 if prediction is None and name == "sd21-base" else None
    return Found(str(name), prediction, is_zero_snr="ztsnr" in shapes, doubt=doubt)


def _has(shapes: Mapping[str, object], stem: str) -> bool:
    return any(key.startswith(stem) for key in shapes)


def fingerprint(file: Path) -> str:
    """Digest of all that the file holds."""
    return sha256(file)[:16]


def sha256(file: Path) -> str:
    """The whole digest, as the hub names files."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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

    header = headers.read(file)
    found = _told(file, header)
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
    own = sum(key.startswith(UNET) for key in header.shapes)
    if own != len(made["unet"].state_dict()):
        raise WeightsError(
            f"{file}: its UNet has {own} tensors, and that of {found.architecture} "
            f"{len(made['unet'].state_dict())}",
            fix="give a checkpoint of a known model, or a diffusers folder",
        )
    made["vae"].float()
    return made
