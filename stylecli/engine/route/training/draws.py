"""What a step learns from: all of it from (seed, style, step), so a killed run goes on the same.

Draws are of all micro-batches of all processes, each pair with a generator of its own; a process
takes its share. How many there are changes nothing but the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from stylecli.backbone.editors.base import Editor, Text
from stylecli.backbone.probe.base import Phrases
from stylecli.engine.route.data.items import Sample
from stylecli.engine.route.training.caches import Encoded
from stylecli.methods.regionroute.losses import LEAST_CELLS
from stylecli.recipe.route import Train
from stylecli.tensors.seeds import generator

# Levels of noise that UNets count in.
TIMESTEPS = 1000


@dataclass(frozen=True, slots=True)
class Lesson:
    """One pair of a step.

    Attributes:
        has_text: The instruction is given; else no words, and attention is not looked at.
        has_picture: The picture to edit is given.
        chance: Where noise and times come from.
    """

    sample: Sample
    has_text: bool
    has_picture: bool
    chance: Generator


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs of one size as tensors on the device.

    Attributes:
        phrases: Places of the supervised words of each row.
        masks: Objects on the grid, one a phrase; zeros where a row has fewer than others.
        valid: Which of these there are, and are to be looked at.
    """

    clean: Float[Tensor, "b c lh lw"]
    noise: Float[Tensor, "b c lh lw"]
    times: Float[Tensor, " b"]
    text: Text
    reference: Float[Tensor, "b c lh lw"]
    phrases: Phrases
    masks: Float[Tensor, "b n e"]
    valid: Bool[Tensor, "b e"]
    grid: tuple[int, int]

    @property
    def usable(self) -> Bool[Tensor, "b e"]:
        """Edits that attention can be compared with."""
        return self.valid & (self.masks.sum(dim=1) >= LEAST_CELLS)


class Draws:
    """Micro-batches of one style, by their step."""

    def __init__(
        self, samples: Sequence[Sample], encoded: Encoded, settings: Train, seed: int
    ) -> None:
        """Sort pairs by size.

        Args:
            samples: Of one style.
        """
        (self._style,) = {sample.style_id for sample in samples}
        self._settings, self._seed = settings, seed
        by_size: dict[tuple[int, int], list[Sample]] = {}
        for sample in samples:
            by_size.setdefault(encoded.size(sample), []).append(sample)
        self._by_size = [by_size[size] for size in sorted(by_size)]
        # Methods would be kept, and with them all that they belong to.
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    @property
    def batches(self) -> int:
        """Micro-batches that it takes to see every pair."""
        size = self._settings.micro_batch
        return sum(-(-len(alike) // size) for alike in self._by_size)

    def at(self, step: int) -> list[list[Lesson]]:
        """All micro-batches of a step, each of pairs of one size."""
        size, count = self._settings.micro_batch, self._settings.accumulation
        found = []
        for number in range(count):
            epoch, place = divmod(step * count + number, self.batches)
            some = self._epoch(epoch)[place]
            found.append(
                [
                    self._lesson(sample, generator(self._seed, "route", self._style, step, row))
                    for row, sample in enumerate(some, start=number * size)
                ]
            )
        return found

    def _shuffled(self, epoch: int) -> list[list[Sample]]:
        """Every pair once; of sizes that do not come out even, a few twice."""
        chance = generator(self._seed, "route", self._style, "epoch", epoch)
        size = self._settings.micro_batch
        groups = []
        for alike in self._by_size:
            order = torch.randperm(len(alike), generator=chance).tolist()
            # The last is filled up from the beginning.
            padded = [order[at % len(order)] for at in range(-(-len(order) // size) * size)]
            groups += [
                [alike[at] for at in padded[first : first + size]]
                for first in range(0, len(padded), size)
            ]
        return [groups[at] for at in torch.randperm(len(groups), generator=chance).tolist()]

    def _lesson(self, sample: Sample, chance: Generator) -> Lesson:
        settings = self._settings
        # Drawn even where nothing is left out: a setting that is not used must not move the others.
        drawn = float(torch.rand((), generator=chance))
        no_text = settings.p_drop_text
        no_picture = no_text + settings.p_drop_picture
        nothing = no_picture + settings.p_drop_both
        is_blank = no_picture <= drawn < nothing
        return Lesson(
            sample,
            has_text=not (drawn < no_text or is_blank),
            has_picture=not (no_text <= drawn < no_picture or is_blank),
            chance=chance,
        )


def batch(
    editor: Editor,
    encoded: Encoded,
    lessons: Sequence[Lesson],
    *,
    is_even: bool = False,
    time: float | None = None,
) -> Batch:
    """Encode pairs of one size, and draw the rest.

    Args:
        is_even: Every level of noise is as likely, whatever the model prefers.
        time: Of all rows, in place of what would be drawn.

    Raises:
        ImageError: A picture cannot be read, or is another than it was.
    """
    clean, noise, drawn, references, texts, shown = [], [], [], [], [], []
    for one in lessons:
        clean.append(encoded.target(one.sample))
        drawn.append(times(editor, 1, clean[-1], one.chance, is_even=is_even))
        noise.append(torch.randn(clean[-1].shape, generator=one.chance))
        source = encoded.source(one.sample)
        references.append(source if one.has_picture else torch.zeros_like(source))
        texts.append(encoded.text(one.sample.prompt if one.has_text else ""))
        shown.append(one.sample)
    grid = editor.grid(clean[0])
    asked = [encoded.asked(sample) for sample in shown]
    most = max(len(phrases) for phrases in asked)
    masks = torch.zeros(len(lessons), grid[0] * grid[1], most)
    valid = torch.zeros(len(lessons), most, dtype=torch.bool)
    for row, (one, phrases) in enumerate(zip(lessons, asked, strict=True)):
        for place, phrase in enumerate(phrases):
            masks[row, :, place] = encoded.mask(one.sample, phrase.edits, grid)
            valid[row, place] = one.has_text
    device, text = editor.device, Text.cat(texts)
    return Batch(
        clean=torch.cat(clean).to(device),
        noise=torch.cat(noise).to(device),
        times=torch.cat(drawn).to(device)
        if time is None
        else torch.full((len(lessons),), time, device=device),
        text=Text(text.embeds.to(device), None if text.pooled is None else text.pooled.to(device)),
        reference=torch.cat(references).to(device),
        phrases=[[phrase.tokens for phrase in phrases] for phrases in asked],
        masks=masks.to(device),
        valid=valid.to(device),
        grid=grid,
    )


def times(
    editor: Editor, count: int, latents: Tensor, chance: Generator, *, is_even: bool
) -> Float[Tensor, " b"]:
    """Times to learn at, on the CPU.

    Args:
        latents: Of the size that times are for.
        is_even: All as likely, whatever the model prefers.
    """
    if not is_even:
        return editor.sample_times(count, latents, chance)
    if editor.kind == "edit-unet":
        return torch.randint(TIMESTEPS, (count,), generator=chance).float()
    # In (0, 1]: without noise there is nothing to answer.
    return 1 - torch.rand(count, generator=chance)
