"""Where what contents leave behind waits for their next looks: on the device, in memory, on disk.

Looks that are painted side by side share it without any of this; a cache serves those that come one
after another, in one run (device, cpu) or in later ones (disk).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylecli.artifacts import cache, store
from stylecli.backbone.exchange import Taken
from stylecli.engine.context import RunContext
from stylecli.methods.diffstyler import Keeper
from stylecli.recipe.schema import Device, Injection


class Sources:
    """Keeps what a content's pass left at every step; in memory, of one content at a time."""

    def __init__(self, device: Device, context: RunContext) -> None:
        self._place = device.source_cache
        self._context = context
        self._key = ""
        self._kept: Keeper | None = None

    def keeper(self, made_of: Sequence[object], injection: Injection) -> Keeper | None:
        """What is known of some contents, and takes what is new.

        Args:
            made_of: What decides the contents' trajectories.
            injection: Decides what is taken, and when.
        """
        key = store.digest([*made_of, injection.model_dump(exclude={"preset"})])
        if key != self._key:
            self._key = key
            self._kept = self._empty(key)
        return self._kept

    def leave_device(self) -> str | None:
        """Wait in main memory from now on; in words, or None where nothing was on the device."""
        if self._place != "device" or self._context.device.type == "cpu":
            return None
        self._place, self._key, self._kept = "cpu", "", None
        return "features wait in main memory"

    def _empty(self, key: str) -> Keeper | None:
        device = self._context.device
        if self._place == "none":
            return None
        if self._place == "disk":
            return _OnDisk(key, self._context)
        return _InMemory(device if self._place == "device" else torch.device("cpu"), device)


class _InMemory:
    """Of every step what its pass left, at rest in one place and used in another."""

    def __init__(self, home: torch.device, device: torch.device) -> None:
        self._home = home
        self._device = device
        self._steps: dict[int, dict[str, tuple[Tensor, ...]]] = {}

    def get(self, step: int) -> Taken | None:
        taken = self._steps.get(step)
        if taken is None or self._home == self._device:
            return taken
        return {
            name: tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)
            for name, tensors in taken.items()
        }

    def put(self, step: int, taken: Taken) -> None:
        # From pinned memory the way back overlaps with the model's work.
        pins = self._device.type == "cuda" and self._home != self._device

        def at_home(tensor: Tensor) -> Tensor:
            moved = tensor.to(self._home)
            return moved.pin_memory() if pins else moved

        self._steps[step] = {
            name: tuple(at_home(tensor) for tensor in tensors) for name, tensors in taken.items()
        }


class _OnDisk:
    """A file in the cache for every step, named after all that decides what is in it."""

    def __init__(self, key: str, context: RunContext) -> None:
        self._key = key
        self._context = context

    def _file(self, step: int) -> Path:
        return cache.cached(cache.SOURCES, store.digest([self._key, step]), ".safetensors")

    def get(self, step: int) -> Taken | None:
        """None also where the file is damaged."""
        file = self._file(step)
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in sorted(stream.keys())}
                said = (stream.metadata() or {}).get("sha256")
        except (SafetensorError, OSError):
            return None
        if said != _sha256(tensors):
            return None
        cache.touch(file)
        taken: dict[str, tuple[Tensor, ...]] = {}
        for name, tensor in tensors.items():
            layer = name.rpartition("/")[0]
            taken[layer] = (*taken.get(layer, ()), tensor.to(self._context.device))
        return taken

    def put(self, step: int, taken: Taken) -> None:
        file = self._file(step)
        tensors = {
            f"{name}/{place}": tensor.detach().cpu()
            for name, own in taken.items()
            for place, tensor in enumerate(own)
        }
        header = {"format": "pt", "sha256": _sha256(tensors)}
        write = partial(store.save_tensors, file, tensors, header)
        cache.keep(file, write, self._context.reporter.warn)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
