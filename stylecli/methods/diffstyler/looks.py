"""What is asked of the model: which LoRAs, which words, where and at which step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone import row_loras
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step, guided


class Side(NamedTuple):
    """One of the two that guidance compares: LoRAs and words."""

    weights: Mapping[str, float]
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a pass of the model is asked for.

    Attributes:
        weights: Adapter name -> strength; empty is the base model.
        prompt: Usually the caption the LoRA was trained with.
        negative: Negative prompt; unused at guidance 1.
        guidance: Classifier-free guidance scale; 1 is off.
        negative_weights: What the negative prompt is seen under (i2L eq. 9); None is `weights`.
    """

    weights: Mapping[str, float]
    prompt: str
    negative: str = ""
    guidance: float = 1.0
    negative_weights: Mapping[str, float] | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """What its rows are seen under: both sides where their difference is amplified."""
        own = Side(self.weights, self.prompt)
        others = self.weights if self.negative_weights is None else self.negative_weights
        negative = Side(others, self.negative)
        return (negative, own) if self.guidance != 1 and negative != own else (own,)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The words of its sides."""
        return _prompts(self.sides)

    @property
    def passes(self) -> tuple[tuple[Side, ...], ...]:
        """Its sides, those with the same LoRAs together."""
        sides = self.sides
        is_shared = all(side.weights == self.weights for side in sides)
        return (sides,) if is_shared else tuple((side,) for side in sides)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of the picture and its look at every step.

    Attributes:
        looks: One for each sampling step, noisiest first.
        share: Its weight in the composition, after overlaps are settled; None is everywhere.
    """

    looks: Sequence[Look]
    share: Float[Tensor, "1 1 h w"] | None = None

    @property
    def is_empty(self) -> bool:
        """No latent cell shows it, so no row need be computed for it."""
        return self.share is not None and not bool(self.share.any())


@dataclass(frozen=True, slots=True)
class Asked:
    """Latents that are to be seen under a look."""

    latents: Float[Tensor, "b c h w"]
    look: Look


class Predictor:
    """The model's guided output for any look; every prompt is embedded once."""

    def __init__(
        self,
        backbone: Backbone,
        adapters: Adapters,
        looks: Sequence[Look],
        batch: int,
        *,
        in_rows: bool = False,
    ) -> None:
        """Get ready for some looks.

        Args:
            looks: All that will be asked for.
            batch: Latents of each.
            in_rows: All that is asked for at one step passes together, each row with its own LoRA.

        Raises:
            UsageError: In rows, a LoRA of another kind than linear layers have.
        """
        self._backbone = backbone
        self._adapters = adapters
        self._slots: dict[tuple[tuple[str, float], ...], int] | None = None
        if in_rows:
            sides = [side for look in looks for side in look.sides]
            weights = {_key(side.weights): side.weights for side in sides if side.weights}
            self._slots = {key: slot for slot, key in enumerate(weights)}
            stacked = [row_loras.loaded(backbone.unet, one) for one in weights.values()]
            self._factors = row_loras.Factors.stacked(stacked, device=backbone.device)
        prompts = sorted({prompt for look in looks for prompt in look.prompts})
        embeds = {prompt: backbone.encode_prompt([prompt]) for prompt in prompts}
        self._rows = {
            chosen: torch.cat([embeds[prompt].expand(batch, -1, -1) for prompt in chosen])
            for look in looks
            for chosen in {look.prompts, *(_prompts(sides) for sides in look.passes)}
        }

    def __call__(
        self,
        asked: Sequence[Asked],
        step: Step,
        injected: Callable[[], AbstractContextManager[None]],
    ) -> list[Float[Tensor, "b c h w"]]:
        """One row a latent, or two (``[uncond | cond]``) where the look is guided.

        Args:
            asked: Each has a pass of its own, unless rows have LoRAs of their own.
            step: Whose timestep the model is told.
            injected: Opened for every pass: what the rows take from elsewhere.

        Raises:
            UsageError: A look names an adapter that is not loaded.
        """
        if self._slots is None:
            return [self._alone(one.latents, one.look, step, injected) for one in asked]
        with self._adapters.use({}), injected():
            return self._in_rows(asked, step, self._slots)

    def _alone(
        self,
        latents: Tensor,
        look: Look,
        step: Step,
        injected: Callable[[], AbstractContextManager[None]],
    ) -> Tensor:
        outputs = []
        for sides in look.passes:
            rows = latents.repeat(len(sides), 1, 1, 1)
            embeds = self._rows[_prompts(sides)]
            with self._adapters.use(sides[0].weights), injected():
                outputs.append(self._backbone.predict(rows, step.timestep, embeds))
        return _guided(outputs, look)

    def _in_rows(
        self, asked: Sequence[Asked], step: Step, slots: Mapping[tuple[Any, ...], int]
    ) -> list[Tensor]:
        rows = torch.cat([one.latents.repeat(len(one.look.sides), 1, 1, 1) for one in asked])
        embeds = torch.cat([self._rows[one.look.prompts] for one in asked])
        own = [
            slots.get(_key(side.weights))
            for one in asked
            for side in one.look.sides
            for _ in range(len(one.latents))
        ]
        at_once = self._backbone.max_rows or len(rows)
        outputs = []
        for first in range(0, len(rows), at_once):
            some = slice(first, first + at_once)
            with row_loras.applied(self._backbone.unet, self._factors, own[some]):
                outputs.append(self._backbone.predict(rows[some], step.timestep, embeds[some]))
        sizes = [len(one.look.sides) * len(one.latents) for one in asked]
        each = torch.cat(outputs).split(sizes)
        return [_guided([output], one.look) for output, one in zip(each, asked, strict=True)]


def _key(weights: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(weights.items()))


def _prompts(sides: Sequence[Side]) -> tuple[str, ...]:
    return tuple(side.prompt for side in sides)


def _guided(outputs: Sequence[Float[Tensor, "_ c h w"]], look: Look) -> Float[Tensor, "b c h w"]:
    """The outputs of all rows, in one piece or in two, as one prediction a latent."""
    if len(look.sides) == 1:
        return outputs[0]
    uncond, cond = outputs if len(outputs) == 2 else outputs[0].chunk(2)
    return guided(uncond, cond, look.guidance)
