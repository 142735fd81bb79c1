"""Numbers that are none, and whose fault it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError, WeightsError


def see_finite(found: Tensor, backbone: Backbone, *, what: str = "the model returned") -> None:
    """See that what a model made are numbers.

    Args:
        what: Who made it, and how: the opening of a message.

    Raises:
        ItemError: Some are NaN or infinity, of weights that are well.
        WeightsError: Some are, and the weights are to blame.
    """
    if bool(torch.isfinite(found).all()):
        return
    for part in (backbone.unet, backbone.vae, backbone.text_encoder):
        if (name := _broken(part)) is not None:
            raise WeightsError(
                f"{backbone.name}: {name} of {type(part).__name__} holds NaN or infinity",
                fix="copy or pull the weights again; a LoRA's layer names the LoRA",
            )
    raise ItemError(f"{what} NaN or infinity", fix="use --dtype float32 or bfloat16")


def _broken(part: nn.Module) -> str | None:
    """The first tensor that is not finite; those of quantisers hold no NaN."""
    for name, parameter in part.named_parameters():
        if type(parameter) is nn.Parameter and not bool(torch.isfinite(parameter).all()):
            return name
    return None
