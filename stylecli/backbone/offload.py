"""Weights that wait in main memory until their part of the model is at work.

Of the *parts* (text encoder, VAE, UNet) one is on the device at a time, and stays until another is
asked for, so a sampling loop moves nothing. *Blocks* of the UNet come and go within every pass.

The libraries' hooks do the same for a pipeline. They lose count where a pass ends early, as a
source pass does, and with prefetching they know no LoRA that was added after them; and none of them
knows when a backward pass will want the weights once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

MAIN_MEMORY = torch.device("cpu")


class Offload:
    """Moves weights by hooks; the model is called as before, from anywhere."""

    def __init__(
        self,
        kind: str,
        parts: Mapping[str, Sequence[nn.Module]],
        blocks: Sequence[nn.Module],
        device: torch.device,
    ) -> None:
        """Move everything to main memory, and begin.

        Args:
            kind: What the user calls it.
            parts: The modules of each that are called from outside.
            blocks: Lie in one of the parts, and are there only while they are called.
            device: Where all compute.
        """
        self.kind = kind
        self._blocks = {id(block): _Unit(partial(_tensors, block), device) for block in blocks}
        self._parts = {
            name: _Unit(partial(_tensors, *modules, without=blocks), device)
            for name, modules in parts.items()
        }
        for unit in (*self._parts.values(), *self._blocks.values()):
            unit.leave()
        self._handles = [
            module.register_forward_pre_hook(lambda *_, name=name: self._bring(name))
            for name, modules in parts.items()
            for module in modules
        ]
        for block in blocks:
            unit = self._blocks[id(block)]
            self._handles += [
                block.register_forward_pre_hook(lambda *_, unit=unit: unit.come()),
                # Also when the pass is left within the block.
                block.register_forward_hook(
                    lambda *_, unit=unit: _unless_needed(unit), always_call=True
                ),
            ]

    def stop(self) -> None:
        """Move nothing any more; the weights stay where they are."""
        for handle in self._handles:
            handle.remove()

    def _bring(self, name: str) -> None:
        for other, unit in self._parts.items():
            if other != name:
                _unless_needed(unit)
        self._parts[name].come()


class _Unit:
    """Tensors that travel together; which they are is asked every time, for LoRAs are added."""

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], device: torch.device) -> None:
        self._tensors = tensors
        self._device = device
        self._is_here = True
        # What lies in main memory of those that are on the device: tensor, there, here.
        self._left: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def come(self) -> None:
        """All or nothing, where the device has no room."""
        if self._is_here:
            return
        with torch.inference_mode(mode=False), torch.no_grad():
            try:
                for tensor in self._tensors():
                    home = tensor.data
                    tensor.data = moved(home, self._device)
                    self._left[id(tensor)] = tensor, home, tensor.data
            except BaseException:
                for tensor, home, _ in self._left.values():
                    tensor.data = home
                self._left.clear()
                raise
        self._is_here = True

    def leave(self) -> None:
        if not self._is_here:
            return
        with torch.inference_mode(mode=False), torch.no_grad():
            for tensor in self._tensors():
                _, home, here = self._left.get(id(tensor), (None, None, None))
                # Frozen weights lie there already; what was trained or replaced has to be copied.
                is_known = here is not None and tensor.data_ptr() == here.data_ptr()
                if home is None or tensor.requires_grad or not is_known:
                    home = moved(tensor.data, MAIN_MEMORY)
                    if self._device.type == "cuda" and not home.is_pinned():
                        home = home.pin_memory()  # from where copies run beside the work
                tensor.data = home
        self._left.clear()
        self._is_here = False


def moved(data: Tensor, device: torch.device) -> Tensor:
    """A tensor's values on a device, to a GPU perhaps before they are all there."""
    return data.to(device, non_blocking=device.type == "cuda")


def _unless_needed(unit: _Unit) -> None:
    # A backward pass wants the weights of the forward pass where they were.
    if not torch.is_grad_enabled():
        unit.leave()


def _tensors(*modules: nn.Module, without: Sequence[nn.Module] = ()) -> Iterator[Tensor]:
    def of(module: nn.Module) -> Iterator[Any]:
        yield from module.parameters()
        yield from module.buffers()

    others = {id(tensor) for block in without for tensor in of(block)}
    for module in modules:
        yield from (tensor for tensor in of(module) if id(tensor) not in others)
