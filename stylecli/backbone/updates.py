"""What methods share that change latents by gradients through the frozen model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Gradients of a mean are below what float16 can hold; a power of two changes no digit of them.
FLOAT16_SCALE = 2.0**14


def loss_scale(dtype: torch.dtype) -> float:
    """What a loss is multiplied with on its way through a model of this type."""
    return FLOAT16_SCALE if dtype == torch.float16 else 1.0


def gradients(
    each: Float[Tensor, " b"], leaves: Sequence[Tensor], scale: float = 1.0
) -> list[Tensor]:
    """The gradient of every leaf: of a sum, so that none depends on how many rows there are.

    Args:
        each: The loss of every row.
        leaves: What the rows were made of.
        scale: From `loss_scale`; it is gone from the result.
    """
    found = torch.autograd.grad(each.sum() * scale, list(leaves))
    return [gradient / scale for gradient in found]


@contextmanager
def checkpointing(unet: Any, on: bool) -> Iterator[None]:
    """Keep fewer activations inside the block, and compute them again on the way back."""
    was = unet.is_gradient_checkpointing
    if on and not was:
        unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if on and not was:
            unet.disable_gradient_checkpointing()
