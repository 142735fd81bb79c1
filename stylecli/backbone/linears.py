"""Linear layers of a backbone by the paths of their modules: whose LoRA a predictor writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from stylecli.errors import RecipeError


class Layer(NamedTuple):
    """One linear layer of a backbone, by the path of its module."""

    path: str
    width_in: int
    width_out: int


def matching(model: nn.Module, patterns: Sequence[str]) -> tuple[Layer, ...]:
    """The linear layers whose whole path one of the patterns fits, in natural order.

    Args:
        model: Also on the meta device.
        patterns: Regular expressions.

    Raises:
        RecipeError: A pattern fits nothing, or a module that is not linear.
    """
    modules = dict(model.named_modules())
    found: dict[str, Layer] = {}
    for pattern in patterns:
        fitting = [path for path in modules if re.fullmatch(pattern, path)]
        if not fitting:
            raise RecipeError(
                f"no layer of this model is called {pattern}", fix="choose another i2l.layer_set"
            )
        for path in fitting:
            module = getattr(modules[path], "base_layer", modules[path])
            if not isinstance(module, nn.Linear):
                raise RecipeError(
                    f"{path} is no linear layer but {type(module).__name__}",
                    fix="choose another i2l.layer_set",
                )
            found[path] = Layer(path, module.in_features, module.out_features)
    return tuple(sorted(found.values(), key=lambda layer: natural(layer.path)))


def natural(path: str) -> list[tuple[int, int, str]]:
    """Numbers as numbers: layer 10 comes after layer 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split(".")]
