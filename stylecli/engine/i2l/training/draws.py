"""What a step learns from: all of it from (seed, step), so a run that was killed goes on the same.

Draws are of the whole batch of all processes, each style with a generator of its own; a process
takes its share. How many there are changes nothing but the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stylecli.backbone.denoisers.base import Denoiser
from stylecli.engine.i2l.data.items import Item
from stylecli.engine.i2l.data.tuples import Pick, Tuples
from stylecli.engine.i2l.training.caches import Encoded
from stylecli.recipe.i2l import Train
from stylecli.tensors.seeds import generator


@dataclass(frozen=True, slots=True)
class Lesson:
    """One style of a step: its references, and what the LoRA they give is tried on.

    Attributes:
        captions: One for each target; empty where its words are dropped.
        is_grey: Grey stands for the references.
        chance: Where noise and times come from.
    """

    targets: tuple[Item, ...]
    references: tuple[Item, ...]
    captions: tuple[str, ...]
    is_grey: bool
    chance: Generator


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of some lessons as tensors on the device.

    Attributes:
        slots: Which lesson each row is of.
    """

    tokens: Float[Tensor, "lessons n t e"]
    clean: Float[Tensor, "rows ..."]
    noise: Float[Tensor, "rows ..."]
    times: Float[Tensor, " rows"]
    prompts: list[Tensor]
    slots: list[int]


@dataclass(frozen=True, slots=True)
class Draws:
    """Lessons by their step."""

    tuples: Tuples
    settings: Train
    seed: int

    def at(self, step: int) -> list[Lesson]:
        """All lessons of a step, with equally many references."""
        picks = self.tuples.at(step, self.settings.global_batch)
        return [
            self._lesson(pick, generator(self.seed, "i2l", step, place))
            for place, pick in enumerate(picks)
        ]

    def _lesson(self, pick: Pick, chance: Generator) -> Lesson:
        settings, items = self.settings, self.tuples.dataset.items
        targets: Sequence[Item] = pick.targets
        is_grey = _happens(settings.p_grey, chance)
        if is_grey:
            some = torch.randint(len(items), (len(targets),), generator=chance).tolist()
            targets = [items[place] for place in some]
        captions = tuple(
            "" if _happens(settings.p_drop_text, chance) else item.caption for item in targets
        )
        return Lesson(tuple(targets), pick.references, captions, is_grey, chance)


def batch(
    denoiser: Denoiser, encoded: Encoded, lessons: Sequence[Lesson], *, shift: float | None
) -> Batch:
    """Encode the pictures and words of lessons with equally many references, and draw the rest."""
    look = [encoded.grey if one.is_grey else encoded.tokens for one in lessons]
    tokens = torch.stack(
        [
            torch.stack([tokens_of(item) for item in one.references])
            for one, tokens_of in zip(lessons, look, strict=True)
        ]
    )
    clean, noise, times, prompts, slots = [], [], [], [], []
    for slot, one in enumerate(lessons):
        for item, caption in zip(one.targets, one.captions, strict=True):
            clean.append(encoded.latents(item))
            times.append(denoiser.sample_times(1, one.chance, shift=shift).cpu())
            noise.append(denoiser.draw_noise(clean[-1], one.chance))
            prompts.append(encoded.text(caption))
            slots.append(slot)
    device = denoiser.device
    return Batch(
        tokens.to(device),
        torch.cat(clean).to(device),
        torch.cat(noise).to(device),
        torch.cat(times).to(device),
        prompts,
        slots,
    )


def _happens(probability: float, chance: Generator) -> bool:
    # Drawn even where it never happens: a setting that is not used must not move the others.
    return float(torch.rand((), generator=chance)) < probability
