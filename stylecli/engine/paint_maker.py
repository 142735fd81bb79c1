"""Paints jobs in batches: contents of one size together, and all that one is to become.

Looks of one content share its inversion and its passes through the model; only their own rows are
theirs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stylecli.artifacts import store
from stylecli.engine import asking, sheets
from stylecli.engine.contents import Canvas
from stylecli.engine.painted import Painted
from stylecli.engine.painter import AnyPainter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.engine.tasks import Task, blocks, is_shared
from stylecli.recipe.schema import Device

# Draws the sheet of one job from what was painted, with the painter at work.
Draw = Callable[[Any, Job, Painting, Painted], sheets.Sheet]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A result and its sheet, ready to be written.

    Attributes:
        rows: How many the model saw at a time, which may have been fewer than was asked for.
        device: The settings that were in force.
    """

    painted: Painted
    sheet: sheets.Sheet | None
    rows: int
    device: Device


class PaintMaker:
    """A painter at work on the jobs of a plan."""

    def __init__(
        self, painter: AnyPainter, tasks: Mapping[str, Task], draw: Draw, looks: int = 1
    ) -> None:
        """Take the jobs on.

        Args:
            tasks: By the keys of their jobs.
            draw: Of those that have a sheet.
            looks: How many of one content are painted side by side.
        """
        self._rows = painter.recipe.device.batch
        self._looks = self._most_looks = looks
        self._painter = painter
        self._tasks = tasks
        self._draw = draw
        self._opened: tuple[Hashable, Canvas] | None = None

    @property
    def batch(self) -> int:
        """Jobs that are made together: so many contents, each in so many looks."""
        return self._rows * self._looks

    @batch.setter
    def batch(self, jobs: int) -> None:
        if self._rows > 1:
            self._rows = max(1, jobs // self._looks)
        else:
            # Looks that pass one by one need no more memory together.
            in_rows = self._painter.recipe.device.adapters == "rows"
            self._looks = max(1, jobs) if in_rows else 1

    def load(self, job: Job) -> Canvas:
        task = self._tasks[job.key]
        whole = task.painting.has_masks
        # Looks of one content follow one another.
        wanted = (job.content, task.recipe.sampling.size, whole)
        if self._opened is None or self._opened[0] != wanted:
            canvas = self._painter.inverter.open(job.content, task.recipe, whole=whole)
            self._opened = (wanted, canvas)
        return self._opened[1]

    def bucket(self, job: Job, loaded: Canvas) -> Hashable:
        task = self._tasks[job.key]
        if task.painting.has_words:
            return job.output
        asked = store.digest(
            [
                None if is_shared(task) else task.painting.settings(),
                task.recipe.model_dump(mode="json"),
            ]
        )
        return (loaded.geometry if task.painting.has_masks else loaded.geometry.padded), asked

    def make(self, group: Sequence[tuple[Job, Canvas]]) -> list[Drawn]:
        """Paint a group; the model sees full batches, whatever the group's size.

        Raises:
            ItemError: A mask cannot be used, or the model gave nothing that can be seen.
        """
        first = self._tasks[group[0][0].key]
        rows = 1 if first.painting.has_words else self._rows
        drawn: dict[str, Drawn] = {}
        for canvases, jobs in blocks(group, self._tasks, rows, self._looks):
            paintings = [self._tasks[own[0].key].painting for own in jobs]
            painted = self._painter.paint_together(canvases, paintings, first.recipe, rows)
            for own, found in zip(jobs, painted, strict=True):
                for job, one in zip(own, found, strict=True):
                    sheet = self._sheet(job, one)
                    drawn[job.key] = Drawn(one, sheet, rows, self._painter.session.device)
        return [drawn[job.key] for job, _ in group]

    def save(self, job: Job, made: Drawn) -> Mapping[str, Any]:
        """Write a result; its sheet first, because the result says that the item is done."""
        task = self._tasks[job.key]
        recipe = recorded(asking.settled(task.recipe, task.painting), made.rows, made.device)
        prompts = made.painted.details["prompts"]
        made_by = provenance(job, recipe, self._painter.backbone, prompts=prompts)
        figures: Mapping[str, Any] = {}
        if job.sheet is not None and made.sheet is not None:
            store.save_image(job.sheet, made.sheet.pixels, made_by)
            figures = made.sheet.figures
        store.save_image(job.output, made.painted.pixels, made_by)
        return {**made.painted.details, **figures}

    def shrink(self) -> str | None:
        said = self._painter.step_down()
        if said is not None:
            self._looks = self._most_looks
        return said

    def _sheet(self, job: Job, painted: Painted) -> sheets.Sheet | None:
        if job.sheet is None:
            return None
        return self._draw(self._painter, job, self._tasks[job.key].painting, painted)
