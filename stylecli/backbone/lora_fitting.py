"""A LoRA file as the model that is to wear it will load it, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stylecli.backbone import lora, lora_layouts, lora_trial
from stylecli.backbone.lora import LoraFile


def read(path: Path, model: Any) -> LoraFile:
    """Read a LoRA file, or a PEFT folder, for a UNet or a transformer.

    Raises:
        WeightsError: Missing, not safetensors, or damaged.
        UsageError: Nothing in it is for this kind of model, or under names that would load nothing.
    """
    if lora_trial.part_of(model) == "unet":
        return lora.read(path, model)
    found = lora_layouts.read(path)
    state, _ = lora_layouts.write(
        found.pairs, prefix="transformer", layout="diffusers", dtype=found.dtype
    )
    return LoraFile(state, {}, {}, found.header)
