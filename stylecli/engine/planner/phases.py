"""Phases of a command's work: which calls of the model, how many, and what lives beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stylecli.engine.planner.memory import (
    HOLES,
    HOLES_OF_TRAINING,
    NOTHING,
    Alive,
    alive,
    kept,
    with_holes,
)
from stylecli.engine.planner.passes import Handed, Pass, Passes
from stylecli.engine.planner.work import LED, Work, handed
from stylecli.recipe.schema import Device, Recipe

# Prompts that a run embeds: that of a look, the negative, and none.
PROMPTS = 3
# Of a LoRA that is learned: its numbers, their gradients and what the optimiser remembers.
LEARNING = 4
# Pairs that a LoRA is judged on, before and after.
JUDGED = 32
# Names of rows that are passes of the content or the style under the base model.
BASE = ("inversion", "reconstruction", "content", "style", "sampled")
# Rows that the contents of a batch have in common.
SHARED = "references"


@dataclass(frozen=True, slots=True, eq=False)
class Phase:
    """Calls of one kind.

    Attributes:
        rows: In all.
        at_once: Of one call.
        beside: Alive besides what the call itself makes.
        needs: The part of the model at work.
        name: Several phases of one name are one part.
    """

    name: str
    one: Pass
    rows: float
    at_once: int
    beside: Alive = NOTHING
    needs: Literal["unet", "vae", "text"] = "unet"

    @property
    def calls(self) -> float:
        return self.rows / self.at_once

    @property
    def factor(self) -> float:
        """Its work, in walks."""
        return self.rows / self.one.rows

    @property
    def alive(self) -> Alive:
        return alive(self.one, self.at_once) + self.beside

    @property
    def alive_in_heap(self) -> Alive:
        if self.needs != "unet":
            return self.alive
        is_backward = any("backward" in call.name for call in self.one.walk.calls)
        return with_holes(self.alive, HOLES_OF_TRAINING if is_backward else HOLES)


class Phases:
    """Tells what some work is made of under any device settings."""

    def __init__(self, passes: Passes, recipe: Recipe, work: Work) -> None:
        self._passes = passes
        self._recipe = recipe
        self._work = work

    def groups(self, settings: Device) -> int:
        """How many batches there are."""
        return math.ceil(self._work.items / settings.batch)

    def under(self, settings: Device, *, checkpointing: bool) -> Iterator[Phase]:
        """All phases, in their order."""
        work, passes, recipe = self._work, self._passes, self._recipe
        size = (work.height, work.width)
        batch = settings.batch
        # Batches are filled up.
        items = self.groups(settings) * batch
        most = settings.max_rows or math.inf

        def at_once(rows: int) -> int:
            return int(min(rows, most))

        yield Phase("prompts", passes.text(), PROMPTS, 1, needs="text")
        if work.loras:
            yield from self._lessons(settings, checkpointing)
        shared = work.contents / max(1, work.items)
        learns = recipe.sampling.method == "diffstyler" and not work.is_gallery
        is_guided = recipe.sampling.guidance != 1 and learns
        guided = 2 if is_guided else 1
        steps = recipe.sampling.steps
        injected = handed(recipe) if learns else Counter[Handed]()
        for name, count in work.rows.items():
            rows = count * items
            if name in BASE:
                yield Phase(name, passes.plain(*size), rows * shared, at_once(batch))
            elif name == SHARED:
                one, count = passes.plain(*size), count * self.groups(settings)
                yield Phase(name, one, count, at_once(batch))
            elif name.startswith("source"):
                for step, times in injected.items():
                    one = passes.source(step, *size)
                    yield Phase("source", one, rows * times / steps * self._shared, at_once(batch))
            elif name == "stylised" and "inversion" in work.rows:
                for step, times in injected.items():
                    left = passes.source(step, *size)
                    yield Phase(
                        name,
                        passes.target(step, *size, min(batch, 2)),
                        rows * times / steps,
                        at_once(batch * guided),
                        kept(block * batch / left.rows for block in left.kept),
                    )
                rest = steps - injected.total()
                if rest:
                    one = passes.styled(*size)
                    yield Phase(name, one, rows * rest / steps, at_once(batch * guided))
            elif name == "gradients":
                is_saving = recipe.distill.gradient_checkpointing
                is_saving = checkpointing if work.is_gallery else is_saving
                one = passes.training(*size, checkpointing=is_saving)
                yield Phase(name, one, rows, at_once(batch))
            elif name == LED:
                continue  # forwards is a part of the way back
            elif name != "training":
                one = passes.styled(*size)
                yield Phase(name, one, rows, at_once(batch * guided))
        if "training" not in work.rows or len(work.rows) > 1:
            yield from self._pictures(settings, items)

    def _lessons(self, settings: Device, checkpointing: bool) -> Iterator[Phase]:
        work, lora = self._work, self._recipe.lora
        rows = work.rows.get("training", 0) * work.loras
        pupils = work.loras if len(work.rows) == 1 else 1
        at_once = min(settings.batch, settings.max_rows or settings.batch, pupils * lora.batch)
        size = work.train_px
        whole = size if lora.crop == "center" else (lora.resolution, lora.resolution)
        one = self._passes.encode(*whole, tiling=settings.tiling)
        yield Phase("encode styles", one, work.loras, 1, needs="vae")
        one = self._passes.training(*size, checkpointing=checkpointing)
        learning = self._passes.lora_numbers * 4 * LEARNING * min(pupils, settings.batch)
        yield Phase("training", one, rows, at_once, kept([learning]))
        judged = self._passes.styled(*size)
        yield Phase("training", judged, JUDGED * work.loras, at_once)

    def _pictures(self, settings: Device, items: int) -> Iterator[Phase]:
        work, passes = self._work, self._passes
        size, batch = (work.height, work.width), settings.batch
        at_once = min(batch, settings.max_rows or batch)
        picture = kept([12.0 * work.height * work.width * batch] * (at_once < batch))
        if "inversion" in work.rows or "content" in work.rows:
            one = passes.encode(*size, tiling=settings.tiling)
            yield Phase("encode", one, items, at_once, picture, needs="vae")
        if work.rows.keys() != {"inversion"}:
            one = passes.decode(*size, tiling=settings.tiling)
            yield Phase("decode", one, items, at_once, picture, needs="vae")

    @property
    def _shared(self) -> float:
        """Source rows of a content serve all looks that are painted side by side."""
        work, sampling = self._work, self._recipe.sampling
        if sampling.start == "palette" or sampling.regions:
            return 1.0
        looks = max(1.0, work.items / max(1, work.contents))
        return math.ceil(looks / self._recipe.device.looks) / looks
