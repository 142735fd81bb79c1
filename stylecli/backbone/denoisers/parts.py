"""What the transformers' folders have in common beside their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.errors import WeightsError


def flow_scheduler(folder: Path) -> Any:
    """The scheduler that a folder's config describes; it knows a list of noise levels.

    Raises:
        WeightsError: Unreadable, or not one for flow matching.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    file = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(file.read_bytes())
        named = config.get("_class_name")
        if named != FlowMatchEulerDiscreteScheduler.__name__:
            raise WeightsError(
                f"{folder.name}: scheduler/scheduler_config.json describes {named}",
                fix="give a folder of a model for flow matching, or pull it again",
            )
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{folder.name}: scheduler/scheduler_config.json cannot be read",
            fix="copy or pull the folder again",
        ) from error


@torch.no_grad()
def pictures(vae: Any, cells: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
    """Pictures in [0, 1] of what an autoencoder reads."""
    pixels = cast(Tensor, vae.decode(cells).sample)
    return (pixels / 2 + 0.5).clamp(0, 1)
