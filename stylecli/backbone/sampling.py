"""The one sampling loop: DDIM with eta 0, one step at a time.

A method supplies what to predict; the loop supplies the step. Layers never learn either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.levels import Levels, Schedule


@dataclass(frozen=True, slots=True)
class Step:
    """Where the sampler is.

    Attributes:
        index: From 0, the noisiest.
        level: ``N - index``: the level of the latents going in; ``level - 1`` comes out.
        timestep: What the model is told.
    """

    index: int
    level: int
    timestep: int


def walk(
    latents: Float[Tensor, "b c h w"],
    advance: Callable[[Tensor, Step], Tensor],
    levels: Levels,
) -> Iterator[tuple[Step, Float[Tensor, "b c h w"]]]:
    """Carry latents from level ``N`` to 0, yielding each step with the latents it produced.

    Args:
        latents: At the noisiest level, float32.
        advance: The latents of one level and the step there -> those of the next.
        levels: The grid.
    """
    for index in range(len(levels)):
        level = len(levels) - index
        step = Step(index, level, levels.timesteps[level - 1])
        with torch.inference_mode():
            latents = advance(latents, step)
        yield step, latents


def denoise(
    latents: Float[Tensor, "b c h w"],
    predict: Callable[[Tensor, Step], Tensor],
    schedule: Schedule,
    levels: Levels,
) -> Iterator[tuple[Step, Float[Tensor, "b c h w"]]]:
    """`walk` along what one model predicts.

    Args:
        latents: At the noisiest level, float32.
        predict: Raw model output (guidance applied) for the latents of a step.
        schedule: Turns outputs into steps.
        levels: The grid.
    """

    def advance(latents: Tensor, step: Step) -> Tensor:
        output = predict(latents, step)
        return schedule.step(
            latents, output, levels.alphas[step.level], levels.alphas[step.level - 1]
        )

    return walk(latents, advance, levels)


def guided(
    uncond: Float[Tensor, "b c h w"], cond: Float[Tensor, "b c h w"], guidance_scale: float
) -> Float[Tensor, "b c h w"]:
    """Classifier-free guidance: ``u + g (c - u)``."""
    return uncond + guidance_scale * (cond - uncond)
