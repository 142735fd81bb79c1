"""A LoRA file as the model that is to wear it will load it, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stylecli.backbone import lora, lora_layouts, lora_trial
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
    found = lora_layouts.read(path)
    state, _ = lora_layouts.write(
        found.pairs, prefix="transformer", layout="diffusers", dtype=found.dtype
    )
    return LoraFile(state, {}, {}, found.header)


def refuse_unfit(path: Path, model: nn.Module) -> None:
    """See that a LoRA's layers are a model's, by their names and sizes.

    Args:
        path: A file, or a PEFT folder.
        model: The UNet or transformer; on the meta device too.

    Raises:
        WeightsError: Missing, not safetensors, or damaged.
        UsageError: It is another model's, or no LoRA.
    """
    pairs = lora_layouts.read(path).pairs
    layers: dict[str, Any] = dict(model.named_modules())
    fitting = sum(_is_fit(layers.get(name), *pair) for name, pair in pairs.items())
    if fitting < len(pairs):
        raise UsageError(
            f"{path}: the LoRA fits {fitting} of the {len(pairs)} layers it holds to this backbone",
            fix="use a LoRA that was trained on this backbone",
        )


def _is_fit(layer: Any, down: Tensor, up: Tensor) -> bool:
    weight = getattr(layer, "weight", None)
    return weight is not None and (len(up), *down.shape[1:]) == tuple(weight.shape)
