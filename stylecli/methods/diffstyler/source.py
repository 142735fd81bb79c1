"""What the content image's own pass hands to the stylised ones, and for how long (eq. 4 to 6).

Per step the base model (no LoRA, empty prompt) looks at the stored latent ``Z[k]`` of the content
and leaves behind features and the queries and keys of attention; one such pass serves every region.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.exchange import Taken
from stylecli.backbone.inversion import Trajectory
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step
from stylecli.recipe.schema import Injection


def kappa(
    step: int, *, steps: int, injection: Injection, timestep: int, num_train_timesteps: int
) -> float:
    """The target's share of its own attention at one step (eq. 5): 0 is all source, 1 is none.

    The paper's ``kappa_t`` divides by ``T - T_a`` what it counts down in timesteps; only in *steps*
    does it reach 1 at the end for any threshold. ``adaptive`` counts steps, ``time`` repairs the
    denominator, ``printed`` is the formula as it stands, cut to [0, 1].

    >>> kappa(49, steps=50, injection=Injection(), timestep=1, num_train_timesteps=1000)
    1.0
    """
    start = injection.attn_steps
    if step < start:
        return 0.0
    threshold = num_train_timesteps * (1 - start / steps)
    match injection.attn_tail:
        case "full":
            return 0.0
        case "hard":
            return 1.0
        case "adaptive":
            share = (step + 1 - start) / (steps - start)
        case "time":
            share = (threshold - timestep) / threshold if threshold else 1.0
        case "printed":
            rest = num_train_timesteps - threshold
            share = (threshold - timestep) / rest if rest else 1.0
    return min(1.0, max(0.0, share))


class Keeper(Protocol):
    """Keeps what a content's pass leaves at each step for the content's next looks."""

    def get(self, step: int) -> Taken | None:
        """What was kept of a step, on the model's device."""

    def put(self, step: int, taken: Taken) -> None:
        """Keep what the pass of a step has left."""


class Source:
    """The content's own pass beside the stylised ones, one step at a time."""

    def __init__(
        self,
        backbone: Backbone,
        adapters: Adapters,
        trajectory: Trajectory,
        injection: Injection,
        *,
        to_the_end: bool = False,
        keeper: Keeper | None = None,
    ) -> None:
        """Decide what is injected at which step.

        Args:
            to_the_end: `after` is asked for at every step, so a source with a path of its own walks
                it to the end.
            keeper: Of a source that replays; one with a path of its own must walk it.

        Raises:
            RecipeError: A layer that this model does not have.
        """
        self._backbone = backbone
        self._adapters = adapters
        self._trajectory = trajectory
        self._replays = injection.source == "replay"
        self._keeper = keeper if self._replays else None
        self._latents = trajectory.latents[-1]
        self._null_embeds = backbone.encode_prompt([""]).expand(len(self._latents), -1, -1)

        self._exchange = backbone.exchange(injection)
        levels = trajectory.levels
        steps = len(levels)
        self._shares = [
            kappa(
                step,
                steps=steps,
                injection=injection,
                timestep=levels.timesteps[steps - step - 1],
                num_train_timesteps=backbone.schedule.total,
            )
            if self._exchange.attention
            else 1.0
            for step in range(steps)
        ]
        self._feature_steps = injection.feature_steps if self._exchange.features else 0
        active = [i for i in range(steps) if i < self._feature_steps or self._shares[i] < 1]
        self._active = frozenset(active)
        self._last_active = steps - 1 if to_the_end else max(active, default=-1)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the model's layers hand over what is asked for, and put them back afterwards."""
        with self._exchange.installed(self._backbone.unet):
            yield

    def look(self, step: Step) -> None:
        """Pass the content through the base model, if this step (or a later one) needs it."""
        if step.index > self._last_active or (self._replays and step.index not in self._active):
            return
        kept = self._keeper.get(step.index) if self._keeper else None
        if kept is not None:
            self._exchange.recall(kept)
            return
        if self._replays:
            self._latents = self._trajectory.latents[step.level]
        outputs = self._passed(step)
        if self._keeper:
            self._keeper.put(step.index, self._exchange.taken)
        if not self._replays:
            alphas = self._trajectory.levels.alphas
            self._latents = self._backbone.schedule.step(
                self._latents, torch.cat(outputs), alphas[step.level], alphas[step.level - 1]
            )

    def _passed(self, step: Step) -> list[Tensor]:
        """Show the model the contents' latents; its outputs, where the pass goes to its end."""
        outputs = []
        at_once = self._backbone.max_rows or len(self._latents)
        for first in range(0, len(self._latents), at_once):
            rows = slice(first, first + at_once)
            with (
                self._adapters.use({}),
                self._exchange.taking(
                    features=step.index < self._feature_steps,
                    attention=self._shares[step.index] < 1,
                    stop=self._replays,
                    first=first,
                ),
            ):
                outputs.append(
                    self._backbone.predict(
                        self._latents[rows], step.timestep, self._null_embeds[rows]
                    )
                )
        return outputs

    def injected(self, step: Step) -> AbstractContextManager[None]:
        """Inside, passes of the model use what `look` left behind."""
        return self._exchange.giving(
            features=step.index < self._feature_steps, kappa=self._shares[step.index]
        )

    def after(self, step: Step) -> Float[Tensor, "b c h w"]:
        """The content's latent at the level this step ends at: the background of eq. 7."""
        if self._replays:
            return self._trajectory.latents[step.level - 1]
        return self._latents
