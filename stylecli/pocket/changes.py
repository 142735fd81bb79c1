"""The weights that pocket's editor learns.

A product of two thin matrices for every weight, besides the first convolution: what ships holds
what changed and not the model. The text encoder learns too: captions taught it to tell ways of
asking apart better than styles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from stylecli.backbone.editors import delta as deltas
from stylecli.errors import WeightsError


class Product(nn.Module):
    """What is added to one weight: nothing at first, at most of this rank ever."""

    def __init__(self, weight: Tensor, rank: int, generator: Generator) -> None:
        super().__init__()
        inner = weight[0].numel()
        rank = min(rank, len(weight), inner)
        self.down = nn.Parameter(torch.randn(rank, inner, generator=generator) / math.sqrt(inner))
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class Changes(nn.Module):
    """All that is learned; the models it changes are used with it, and are no part of it."""

    def __init__(self, unet: Any, encoder: nn.Module, rank: int, generator: Generator) -> None:
        super().__init__()
        unet.requires_grad_(False)
        encoder.requires_grad_(False)
        deltas.widen(unet)
        self.entry: nn.Conv2d = unet.conv_in.requires_grad_(True)
        self.products = nn.ModuleDict()
        for name, module in deltas.changeable(unet, encoder).items():
            product = Product(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", product)
            self.products[name.replace(".", "/")] = product

    def tensors(self) -> dict[str, Tensor]:
        """As a delta file names them."""
        found: dict[str, Tensor] = {
            f"{deltas.ENTRY}.{name}": p for name, p in self.entry.named_parameters()
        }
        for path, product in self.products.items():
            name = path.replace("/", ".")
            found[name + deltas.DOWN] = product.get_parameter("down")
            found[name + deltas.UP] = product.get_parameter("up")
        return found

    @torch.no_grad()
    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a delta's; products may have less rank there, or none.

        Raises:
            WeightsError: It is not of these changes.
        """
        own = self.tensors()
        odd = sorted(
            name for name, tensor in tensors.items() if not _has_room(name, own.get(name), tensor)
        )
        odd += [name for name in own if name.startswith(deltas.ENTRY) and name not in tensors]
        odd += [
            name + deltas.UP
            for name in deltas.changed(tensors)
            if (up := tensors.get(name + deltas.UP)) is None
            or (down := tensors.get(name + deltas.DOWN)) is None
            or up.shape[1] != len(down)
        ]
        if odd:
            raise WeightsError(f"the editor that ships has another {odd[0]}", fix="--fresh")
        for name, parameter in own.items():
            # What is left of the rank begins with a column of zeros, and goes on to learn.
            if name.endswith(deltas.UP):
                parameter.zero_()
        for name, tensor in tensors.items():
            own[name][tuple(map(slice, tensor.shape))] = tensor


def _has_room(name: str, whole: Tensor | None, part: Tensor) -> bool:
    """Whether a tensor goes into ours: of a product's two, one that has less rank does too."""
    if whole is None or whole.ndim != part.ndim:
        return False
    side = {deltas.DOWN: 0, deltas.UP: 1}.get(f".{name.rpartition('.')[2]}")
    return all(
        room == size or (room > size and axis == side)
        for axis, (room, size) in enumerate(zip(whole.shape, part.shape, strict=True))
    )
