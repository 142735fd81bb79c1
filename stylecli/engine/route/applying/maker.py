"""Makes the jobs of `style route-apply` in batches: pictures of one size and one wish together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import files, images, store
from stylecli.artifacts.images import Geometry
from stylecli.engine.contents import read_content
from stylecli.engine.plan import Input, Job
from stylecli.engine.provenance import ROUTE, Model, provenance, recorded
from stylecli.engine.route.applying import explain
from stylecli.engine.route.applying.editing import Edited, Retoucher, fitted
from stylecli.engine.route.applying.wishes import Edit
from stylecli.engine.route.experts import Expert, Experts
from stylecli.engine.session import Session
from stylecli.engine.trajectories import filled, together
from stylecli.recipe.schema import Device, Recipe
from stylecli.tensors.regions import composite

# Results are kept in a file to this many digits of a weight.
DIGITS = 6
# Sides that are so many times as long as the model's come back visibly blurred.
BLURRED = 2


@dataclass(frozen=True, slots=True)
class Task:
    """What becomes of one content.

    Attributes:
        experts: Those of the edits, as the index has them.
        loras: Their files.
        output: The place a manifest names for it.
        folder: Of the content, below the one that was named.
    """

    content: Input
    edits: tuple[Edit, ...]
    experts: tuple[Expert, ...]
    loras: tuple[Input, ...]
    recipe: Recipe
    output: Path | None = None
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A content as the model is to see it, and as its file has it."""

    image: Float[Tensor, "1 3 h w"]
    geometry: Geometry
    pixels: UInt8[Tensor, "ho wo 3"]


@dataclass(frozen=True, slots=True)
class Made:
    """A result, ready to be written.

    Attributes:
        before: The content as the model saw it.
        rows: How many the model saw at a time.
        device: The settings that were in force.
    """

    pixels: UInt8[Tensor, "ho wo 3"]
    before: Float[Tensor, "3 h w"]
    done: Sequence[Edited]
    rows: int
    device: Device


class RouteMaker:
    """An editor and its experts at work on the jobs of a plan."""

    def __init__(self, session: Session, experts: Experts, tasks: Mapping[str, Task]) -> None:
        """Load the model and the experts that are needed.

        Args:
            session: Its editor is loaded here.
            experts: A folder of them.
            tasks: By the keys of their jobs.

        Raises:
            UsageError: An instruction is longer than the model reads, or the recipe names layers
                that it does not have.
            WeightsError: Weights cannot be read, or an expert is of another model.
        """
        self.batch = session.recipe.device.batch
        self._is_warned = False
        self._session = session
        self._tasks = tasks
        self._model = session.editor
        route = session.recipe.route
        edits = dict.fromkeys(edit for task in tasks.values() for edit in task.edits)
        self._retoucher = Retoucher(self._model, experts, list(edits), route.loss)
        # Whoever will be asked for layers that are not there hears of it now.
        with self._model.probing(route.loss.layers):
            pass

    def load(self, job: Job) -> Opened:
        asked = self._tasks[job.key].recipe.route.apply
        pixels = read_content(job.content).pixels
        picture = images.to_tensor(pixels)
        geometry = fitted(
            picture.shape[-2],
            picture.shape[-1],
            side=asked.size or self._model.native_px,
            multiple=self._model.multiple_px,
        )
        if not asked.protect_background:
            self._warn_of_blur(job.content.path.name, geometry)
        return Opened(geometry.apply(picture), geometry, pixels)

    def bucket(self, job: Job, loaded: Opened) -> Hashable:
        task = self._tasks[job.key]
        return loaded.geometry.padded, task.edits, id(task.recipe)

    def make(self, group: Sequence[tuple[Job, Opened]]) -> list[Made]:
        """Edit a group; the model sees full batches, whatever the group's size.

        Raises:
            ItemError: The model gave nothing that can be seen.
        """
        rows = self.batch
        task = self._tasks[group[0][0].key]
        asked = task.recipe.route.apply
        looks = group[0][0].sheet is not None or asked.protect_background
        whole = [opened.pixels for _, opened in group]

        def settle(done: Sequence[Edited]) -> Float[Tensor, "b 3 h w"]:
            """Lay an edit over the file's own picture; the next one begins from that."""
            seen = []
            for place, (_, opened) in enumerate(group):
                whole[place] = self._laid_over(whole[place], done[place], opened.geometry)
                seen.append(opened.geometry.apply(images.to_tensor(whole[place])))
            return torch.cat(filled(seen, rows))

        label = together([job.content.path.name for job, _ in group])
        told = self._session.context.reporter.task(label, asked.steps * len(task.edits))
        with told as progress:
            chains = self._retoucher.chain(
                torch.cat(filled([opened.image for _, opened in group], rows)),
                task.edits,
                asked,
                seeds=filled([job.seed for job, _ in group], rows),
                looks=looks,
                settle=settle if asked.protect_background else None,
                on_step=lambda: progress.advance(1),
            )
        made = []
        for place, (_, opened) in enumerate(group):
            pixels = whole[place]
            if not asked.protect_background:
                last = images.scaled(chains[place][-1].image, opened.geometry.original)
                pixels = images.to_pixels(last)
            done, device = chains[place], self._session.device
            made.append(Made(pixels, opened.image[0], done, rows, device))
        return made

    def save(self, job: Job, made: Made) -> Mapping[str, Any]:
        """Write a result; what explains it first, because the result says that the item is done."""
        task = self._tasks[job.key]
        model = Model(
            self._session.source.name,
            self._model.fingerprint,
            self._model.device,
            self._model.dtype,
        )
        edits = [
            {
                "object": edit.object,
                "style": edit.style,
                "prompt": edit.prompt,
                "experts": {name: round(weight, DIGITS) for name, weight in one.weights.items()},
            }
            for edit, one in zip(task.edits, made.done, strict=True)
        ]
        made_by = provenance(
            job,
            recorded(task.recipe, made.rows, made.device, include=ROUTE),
            model,
            edits=edits,
            experts=[expert.to_json() for expert in task.experts],
        )
        if job.sheet is not None:
            for path in job.beside:
                files.write_atomic(path, explain.numbers(task.edits, made.done, made_by))
            drawn = explain.strip(made.before, task.edits, made.done)
            store.save_image(job.sheet, drawn, made_by)
        store.save_image(job.output, made.pixels, made_by)
        height, width = made.pixels.shape[:2]
        seen = list(made.before.shape[-2:])
        return {"height": height, "width": width, "model_size": seen, "edits": edits}

    def _warn_of_blur(self, name: str, geometry: Geometry) -> None:
        """Say once that a model at this size cannot give a picture back as sharp as it was."""
        (height, width), (rows, columns) = geometry.original, geometry.resized
        if self._is_warned or height * width < BLURRED**2 * rows * columns:
            return
        self._is_warned = True
        self._session.context.reporter.warn(
            f"{name} has {width} x {height} pixels and the model works at {columns} x {rows}: what "
            "it gives back is enlarged, so it is blurred all over; --protect-background keeps the "
            "pixels that the words did not look at"
        )

    def shrink(self) -> str | None:
        return self._session.step_down()

    def _laid_over(
        self, pixels: UInt8[Tensor, "h w 3"], one: Edited, geometry: Geometry
    ) -> UInt8[Tensor, "h w 3"]:
        """An edit where its words looked, and elsewhere the picture's own pixels."""
        mask = self._retoucher.footprint(one, geometry)
        return composite(images.scaled(one.image, geometry.original), pixels, mask)
