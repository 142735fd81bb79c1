"""The sampling loop: every region under its own look, blended step by step (eq. 7 and 8).

`move` between two levels is affine in the noise with coefficients that no look changes, and shares
sum to one; so blending the stepped latents, as here, is blending the noise predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import compress

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.finite import see_finite
from stylecli.backbone.inversion import Trajectory
from stylecli.backbone.levels import Levels
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, walk
from stylecli.methods.diffstyler.looks import Asked, Look, Predictor, Region
from stylecli.methods.diffstyler.source import Keeper, Source
from stylecli.recipe.schema import Injection
from stylecli.tensors.regions import compose

# The base model under no words.
UNPINNED = Look(weights={}, prompt="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What no region covers.

    Attributes:
        share: Its weight in the composition.
        looks: One for each step, as a region's (eq. 8); None is the content's own latents (eq. 7).
        pin_until: Steps that take the content's latents; None is all of them.
        unpinned: What it goes on under after those: the model's idea of the content.
    """

    share: Float[Tensor, "1 1 h w"]
    looks: Sequence[Look] | None = None
    pin_until: int | None = None
    unpinned: Look = UNPINNED

    def look(self, step: int) -> Look | None:
        """What it is painted with at a step; None where the content's latent stands in."""
        if self.looks is not None:
            return self.looks[step]
        is_pinned = self.pin_until is None or step < self.pin_until
        return None if is_pinned else self.unpinned


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One stylised picture of every content.

    Attributes:
        regions: Their shares and the background's sum to one everywhere.
        background: None where regions cover everything.
        start: First latents; None is the content's noise.
    """

    regions: Sequence[Region]
    background: Background | None = None
    start: Float[Tensor, "b c h w"] | None = None

    @property
    def shown(self) -> list[Region]:
        return [region for region in self.regions if not region.is_empty]

    @property
    def behind(self) -> Background | None:
        """The background, where any of it is seen."""
        seen = self.background is not None and bool(self.background.share.any())
        return self.background if seen else None

    @property
    def is_pinned(self) -> bool:
        """It needs the content's own latents after every step."""
        behind = self.behind
        return behind is not None and behind.looks is None

    def looks(self, steps: int) -> list[Look]:
        """All that it asks for."""
        found = [look for region in self.shown for look in region.looks]
        if (behind := self.behind) is not None:
            found += [look for i in range(steps) if (look := behind.look(i)) is not None]
        return found


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

    Args:
        trajectory: One content is a batch of one.
        regions: Their shares and the background's sum to one everywhere.
        background: None where regions cover everything.
        start: First latents; None is the content's noise.
        on_step: Called after each step.

    Returns:
        Latents of the stylised images; else as `paint_versions`.
    """
    version = Version(regions=regions, background=background, start=start)
    return paint_versions(backbone, adapters, trajectory, [version], injection, on_step=on_step)[0]


def paint_versions(
    backbone: Backbone,
    adapters: Adapters,
    trajectory: Trajectory,
    versions: Sequence[Version],
    injection: Injection,
    *,
    keeper: Keeper | None = None,
    in_rows: bool = False,
    on_step: Callable[[], object] = lambda: None,
) -> list[Float[Tensor, "b c h w"]]:
    """Several versions of the contents of a trajectory, side by side.

    Costs one source row per content for every step that injects anything, whatever the number of
    versions and regions, and two rows per region of each (one at guidance 1, or when both prompts
    are the same). A region without a latent cell costs nothing, and a version that shows no other
    is the content. Each version is, bit for bit, what it would be alone, unless their rows pass
    together.

    Args:
        trajectory: One content is a batch of one.
        versions: At least one.
        keeper: Has what the contents' pass leaves, from another time, or keeps it for one.
        in_rows: One pass for all rows of a step, each with its own LoRA.
        on_step: Called after each step.

    Returns:
        Latents of each version's stylised images.

    Raises:
        RecipeError: A layer that this model does not have.
        ItemError: The model returned NaN or infinity.
        WeightsError: Its weights hold them.
        UsageError: In rows, a LoRA of another kind than linear layers have.
    """
    is_work = [bool(one.shown) or not one.is_pinned for one in versions]
    at_work = list(compress(versions, is_work))
    found: list[Tensor] = []
    if at_work:
        to_the_end = any(one.is_pinned for one in at_work)
        source = Source(
            backbone, adapters, trajectory, injection, to_the_end=to_the_end, keeper=keeper
        )
        top = trajectory.latents[-1]
        latents = torch.cat([top if one.start is None else one.start for one in at_work])
        with source.installed():
            levels = trajectory.levels
            steps = _walk(backbone, adapters, latents, levels, at_work, source, in_rows=in_rows)
            latents = _last(steps, on_step)
            see_finite(latents, backbone)
            found = list(latents.chunk(len(at_work)))
    painted = iter(found)
    return [next(painted) if is_painted else trajectory.latents[0] for is_painted in is_work]


def generate(
    backbone: Backbone,
    adapters: Adapters,
    noise: Float[Tensor, "b c h w"],
    levels: Levels,
    regions: Sequence[Region],
    *,
    background: Background | None = None,
    in_rows: bool = False,
    on_step: Callable[[], object] = lambda: None,
) -> Float[Tensor, "b c h w"]:
    """Sample pictures from noise by the same loop, with no content to be true to.

    Args:
        noise: Standard normal, at the noisiest of the levels.
        levels: The grid.
        regions: Their shares and the background's sum to one everywhere.
        background: With looks; None where regions cover everything.
        in_rows: As for `paint_versions`.
        on_step: Called after each step.

    Raises:
        ItemError: The model returned NaN or infinity.
        WeightsError: Its weights hold them.
    """
    version = Version(regions=regions, background=background)
    steps = _walk(backbone, adapters, noise, levels, [version], source=None, in_rows=in_rows)
    latents = _last(steps, on_step)
    see_finite(latents, backbone)
    return latents


def _walk(
    backbone: Backbone,
    adapters: Adapters,
    latents: Tensor,
    levels: Levels,
    versions: Sequence[Version],
    source: Source | None,
    *,
    in_rows: bool = False,
) -> Iterator[tuple[Step, Tensor]]:
    """All versions from level to level; their latents one after another in one batch."""
    shown = [version.shown for version in versions]
    behind = [version.behind for version in versions]
    looks = [look for version in versions for look in version.looks(len(levels))]
    batch = len(latents) // len(versions)
    predict = Predictor(backbone, adapters, looks, batch, in_rows=in_rows)

    def advance(latents: Tensor, step: Step) -> Tensor:
        def injected() -> AbstractContextManager[None]:
            return nullcontext() if source is None else source.injected(step)

        if source is not None:
            source.look(step)
        each = latents.chunk(len(versions))
        asked = []
        for here, regions, background in zip(each, shown, behind, strict=True):
            asked += [Asked(here, region.looks[step.index]) for region in regions]
            if background is not None and (look := background.look(step.index)) is not None:
                asked.append(Asked(here, look))
        alphas = levels.alphas[step.level], levels.alphas[step.level - 1]
        outputs = zip(asked, predict(asked, step, injected), strict=True)
        stepped = (backbone.schedule.step(one.latents, output, *alphas) for one, output in outputs)
        blended = []
        for regions, background in zip(shown, behind, strict=True):
            parts = [next(stepped) for _ in regions]
            shares = [region.share for region in regions]
            if background is not None:
                if source is None or background.look(step.index) is not None:
                    parts.append(next(stepped))
                else:
                    parts.append(source.after(step))
                shares.append(background.share)
            blended.append(_blended(parts, shares))
        return torch.cat(blended)

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
    return latents
