"""Refuses what fewer bits cannot do, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stylecli.backbone import quantizing, registry
from stylecli.errors import RecipeError, UsageError
from stylecli.recipe.schema import Recipe


def refuse_unfit(
    recipe: Recipe,
    source: registry.Source,
    kinds: Sequence[registry.Kind],
    device: torch.device,
    *,
    is_blank: bool,
) -> None:
    """See that `backbone.quantize` suits the command, the model, the machine and other settings.

    Args:
        recipe: Has the settings.
        source: The model.
        kinds: Of models that the command can use.
        device: Where it computes.
        is_blank: The model is to have random weights.

    Raises:
        RecipeError: A setting that does not go with it.
        UsageError: A command, a file or a machine that does not.
    """
    quantize = recipe.backbone.quantize
    if quantize == "none":
        return
    said = f"backbone.quantize {quantize}"
    if not set(kinds) <= {*registry.PAINTING, *registry.EDITING}:
        raise UsageError(
            f"{said} is for painting and for RegionRoute, and this command uses whole weights",
            fix=quantizing.LEAVE_OUT,
        )
    if is_blank:
        raise UsageError(
            f"{said}: random weights are made whole, and their times say nothing of it",
            fix=f"{quantizing.LEAVE_OUT}, or pull the weights and leave out --weights random",
        )
    if source.file is not None:
        raise UsageError(
            f"{said}: a single file is read whole, and {source.file.name} is one",
            fix=f"give a diffusers folder, or {quantizing.LEAVE_OUT}",
        )
    if source.kind == "edit-unet":
        raise RecipeError(
            f"{said}: {source.name} edits with a UNet, whose weights stay whole",
            fix=quantizing.LEAVE_OUT,
        )
    own = recipe.device
    if own.adapters == "fused":
        raise RecipeError(
            f"device.adapters fused merges LoRAs into weights, and {said} keeps them in fewer bits",
            fix=f"--set device.adapters=passes, or {quantizing.LEAVE_OUT}",
        )
    if own.offload != "none":
        raise RecipeError(
            f"device.offload {own.offload} moves whole weights, which {said} has not",
            fix=f"--set device.offload=none, or {quantizing.LEAVE_OUT}",
        )
    if own.compile != "none" and quantize == "nf4":
        raise RecipeError(
            f"device.compile {own.compile} was never tried with {said}",
            fix="--set device.compile=none, or --set backbone.quantize=int8",
        )
    quantizing.refuse_unfit(quantize, device)
