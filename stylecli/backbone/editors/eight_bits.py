"""Frozen linear layers that keep their weights in 8 bits and compute in the type of their input.

A row's largest weight becomes the largest number of float8 (e4m3); what a row was divided by is
kept. Weights are widened for the length of a product, on the way there and on the way back, so
nothing wide waits between the two, with checkpointing or without.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_STORED = torch.float8_e4m3fn


class _Product(torch.autograd.Function):
    """``x W^T`` that remembers W as it is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return F.linear(x, _widened(weight, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        return slopes[0] @ _widened(weight, scale, slopes[0].dtype), None, None


class EightBits(nn.Linear):
    """Stands for a frozen `nn.Linear`. Its ``weight`` holds bits, which no optimiser may touch."""

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta"
        )
        weight = linear.weight.detach()
        most = weight.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12)
        scale = most / torch.finfo(_STORED).max
        bits = (weight / scale).to(_STORED).view(torch.uint8)
        # As whole numbers, or libraries that add adapters would give these the same type.
        self.weight = nn.Parameter(bits, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.register_buffer("scale", scale)

    def forward(self, x: Float[Tensor, "*b width_in"]) -> Float[Tensor, "*b width_out"]:
        """In the type of autocast, where that is on, else in that of the input."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        found = cast(Tensor, _Product.apply(x, self.weight, self.scale))  # type: ignore[no-untyped-call]
        bias: nn.Parameter | None = self.bias
        return found if bias is None else found + bias.to(found.dtype)


def in_eight_bits(model: nn.Module, device: torch.device) -> None:
    """Replace the linear layers of a model's blocks, one by one, on their way to a device."""
    for child in model.children():
        if not isinstance(child, nn.ModuleList):
            continue
        for path, module in list(child.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, name = path.rpartition(".")
                setattr(child.get_submodule(owner), name, EightBits(module.to(device)))


def _widened(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight.view(_STORED).to(torch.float32) * scale).to(dtype)
