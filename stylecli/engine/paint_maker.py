"""Paints jobs in batches: contents of one size that ask for the same, together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.engine import sheets
from stylecli.engine.contents import Canvas
from stylecli.engine.painter import Painted, Painter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input, Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.recipe.schema import Recipe

# Draws the sheet of one job from what was painted.
Draw = Callable[[Painter, Job, Painting, Painted], sheets.Sheet]


@dataclass(frozen=True, slots=True)
class Task:
    """One content and what becomes of it.

    Attributes:
        recipe: Of the run, with what the content's row of a manifest changes.
        folder: Of the content, below the one that was named.
    """

    content: Input
    painting: Painting
    recipe: Recipe
    output: Path | None = None
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A result and its sheet, ready to be written.

    Attributes:
        rows: How many the model saw at a time, which may have been fewer than was asked for.
    """

    painted: Painted
    sheet: sheets.Sheet | None
    rows: int


class PaintMaker:
    """A painter at work on the jobs of a plan."""

    def __init__(self, painter: Painter, tasks: Mapping[str, Task], draw: Draw) -> None:
        """Take the jobs on.

        Args:
            tasks: By the keys of their jobs.
            draw: Of those that have a sheet.
        """
        self.batch = painter.recipe.device.batch
        self._painter = painter
        self._tasks = tasks
        self._draw = draw

    def load(self, job: Job) -> Canvas:
        task = self._tasks[job.key]
        return self._painter.inverter.open(job.content, task.recipe, whole=task.painting.has_masks)

    def bucket(self, job: Job, loaded: Canvas) -> Hashable:
        task = self._tasks[job.key]
        if task.painting.has_words:
            return job.output
        asked = store.digest([task.painting.settings(), task.recipe.model_dump(mode="json")])
        return (loaded.geometry if task.painting.has_masks else loaded.geometry.padded), asked

    def make(self, group: Sequence[tuple[Job, Canvas]]) -> list[Drawn]:
        """Paint a group; the model sees full batches, whatever the group's size.

        Raises:
            ItemError: A mask cannot be used, or the model gave nothing that can be seen.
        """
        task = self._tasks[group[0][0].key]
        rows = 1 if task.painting.has_words else self.batch
        canvases = [canvas for _, canvas in group]
        painted = self._painter.paint_together(canvases, task.painting, task.recipe, rows)
        return [
            Drawn(one, self._sheet(job, one), rows)
            for (job, _), one in zip(group, painted, strict=True)
        ]

    def save(self, job: Job, made: Drawn) -> Mapping[str, Any]:
        """Write a result; its sheet first, because the result says that the item is done."""
        recipe = recorded(self._tasks[job.key].recipe, made.rows)
        prompts = made.painted.details["prompts"]
        made_by = provenance(job, recipe, self._painter.backbone, prompts=prompts)
        figures: Mapping[str, Any] = {}
        if job.sheet is not None and made.sheet is not None:
            store.save_image(job.sheet, made.sheet.pixels, made_by)
            figures = made.sheet.figures
        store.save_image(job.output, made.painted.pixels, made_by)
        return {**made.painted.details, **figures}

    def _sheet(self, job: Job, painted: Painted) -> sheets.Sheet | None:
        if job.sheet is None:
            return None
        return self._draw(self._painter, job, self._tasks[job.key].painting, painted)
