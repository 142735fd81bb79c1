"""What a run knows about where it runs and whom it tells: resolved once, then frozen."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from stylecli.errors import UsageError
from stylecli.recipe.schema import Device


class Task(Protocol):
    """A running task on the console."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""


class Reporter(Protocol):
    """Whoever tells the user; implemented by the console, and by nobody else that matters."""

    def note(self, text: str) -> None:
        """Say something once."""

    def warn(self, text: str) -> None:
        """Say something the user should not miss."""

    def task(self, label: str, total: int) -> AbstractContextManager[Task]:
        """Show progress through `total` units for the length of a ``with`` block."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """Device, number type and reporter of one run."""

    device: torch.device
    dtype: torch.dtype
    reporter: Reporter


def resolve(device: Device, reporter: Reporter) -> RunContext:
    """Choose the device and the number type.

    Raises:
        UsageError: The device is not on this machine, or cannot compute in that type.
    """
    name = device.name
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    kind = name.partition(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {name} is not on this machine", fix="use --device cpu")
    name = _own_gpu(name)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps is not on this machine", fix="use --device cpu")
    if ":" in name and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name} is not on this machine, which has {torch.cuda.device_count()} GPUs",
            fix="counting starts at cuda:0",
        )
    types = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if device.dtype != "auto":
        dtype = types[device.dtype]
    elif kind == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    else:
        dtype = torch.float32
    if kind == "cpu" and dtype == torch.float16:
        raise UsageError("float16 is not computed on CPUs", fix="use --dtype float32 or bfloat16")
    if kind == "cpu":
        # Numbers below 1e-38 are nothing to a picture, and cost a CPU a hundred times the work.
        torch.set_flush_denormal(True)
    return RunContext(torch.device(name), dtype, reporter)


def _own_gpu(name: str) -> str:
    """A GPU for each of the processes that a launcher started on this machine.

    Raises:
        UsageError: There are fewer.
    """
    index, together = os.environ.get("LOCAL_RANK", ""), os.environ.get("LOCAL_WORLD_SIZE", "")
    if name != "cuda" or not index.isdecimal() or not together.isdecimal() or int(together) == 1:
        return name
    gpus = torch.cuda.device_count()
    if int(together) > gpus:
        raise UsageError(
            f"{together} processes were started on a machine with {gpus} GPUs",
            fix=f"start {gpus}, or name one for all: --device cuda:0, or cpu",
        )
    return f"cuda:{index}"
