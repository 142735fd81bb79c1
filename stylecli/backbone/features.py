"""What a decoder block sees of pictures while they are inverted: one vector for each cell.

The features of StyleGallery (CVPR 2026, section "DFCC"). The inversion that they are taken from is
handed out with them, so nobody has to walk it twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.inversion import invert, null_prediction
from stylecli.backbone.model import Backbone
from stylecli.errors import RecipeError

STEPS = 15
BLOCK = 2
# The features' weights fall from clean to noisy with this slope, half of it at this share of steps.
STEEP, MIDDLE = 5.0, 0.7


@dataclass(frozen=True, slots=True)
class Features:
    """An inversion's end, and what the decoder saw on the way.

    Attributes:
        noise: The latents at the noisiest level; scaled, float32.
        maps: One vector per place; as fine as latents from the third block of four on, and half as
            fine for each block before it.
    """

    noise: Float[Tensor, "b c h w"]
    maps: Float[Tensor, "b d hd wd"]


@torch.inference_mode()
def decoder_features(
    backbone: Backbone,
    clean: Float[Tensor, "b c h w"],
    steps: int = STEPS,
    block: int = BLOCK,
    *,
    on_step: Callable[[], object] = lambda: None,
) -> Features:
    """Output of a decoder block averaged over an inversion, clean steps counting most.

    Args:
        backbone: With no LoRA switched on, or features are those of its style.
        clean: Scaled latents.
        steps: Levels of the inversion; with 0 the latents are their own features and noise.
        block: Of the decoder, from 0; coarse ones come first.
        on_step: Called after each level.

    Raises:
        RecipeError: The model has no such block, or not so many levels.
    """
    if steps == 0:
        return Features(clean.float(), clean.float())
    blocks = backbone.unet.up_blocks
    if block >= len(blocks):
        raise RecipeError(
            f"block {block} of the decoder; {backbone.name} has {len(blocks)}",
            fix=f"allowed 0 to {len(blocks) - 1}",
        )
    left = step_weights(steps)
    # Few rows may pass at once, so a level's maps come in parts.
    parts: list[Tensor] = []
    total = torch.zeros(())
    ask = null_prediction(backbone, len(clean))

    def predict(latents: Tensor, timestep: int) -> Tensor:
        nonlocal total
        noise = ask(latents, timestep)
        total = total.to(noise.device) + left.pop(0) * torch.cat(parts).float()
        parts.clear()
        return noise

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        parts.append(output)

    handle = blocks[block].register_forward_hook(keep)
    try:
        levels = backbone.schedule.levels(steps)
        walk = invert(clean, predict, backbone.schedule, levels, on_step=on_step)
    finally:
        handle.remove()
    return Features(walk.latents[-1], total)


def step_weights(steps: int) -> list[float]:
    """Shares of the levels, the cleanest first: ``w_i ~ 1 / (1 + exp(5 (i/T - 0.7)))``.

    The paper says that they peak near 0.7 T; by its own formula they only fall, fastest there.

    >>> [round(weight, 2) for weight in step_weights(3)]
    [0.41, 0.36, 0.23]
    """
    falling = [1 / (1 + math.exp(STEEP * (i / steps - MIDDLE))) for i in range(steps)]
    return [weight / sum(falling) for weight in falling]
