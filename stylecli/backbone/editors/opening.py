"""The editor of a row of the registry, loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from stylecli.backbone import loading, quantizing, transformer_files
from stylecli.backbone.editors import unet_edit
from stylecli.backbone.editors.base import Editor
from stylecli.backbone.registry import Source
from stylecli.errors import RecipeError
from stylecli.recipe.strict import Quantize

FLUX_TOKENS = 512


def fingerprint(source: Source, folder: Path) -> str:
    """Of all weights and configs that an editor is made of.

    Raises:
        WeightsError: The changes that make it an editor are missing.
    """
    if source.kind == "edit-unet":
        return unet_edit.fingerprint(folder, source.delta)
    if source.file is not None:
        return transformer_files.fingerprint(source.file, folder)
    return loading.fingerprint(folder)


def open(  # noqa: A001 - always named with its module
    source: Source,
    folder: Path,
    *,
    fingerprint: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    text_length: int | None = None,
    quantize: Quantize = "none",
    is_resident: bool = True,
) -> Editor:
    """Load an editor, frozen and strictly: no tensor is missing, unknown or misshapen.

    Args:
        source: Which; its kind decides what is loaded.
        folder: From `stylecli.backbone.registry.snapshot`.
        fingerprint: Of this module.
        device: Where it computes.
        dtype: Of the UNet or transformer and of the text encoders; autoencoders are float32.
        variant: Weight file variant, such as fp16.
        text_length: Tokens of an instruction; default: the model's own.
        quantize: Of FLUX's frozen weights.
        is_resident: All weights of a UNet go to the device at once.

    Raises:
        RecipeError: A setting that this kind of model has no use for.
        WeightsError: Missing, damaged or of another model.
    """
    name = Path(source.name).name
    if source.kind == "flux1-kontext":
        from stylecli.backbone.editors import flux_kontext

        return flux_kontext.load(
            name,
            folder,
            fingerprint=fingerprint,
            device=device,
            dtype=dtype,
            text_length=FLUX_TOKENS if text_length is None else text_length,
            quantize=quantize,
            variant=variant,
            file=source.file,
        )
    if quantize != "none":
        raise RecipeError(
            f"backbone.quantize {quantize}: {name} edits with a UNet, whose weights stay whole",
            fix=quantizing.LEAVE_OUT,
        )
    editor = unet_edit.load(
        name,
        folder,
        delta=source.delta,
        fingerprint=fingerprint,
        device=device,
        dtype=dtype,
        variant=variant,
        is_resident=is_resident,
    )
    if text_length not in (None, editor.text_length):
        raise RecipeError(
            f"route.text_length {text_length}: {name} always reads {editor.text_length} tokens",
            fix="leave route.text_length out",
        )
    return editor
