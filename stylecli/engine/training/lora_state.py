"""A LoRA that is being learned, on the disk: its numbers, the optimiser, and how far it is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stylecli.engine.training import checkpoint
from stylecli.errors import UsageError


def save(
    file: Path,
    key: str,
    step: int,
    numbers: Tensor,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Keep what the next step starts from.

    Args:
        key: Of the LoRA, as `lora.identity` has it.
        step: How many are done.
    """
    tensors = {"lora": numbers} | {
        f"optimiser.{name}": value
        for name, value in checkpoint.optimizer_tensors(optimiser).items()
    }
    checkpoint.save(file, tensors, {"key": key, "step": step, "scaler": scaler.state_dict()})


def resume(
    file: Path,
    key: str,
    numbers: Tensor,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> int:
    """Put everything back as it was saved, and return how many steps were done then.

    Raises:
        UsageError: It belongs to another LoRA.
    """
    if not file.exists():
        return 0
    tensors, state = checkpoint.load(file)
    # Where the tensors are others, a version before this one wrote them.
    if state.get("key") != key or "lora" not in tensors:
        raise UsageError(
            f"{file} was left by another version, or by a run with other pictures or settings",
            fix="finish that run first, or delete the file to start again",
        )
    numbers.data.copy_(tensors["lora"])
    checkpoint.restore_optimizer(
        optimiser,
        {
            name.removeprefix("optimiser."): value
            for name, value in tensors.items()
            if name.startswith("optimiser.")
        },
    )
    saved_scaler = state["scaler"]
    if isinstance(saved_scaler, dict) and saved_scaler:
        scaler.load_state_dict(saved_scaler)
    return int(str(state["step"]))
