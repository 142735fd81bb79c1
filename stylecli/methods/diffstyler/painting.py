"""The sampling loop: every region under its own look, blended step by step (eq. 7 and 8).

`move` between two levels is affine in the noise with coefficients that no look changes, and shares
sum to one; so blending the stepped latents, as here, is blending the noise predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, walk
from stylecli.backbone.schedule import Levels
from stylecli.errors import ItemError
from stylecli.methods.diffstyler.looks import Look, Predictor, Region
from stylecli.methods.diffstyler.source import Source
from stylecli.recipe.schema import Injection
from stylecli.tensors.regions import compose

# What a background goes on under once it is no longer pinned: the model's idea of the content.
UNPINNED = Look(weights={}, prompt="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What no region covers.

    Attributes:
        share: Its weight in the composition.
        looks: One for each step, as a region's (eq. 8); None is the content's own latents (eq. 7).
        pin_until: Steps that take the content's latents; None is all of them.
    """

    share: Float[Tensor, "1 1 h w"]
    looks: Sequence[Look] | None = None
    pin_until: int | None = None

    def look(self, step: int) -> Look | None:
        """What it is painted with at a step; None where the content's latent stands in."""
        if self.looks is not None:
            return self.looks[step]
        is_pinned = self.pin_until is None or step < self.pin_until
        return None if is_pinned else UNPINNED


def transfer(
    backbone: Backbone,
    adapters: Adapters,
    trajectory: Trajectory,
    look: Look,
    injection: Injection,
    *,
    start: Float[Tensor, "b c h w"] | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> Float[Tensor, "b c h w"]:
    """Restyle the contents of a trajectory under one look; see `paint`."""
    everywhere = Region(looks=[look] * len(trajectory.levels))
    return paint(
        backbone, adapters, trajectory, [everywhere], injection, start=start, on_step=on_step
    )


def paint(
    backbone: Backbone,
    adapters: Adapters,
    trajectory: Trajectory,
    regions: Sequence[Region],
    injection: Injection,
    *,
    background: Background | None = None,
    start: Float[Tensor, "b c h w"] | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> Float[Tensor, "b c h w"]:
    """Restyle the contents of a trajectory, each region under its own looks.

    Costs one source row per content for every step that injects anything, whatever the number of
    regions, and two rows per region (one at guidance 1, or when both prompts are the same). A
    region without a latent cell costs nothing, and if there is no other the result is the content.

    Args:
        trajectory: One content is a batch of one.
        regions: Their shares and the background's sum to one everywhere.
        background: None where regions cover everything.
        start: First latents; None is the content's noise.
        on_step: Called after each step.

    Returns:
        Latents of the stylised images.

    Raises:
        RecipeError: A layer that this UNet does not have.
        ItemError: The model returned NaN or infinity.
    """
    shown = [region for region in regions if not region.is_empty]
    is_left = background is not None and bool(background.share.any())
    pins = is_left and background is not None and background.looks is None
    if pins and not shown:
        return trajectory.latents[0]
    source = Source(backbone, adapters, trajectory, injection, to_the_end=pins)
    latents = trajectory.latents[-1] if start is None else start
    with source.installed():
        steps = _walk(
            backbone,
            adapters,
            latents,
            trajectory.levels,
            shown,
            background if is_left else None,
            source,
        )
        return _last(steps, on_step)


def generate(
    backbone: Backbone,
    adapters: Adapters,
    noise: Float[Tensor, "b c h w"],
    levels: Levels,
    regions: Sequence[Region],
    *,
    background: Background | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> Float[Tensor, "b c h w"]:
    """Sample pictures from noise by the same loop, with no content to be true to.

    Args:
        noise: Standard normal, at the noisiest of the levels.
        levels: The grid.
        regions: Their shares and the background's sum to one everywhere.
        background: With looks; None where regions cover everything.
        on_step: Called after each step.

    Raises:
        ItemError: The model returned NaN or infinity.
    """
    shown = [region for region in regions if not region.is_empty]
    if background is not None and not bool(background.share.any()):
        background = None
    return _last(_walk(backbone, adapters, noise, levels, shown, background, source=None), on_step)


def _walk(
    backbone: Backbone,
    adapters: Adapters,
    latents: Tensor,
    levels: Levels,
    regions: Sequence[Region],
    background: Background | None,
    source: Source | None,
) -> Iterator[tuple[Step, Tensor]]:
    looks = [look for region in regions for look in region.looks]
    if background is not None:
        looks += [look for i in range(len(levels)) if (look := background.look(i)) is not None]
    predict = Predictor(backbone, adapters, looks, batch=len(latents))

    def advance(latents: Tensor, step: Step) -> Tensor:
        if source is not None:
            source.look(step)
        alphas = levels.alphas[step.level], levels.alphas[step.level - 1]

        def under(look: Look) -> Tensor:
            with source.injected(step) if source is not None else nullcontext():
                output = predict(latents, step, look)
            return backbone.schedule.step(latents, output, *alphas)

        parts = [under(region.looks[step.index]) for region in regions]
        shares = [region.share for region in regions]
        if background is not None:
            look = background.look(step.index)
            if look is not None:
                parts.append(under(look))
            elif source is not None:
                parts.append(source.after(step))
            shares.append(background.share)
        return _blended(parts, shares)

    return walk(latents, advance, levels)


def _blended(parts: Sequence[Tensor], shares: Sequence[Tensor | None]) -> Tensor:
    """A region that is everywhere is alone."""
    if len(parts) == 1:
        return parts[0]
    return compose(parts, [share for share in shares if share is not None])


def _last(steps: Iterator[tuple[Step, Tensor]], on_step: Callable[[], object]) -> Tensor:
    for _step, stepped in steps:
        latents = stepped
        on_step()
    if not torch.isfinite(latents).all():
        raise ItemError("the model returned NaN or infinity", fix="use --dtype float32 or bfloat16")
    return latents
