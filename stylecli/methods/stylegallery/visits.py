"""The timesteps of a run, and what sampling and references are told at each (3.5 to 3.7)."""

from __future__ import annotations

from dataclasses import dataclass

from stylecli.backbone.levels import Levels, Schedule
from stylecli.errors import RecipeError
from stylecli.recipe.gallery import Gallery


@dataclass(frozen=True, slots=True)
class Sampled:
    """A step of sampling: what the model is told, and the noise before and behind it."""

    timestep: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Visit:
    """One timestep at which latents and references are compared.

    Attributes:
        timestep: What the model is told of both.
        step: Walked before; None where nothing is sampled, and nothing has noise.
    """

    timestep: int
    step: Sampled | None = None


def visits(schedule: Schedule, settings: Gallery, noise: Levels | None) -> list[Visit]:
    """All of them, noisiest first.

    Args:
        schedule: Of the model.
        settings: Mode, and how many timesteps are spread how.
        noise: The levels of the contents' inversion, at whose last one sampling begins.

    Raises:
        RecipeError: More timesteps than the model has, or none to sample from the inversion's end.
    """
    levels = schedule.levels(settings.steps, settings.timesteps, section="gallery")
    if settings.mode == "optimize":
        return [Visit(timestep) for timestep in reversed(levels.timesteps)]
    if noise is None:
        raise RecipeError(
            "gallery.mode guided samples from the end of an inversion, and dfcc.steps is 0",
            fix="--set dfcc.steps=15",
        )
    found = []
    for level in range(len(levels), 0, -1):
        timestep = levels.timesteps[level - 1]
        if timestep > noise.timesteps[-1]:
            continue
        lower = levels.timesteps[level - 2] if level > 1 else 0
        found.append(
            Visit(lower, Sampled(timestep, levels.alphas[level], levels.alphas[level - 1]))
        )
    if not found:
        raise RecipeError(
            f"gallery.steps {settings.steps} has no timestep up to {noise.timesteps[-1]}, where "
            f"the inversion of {len(noise)} levels ends",
            fix="raise gallery.steps or dfcc.steps",
        )
    return found
