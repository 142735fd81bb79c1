"""Paints contents in one or several looks: masks, inversion, sampling, and the paste at the end.

Everything is decided at two sizes: the content file's own, at which a composite keeps the pixels
that no region touches, and the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from stylecli.artifacts import store
from stylecli.backbone.inversion import Trajectory
from stylecli.backbone.lora import LoraFile
from stylecli.backbone.model import Backbone
from stylecli.engine.contents import Canvas, Inverter
from stylecli.engine.context import RunContext
from stylecli.engine.finder import CachedFinder
from stylecli.engine.looks import Looks, weights
from stylecli.engine.painted import Painted, pasted
from stylecli.engine.painting import Painting
from stylecli.engine.plan import Input
from stylecli.engine.regions import Masks, place
from stylecli.engine.session import Session
from stylecli.engine.sources import Sources
from stylecli.engine.starts import in_statistics, recoloured
from stylecli.engine.style_words import StyleWords
from stylecli.engine.trajectories import View, together
from stylecli.engine.wardrobe import Wardrobe
from stylecli.methods import diffstyler
from stylecli.methods.diffstyler import Background, Look, Region, Version
from stylecli.recipe.schema import Recipe, Sampling


class AnyPainter(Protocol):
    """What makers and sheets ask of a painter, whatever its method."""

    @property
    def session(self) -> Session: ...
    @property
    def backbone(self) -> Backbone: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def context(self) -> RunContext: ...
    @property
    def inverter(self) -> Inverter: ...

    def paint_each(
        self, content: Input, paintings: Sequence[Painting], *, recipe: Recipe | None = None
    ) -> list[Painted]:
        """Restyle one content in several ways."""

    def paint_together(
        self,
        canvases: Sequence[Canvas],
        paintings: Sequence[Painting],
        recipe: Recipe,
        rows: int = 1,
    ) -> list[list[Painted]]:
        """Restyle contents of one size, each in the same ways; for every way, every content."""

    def step_down(self) -> str | None:
        """Use less memory from here on; how, in words, or None when nothing is left."""


@dataclass(frozen=True, slots=True)
class _Sitting:
    """One way of painting some contents, and how they look to begin with."""

    painting: Painting
    masks: Masks
    views: Sequence[View]


class Painter:
    """A loaded model with the LoRAs it has met."""

    def __init__(self, session: Session, *, allow_download: bool = False) -> None:
        self.session = session
        self.backbone = session.backbone
        self.recipe = session.recipe
        self.context = session.context
        self.finder = CachedFinder(session, allow_download=allow_download)
        self.inverter = Inverter(self.backbone, self.context)
        words = StyleWords(session, allow_download=allow_download)
        self.looks = Looks(self.backbone.reads, words, self.context.reporter)
        self.sources = Sources(self.recipe.device, self.context)
        self.wardrobe = Wardrobe(
            self.backbone,
            self.recipe,
            self.context,
            folder=session.folder,
            allow_download=allow_download,
        )

    def step_down(self) -> str | None:
        return self.sources.leave_device() or self.session.step_down()

    def try_on(self, paintings: Iterable[Painting]) -> None:
        """Load each LoRA file once, so that one that does not fit costs no item its work.

        Raises:
            UsageError: One does not fit this model.
            WeightsError: One cannot be read.
        """
        for painting in paintings:
            self.wardrobe.fetch(p for p in painting.parts if p.look.role != "style")

    def paint_each(
        self, content: Input, paintings: Sequence[Painting], *, recipe: Recipe | None = None
    ) -> list[Painted]:
        """Restyle one content in several ways, side by side."""
        recipe = recipe or self.recipe
        whole = any(one.has_masks for one in paintings)
        canvas = self.inverter.open(content, recipe, whole=whole)
        at_once = recipe.device.looks
        return [
            one
            for first in range(0, len(paintings), at_once)
            for (one,) in self.paint_together([canvas], paintings[first : first + at_once], recipe)
        ]

    def paint_together(
        self,
        canvases: Sequence[Canvas],
        paintings: Sequence[Painting],
        recipe: Recipe,
        rows: int = 1,
    ) -> list[list[Painted]]:
        """Restyle contents of one size, each in the same ways.

        Paintings that start from the same colours share the contents' inversion and their passes
        through the model. Each is what it would be alone; only where rows have LoRAs of their own
        (``device.adapters: rows``) its last bits depend on what passes beside it.

        Args:
            canvases: Several only where no area is found by words; with masks, of one file size.
            paintings: What is painted where and when, in each way.
            recipe: Of the run, with other settings of inversion, injection or sampling; all that
                decides LoRAs and masks is the run's.
            rows: The model always sees so many contents, the last one filling up, so that results
                do not depend on which others there are.

        Returns:
            For every painting, its result of every canvas.

        Raises:
            ItemError: A mask cannot be used, words match nothing, or the model gave nothing that
                can be seen.
        """
        files = self.wardrobe.fetch(part for one in paintings for part in one.parts)
        sittings = [self._sitting(canvases, one, files, recipe.sampling) for one in paintings]
        alike: dict[str, list[int]] = {}
        for at, one in enumerate(sittings):
            colours = store.digest([view.changes for view in one.views])
            alike.setdefault(colours, []).append(at)
        found: dict[int, list[Painted]] = {}
        for places in alike.values():
            some = [sittings[at] for at in places]
            painted = self._side_by_side(canvases, some, files, recipe, rows)
            found |= zip(places, painted, strict=True)
        return [found[at] for at in range(len(paintings))]

    def _sitting(
        self,
        canvases: Sequence[Canvas],
        painting: Painting,
        files: Mapping[str, LoraFile],
        sampling: Sampling,
    ) -> _Sitting:
        masks = self._placed(canvases[0], painting, sampling)
        views = [canvas.view() for canvas in canvases]
        if sampling.start == "palette":
            reporter = self.context.reporter
            views = [recoloured(one, painting, files, masks, reporter) for one in canvases]
        return _Sitting(painting, masks, views)

    def _side_by_side(
        self,
        canvases: Sequence[Canvas],
        sittings: Sequence[_Sitting],
        files: Mapping[str, LoraFile],
        recipe: Recipe,
        rows: int,
    ) -> list[list[Painted]]:
        """Paintings that start from the same colours."""
        views = sittings[0].views
        trajectory = self.inverter.invert(views, recipe, rows)
        versions = [self._version(one, files, trajectory, recipe) for one in sittings]
        keeper = self.sources.keeper(
            self.inverter.identities(views, recipe, rows), recipe.injection
        )
        label = f"paint {together([canvas.name for canvas in canvases])}"
        with self.context.reporter.task(label, recipe.sampling.steps) as task:
            latents = diffstyler.paint_versions(
                self.backbone,
                self.wardrobe.adapters,
                trajectory,
                versions,
                recipe.injection,
                keeper=keeper,
                in_rows=recipe.device.adapters == "rows",
                on_step=lambda: task.advance(1),
            )
        return [
            self._finished(canvases, one.masks, version, painted, recipe.sampling)
            for one, version, painted in zip(sittings, versions, latents, strict=True)
        ]

    def _placed(self, canvas: Canvas, painting: Painting, sampling: Sampling) -> Masks:
        return place(
            painting,
            canvas.geometry,
            self.backbone.latent_px,
            sampling,
            self.recipe.masks,
            lambda words: self._find(canvas, words),
            self.context.reporter,
        )

    def _version(
        self,
        sitting: _Sitting,
        files: Mapping[str, LoraFile],
        trajectory: Trajectory,
        recipe: Recipe,
    ) -> Version:
        painting, masks, sampling = sitting.painting, sitting.masks, recipe.sampling
        start, background = None, None
        if sampling.start == "adain":
            noise = trajectory.latents[-1]
            start = in_statistics(noise, painting, masks, recipe, self.inverter)
        if masks.background is not None:
            base = weights((), next(iter(painting.accelerators), None))
            background = Background(
                share=masks.background,
                looks=_behind(sampling, base) if sampling.background == "denoise" else None,
                pin_until=sampling.pin_until,
                unpinned=Look(weights=base, prompt=""),
            )
        regions = [
            Region(looks=self.looks.of(area, files, sampling), share=share)
            for area, share in zip(painting.areas, masks.shares, strict=True)
        ]
        return Version(regions=regions, background=background, start=start)

    def _find(self, canvas: Canvas, words: str) -> tuple[Tensor, dict[str, Any]]:
        assert canvas.picture is not None, "opened whole, because the painting has masks"  # noqa: S101
        return self.finder.find(canvas.picture, words)

    def _finished(
        self,
        canvases: Sequence[Canvas],
        masks: Masks,
        version: Version,
        latents: Tensor,
        sampling: Sampling,
    ) -> list[Painted]:
        prompts = {look.prompt: None for region in version.regions for look in region.looks}
        decoded = self.backbone.decode(latents).cpu()[: len(canvases)]
        return [
            pasted(canvas, masks, one[None], sampling, list(prompts))
            for canvas, one in zip(canvases, decoded, strict=True)
        ]


def _behind(sampling: Sampling, base: Mapping[str, float]) -> list[Look]:
    """What the background is repainted with."""
    look = Look(
        weights=base,
        prompt=sampling.background_prompt,
        negative=sampling.negative,
        guidance=sampling.guidance,
    )
    return [look] * sampling.steps
