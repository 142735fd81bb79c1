"""A training run's whole state in one safetensors file: resume equals never having stopped.

Tensors are the file's tensors; counters, settings and anything else that is JSON travel in its
header. Nothing is pickled, so a checkpoint from elsewhere cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from stylecli.artifacts.files import write_atomic
from stylecli.errors import WeightsError

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

_HEADER_KEY = "state"


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, JSON]) -> None:
    """Replace `path` in one move; a crash leaves the old file or the new one, never half of one.

    Args:
        path: Its folder is made if missing.
        tensors: Any devices, dtypes and memory formats; stored contiguous, shared memory untied.
        state: Anything JSON can hold.

    Raises:
        ItemError: The disk is full or the folder cannot be written; the old file is still there.
    """
    owned = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    content = to_bytes(owned, metadata={_HEADER_KEY: json.dumps(dict(state))})
    write_atomic(path, content)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, JSON]]:
    """What `save` was given, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file is not a checkpoint of ours, or is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state: dict[str, JSON] = json.loads(header[_HEADER_KEY])
    except (SafetensorError, KeyError, json.JSONDecodeError) as fault:
        raise WeightsError(
            f"{path} is not a checkpoint ({fault})", fix=f"delete {path} to start afresh"
        ) from fault
    return tensors, state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts as `<parameter index>.<name>`.

    Learning rates are not state: the caller's schedule sets them from the step.
    """
    return {
        f"{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors` on an optimiser over the same parameters in the same order.

    Raises:
        WeightsError: The tensors belong to other parameters; the optimiser is unchanged.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value.clone()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, moments in state.items():
        if place >= len(parameters) or any(
            value.ndim and value.shape != parameters[place].shape for value in moments.values()
        ):
            raise WeightsError(
                f"optimiser state {place} does not fit the parameters being trained",
                fix="resume with the settings the checkpoint was made with",
            )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
