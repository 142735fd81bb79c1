"""The numbers of a LoRA that is learned: which layers have some, their first values, their names.

All of one LoRA lie in one row, so that an optimiser has one tensor to change. The names are PEFT's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.row_loras import Shape, views
from stylecli.errors import UsageError
from stylecli.recipe.schema import Lora
from stylecli.tensors.seeds import generator

# Part of the names that first values are drawn by.
ADAPTER = "style"


def layout(unet: nn.Module, settings: Lora) -> tuple[Shape, ...]:
    """The linear layers that `settings.targets` mean, in the order of the model.

    Raises:
        UsageError: A target is no linear layer of this model.
    """
    linear = {
        # A layer that once had a LoRA stays wrapped.
        name.removesuffix(".base_layer"): layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and ".lora_" not in name
    }
    for target in settings.targets:
        if not any(_is_meant(name, target) for name in linear):
            raise UsageError(
                f"lora.targets {target} is no linear layer of this model",
                fix="use to_q, to_k, to_v, to_out.0",
            )
    return tuple(
        Shape(name, settings.rank, layer.in_features, layer.out_features)
        for name, layer in linear.items()
        if any(_is_meant(name, target) for target in settings.targets)
    )


def first(shapes: Sequence[Shape], seed: int) -> Float[Tensor, " numbers"]:
    """What every LoRA begins with: A from N(0, 1/rank²), B zero."""
    rows = []
    for shape in shapes:
        random = generator(seed, "init", f"{shape.path}.lora_A.{ADAPTER}.weight")
        drawn = torch.randn(shape.rank, shape.width_in, generator=random)
        rows += [(drawn / shape.rank).flatten(), torch.zeros(shape.width_out * shape.rank)]
    return torch.cat(rows)


def scales(shapes: Sequence[Shape], settings: Lora) -> Float[Tensor, " numbers"] | None:
    """What the model multiplies the numbers by: B by alpha / rank. None is one throughout."""
    if settings.alpha is None or settings.alpha == settings.rank:
        return None
    found = torch.ones(1, sum(s.rank * (s.width_in + s.width_out) for s in shapes))
    for _, up in views(shapes, found).values():
        up.fill_(settings.alpha / settings.rank)
    return found[0]


def named(shapes: Sequence[Shape], numbers: Float[Tensor, " numbers"]) -> Mapping[str, Tensor]:
    """The same by the names of PEFT."""
    return {
        f"{path}.lora_{matrix}.weight": tensor[0]
        for path, pair in views(shapes, numbers[None]).items()
        for matrix, tensor in zip("AB", pair, strict=True)
    }


def config(settings: Lora) -> Any:
    """What PEFT would have been told."""
    from peft import LoraConfig

    alpha = settings.rank if settings.alpha is None else settings.alpha
    return LoraConfig(
        r=settings.rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        init_lora_weights="gaussian",
        target_modules=list(settings.targets),
    )


def _is_meant(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
