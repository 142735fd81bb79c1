"""Draws pictures from words in batches: several of the same words are drawn together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.artifacts.images import Geometry
from stylecli.engine import asking, regions
from stylecli.engine.painted import FLAT
from stylecli.engine.painter import Painter
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.engine.trajectories import filled, together
from stylecli.errors import ItemError
from stylecli.methods import diffstyler
from stylecli.methods.diffstyler import Background, Region
from stylecli.recipe.schema import Device, Recipe
from stylecli.tensors.seeds import generator


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is to be drawn, under which settings."""

    painting: Painting
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture ready to be written, and the words that made it.

    Attributes:
        rows: How many the model saw at a time.
        device: The settings that were in force.
    """

    pixels: UInt8[Tensor, "h w 3"]
    said: str
    rows: int
    device: Device


class DrawMaker:
    """A painter at work on the words of a plan."""

    def __init__(self, painter: Painter, drawings: Mapping[str, Drawing]) -> None:
        """Take the jobs on; drawings are named by the keys of their jobs."""
        self.batch = painter.recipe.device.batch
        self._painter = painter
        self._drawings = drawings

    def load(self, job: Job) -> None:
        """Nothing: what is drawn comes from words."""

    def bucket(self, job: Job, loaded: None) -> Hashable:
        drawing = self._drawings[job.key]
        return store.digest([drawing.painting.settings(), drawing.recipe.model_dump(mode="json")])

    def make(self, group: Sequence[tuple[Job, None]]) -> list[Drawn]:
        """Draw a group; the model sees full batches, whatever the group's size.

        Raises:
            ItemError: A mask cannot be used, or the model gave nothing that can be seen.
        """
        drawing = self._drawings[group[0][0].key]
        painter, sampling = self._painter, drawing.recipe.sampling
        backbone, geometry = painter.backbone, self._geometry(drawing.recipe)
        areas = drawing.painting.areas
        files = painter.wardrobe.fetch(drawing.painting.parts)
        on_top = [area for area in areas if area.mask is not None]
        masks = regions.place(
            Painting(tuple(on_top)),
            geometry,
            backbone.latent_px,
            sampling,
            painter.recipe.masks,
            _found_nowhere,
            painter.context.reporter,
        )
        whole = painter.looks.of(areas[0], files, sampling)
        background = None
        shown = [Region(looks=whole)]
        if masks.background is not None:
            shown = [
                Region(looks=painter.looks.of(area, files, sampling), share=share)
                for area, share in zip(on_top, masks.shares, strict=True)
            ]
            background = Background(share=masks.background, looks=whole)
        jobs = [job for job, _ in group]
        label = f"generate {together([job.inputs[0].path.name for job in jobs])}"
        rows = self.batch
        with painter.context.reporter.task(label, sampling.steps) as task:
            latents = diffstyler.generate(
                backbone,
                painter.wardrobe.adapters,
                self._noise(jobs, geometry, rows),
                backbone.schedule.levels(sampling.steps, sampling.timesteps),
                shown,
                background=background,
                in_rows=drawing.recipe.device.adapters == "rows",
                on_step=lambda: task.advance(1),
            )
        results = geometry.undo(backbone.decode(latents)).cpu()[: len(jobs)]
        for result in results:
            if float(result.std()) < FLAT:
                raise ItemError("the result is one flat colour", fix="use --dtype float32")
        said, device = whole[0].prompt, painter.session.device
        return [Drawn(images.to_pixels(result), said, rows, device) for result in results]

    def save(self, job: Job, made: Drawn) -> Mapping[str, Any]:
        drawing = self._drawings[job.key]
        recipe = recorded(asking.settled(drawing.recipe, drawing.painting), made.rows, made.device)
        # As it was typed, and what it came to; the seed tells which of several pictures of it.
        made_by = provenance(
            job,
            recipe,
            self._painter.backbone,
            prompt=drawing.painting.areas[0].prompt,
            prompts=[made.said],
        )
        store.save_image(job.output, made.pixels, made_by)
        height, width = made.pixels.shape[:2]
        return {"prompt": made.said, "height": height, "width": width}

    def shrink(self) -> str | None:
        return self._painter.session.step_down()

    def _geometry(self, recipe: Recipe) -> Geometry:
        height, width = size(recipe)
        multiple = self._painter.backbone.multiple_px
        padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        return Geometry((height, width), (height, width), padded)

    def _noise(
        self, jobs: Sequence[Job], geometry: Geometry, rows: int
    ) -> Float[Tensor, "b c h w"]:
        """Each picture's own, from its own seed; the last one fills the batch up."""
        backbone = self._painter.backbone
        cells = [side // backbone.latent_px for side in geometry.padded]
        shape = (1, backbone.latent_channels, *cells)
        noise = [torch.randn(shape, generator=generator(job.seed, "noise")) for job in jobs]
        return torch.cat(filled(noise, rows)).to(backbone.device)


def size(recipe: Recipe) -> tuple[int, int]:
    """Height and width of a picture from words."""
    sampling = recipe.sampling
    return sampling.height or sampling.size, sampling.width or sampling.size


def _found_nowhere(words: str) -> Any:
    raise AssertionError(f"text:{words} was let through by painting.of_regions")
