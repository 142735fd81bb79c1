"""A LoRA file as the model that is to wear it will load it, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stylecli.backbone import lora, lora_layouts, lora_names, lora_trial
from stylecli.backbone.lora import LoraFile
from stylecli.errors import UsageError


def read(path: Path, model: Any) -> LoraFile:
    """Read a LoRA file, or a PEFT folder, for a UNet or a transformer.

    Raises:
        WeightsError: Missing, not safetensors, or damaged.
        UsageError: Nothing in it is for this kind of model, or under names that would load nothing.
    """
    if lora_trial.part_of(model) == "unet":
        return lora.read(path, model)
    tensors, header, config = lora.opened(path)
    ours = {key: value for key, value in tensors.items() if not lora_names.is_of_text(key)}
    layers = {name.removesuffix(".base_layer") for name, _ in model.named_modules()}
    if not all(_layer(key) in layers for key in ours):
        ours = _named_by_diffusers(path, ours, model)
    found = lora_layouts.of(path, ours, header, config)
    state, _ = lora_layouts.write(
        found.pairs, prefix="transformer", layout="diffusers", dtype=found.dtype
    )
    return LoraFile(state, {}, {}, header)


def _layer(key: str) -> str | None:
    name = lora_names.named(key)
    return lora_names.alpha_of(key) if name is None else name.path


def _named_by_diffusers(path: Path, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The names that other tools give the same layers, in diffusers' words."""
    pipeline = lora_trial.pipeline_of(model)
    try:
        state = pipeline.lora_state_dict(dict(tensors), local_files_only=True)
    except (ValueError, KeyError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        reason = str(error).partition("\n")[0][: lora_trial.MAX_REFUSAL]
        raise UsageError(
            f"LoRA {path} has no tensor for a {type(model).__name__}: {reason}",
            fix="use a LoRA that was trained on this backbone",
        ) from error
    return dict(state)
