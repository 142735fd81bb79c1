"""Makes the pictures of a gallery in batches: looked at, matched, led, decoded, and explained."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from stylecli.artifacts import files, store
from stylecli.backbone import lora
from stylecli.backbone.adapters import Adapters
from stylecli.engine.contents import Inverter
from stylecli.engine.gallery import dump, explain, pasting
from stylecli.engine.gallery.analyst import Analysis, Analyst, Sitter
from stylecli.engine.gallery.explain import Explained
from stylecli.engine.gallery.names import Names
from stylecli.engine.gallery.references import References, sit
from stylecli.engine.gallery.sight import Sight
from stylecli.engine.gallery.wishes import Task
from stylecli.engine.painted import Painted, pasted
from stylecli.engine.plan import Input, Job
from stylecli.engine.provenance import GALLERY, provenance, recorded
from stylecli.engine.session import Session
from stylecli.engine.trajectories import filled, together
from stylecli.errors import ItemError, UsageError
from stylecli.methods.stylegallery import overrides
from stylecli.methods.stylegallery.match import Match, Table, choose, score
from stylecli.methods.stylegallery.names import Known
from stylecli.methods.stylegallery.optimise import Reference, Subject, stylise
from stylecli.methods.stylegallery.visits import visits
from stylecli.recipe.schema import Device

ACCELERATOR = "accelerator"
DUMP_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class Made:
    """A result, ready to be written.

    Attributes:
        rows: How many contents the model saw at a time.
        device: The settings that were in force.
        updates: What a dump holds of it.
    """

    painted: Painted
    explained: Explained
    latents: Tensor
    rows: int
    device: Device
    updates: dump.Recorded | None


class GalleryMaker:
    """A model at work on the jobs of a plan."""

    def __init__(
        self,
        session: Session,
        sight: Sight,
        tasks: Mapping[str, Task],
        *,
        allow_download: bool = False,
    ) -> None:
        """Load the model, and the accelerator where there is one.

        Args:
            tasks: By the keys of their jobs.

        Raises:
            UsageError: The accelerator does not fit this model.
            WeightsError: Weights cannot be read.
        """
        self.batch = session.recipe.device.batch
        self._session = session
        self._sight = sight
        self._tasks = tasks
        self._backbone = session.backbone
        self._reporter = session.context.reporter
        self._inverter = Inverter(self._backbone, session.context)
        self._analyst = Analyst(self._backbone, session.context, sight)
        self._references = References(self._inverter, self._analyst, session.context)
        self._names = Names(session, allow_download=allow_download)
        self._checkpoints = False
        self._worn: tuple[Input, Adapters] | None = None
        for one in dict.fromkeys(task.accelerator for task in tasks.values()):
            self._adapters(one)

    def load(self, job: Job) -> Sitter:
        task = self._tasks[job.key]
        whole = bool(task.wishes.words) or pasting.may_keep(task.recipe)
        return sit(self._inverter, job.content, task.mask, task.recipe, whole=whole)

    def bucket(self, job: Job, loaded: Sitter) -> Hashable:
        return loaded.canvas.geometry.padded, id(self._tasks[job.key].recipe)

    def make(self, group: Sequence[tuple[Job, Sitter]]) -> list[Made]:
        """Restyle a group; the model sees full batches, whatever the group's size.

        Raises:
            ItemError: Wishes that do not fit the content, or the model gave nothing to be seen.
        """
        rows, clock = self.batch, _Clock()
        task = self._tasks[group[0][0].key]
        sitters = [sitter for _, sitter in group]
        with clock("references"):
            styles = self._references.of(task.references, task.recipe, task.networks)
        with clock("regions"):
            contents = self._analyst.analyse(sitters, task.recipe, task.networks, rows)
        with clock("matches"):
            matched = [
                self._matched(task, sitter, content, styles)
                for sitter, content in zip(sitters, contents, strict=True)
            ]
        if self._session.context.device.type == "cuda":
            # What is led needs the memory more than the next batch needs the networks at once.
            self._sight.close()
        is_dumped = any(path.suffix == DUMP_SUFFIX for path in group[0][0].beside)
        recorder = dump.Recorder(len(group)) if is_dumped else None
        try:
            with clock("latents"):
                latents = self._led(group, contents, styles, matched, recorder)
            with clock("decoding"):
                decoded = self._backbone.decode(latents).cpu()
            return [
                Made(
                    pasted(
                        sitter.canvas,
                        pasting.restyled(
                            sitter.canvas,
                            contents[at].regions.labels,
                            matched[at][1],
                            task.recipe,
                        ),
                        decoded[at][None],
                        task.recipe.sampling,
                        [],
                    ),
                    Explained(
                        content=contents[at],
                        image=sitter.canvas.geometry.undo(sitter.canvas.image)[0],
                        styles=styles,
                        table=matched[at][0],
                        matches=matched[at][1],
                        seconds={name: s / len(group) for name, s in clock.seconds.items()},
                    ),
                    latents[at].cpu(),
                    rows,
                    self._session.device,
                    recorder.of[at] if recorder else None,
                )
                for at, sitter in enumerate(sitters)
            ]
        except BaseException:
            if recorder is not None:
                recorder.close()
            raise

    def save(self, job: Job, made: Made) -> Mapping[str, Any]:
        """Write a result; what explains it first, because the result says that the item is done."""
        task = self._tasks[job.key]
        recipe = recorded(task.recipe, made.rows, made.device, include=GALLERY)
        # Of files that are to say nothing, the report still has its settings.
        said_of_all = provenance(replace(job, strip=False), recipe, self._backbone) or {}
        made_by = None if job.strip else said_of_all
        header = {} if made_by is None else {store.KEY: made_by}
        for path in job.beside:
            if path.suffix == ".json":
                listing = explain.report(
                    made.explained,
                    said_of_all["recipe"],
                    self._sight.described(task.recipe),
                    is_named=not job.strip,
                )
                files.write_atomic(path, explain.as_text(header | listing).encode())
            elif made.updates is not None:
                said = {name: files.to_json(one) for name, one in header.items()}
                dump.save(
                    path,
                    made.updates,
                    labels=made.explained.labels(),
                    latents={
                        "content.clean": made.explained.content.clean,
                        "content.noise": made.explained.content.noise,
                        "latents": made.latents,
                    },
                    header={"format": "pt", **said},
                )
        if job.sheet is not None:
            pictures = {at: self._opened(task, at) for at in explain.shown(made.explained)}
            drawn = explain.drawn(made.explained, pictures, is_named=not job.strip)
            store.save_image(job.sheet, drawn, made_by)
        store.save_image(job.output, made.painted.pixels, made_by)
        size = {key: made.painted.details[key] for key in ("height", "width")}
        return size | made.explained.figures()

    def shrink(self) -> str | None:
        settings = [task.recipe.gallery for task in self._tasks.values()]
        if not (self._checkpoints or all(one.gradient_checkpointing for one in settings)):
            self._checkpoints = True
            return "with gradient checkpointing"
        return self._session.step_down()

    def _matched(
        self, task: Task, sitter: Sitter, content: Analysis, styles: Sequence[Analysis]
    ) -> tuple[Table, tuple[Match, ...]]:
        settings = task.recipe.matching
        task.wishes.refuse_strangers([(one.name, one.sha256) for one in (content, *styles)])
        table = score(content.described, [one.described for one in styles], settings)
        labels = content.regions.labels
        known = Known(
            areas=(torch.bincount(labels.flatten())[1:] / labels.numel()).tolist(),
            references=[one.picture.path.name for one in task.references],
            counts=[int(one.regions.labels.max()) for one in styles],
            number_of=self._names.of(sitter, content, task.wishes),
            names=sitter.paint.names() if sitter.paint else (),
        )
        try:
            found = overrides.read(
                task.recipe.gallery,
                known,
                files=task.wishes.data,
                automatic=choose(table, settings) if task.wishes.data else (),
            )
            matches = choose(table, settings, found)
        except UsageError as error:
            # Of this content alone: another one may well have such a region.
            raise ItemError(f"{content.name}: {error.what}", fix=error.fix) from error
        if all(match.style is None for match in matches):
            self._reporter.warn(f"{content.name}: every region is kept, and nothing restyled")
        return table, matches

    def _led(
        self,
        group: Sequence[tuple[Job, Sitter]],
        contents: Sequence[Analysis],
        styles: Sequence[Analysis],
        matched: Sequence[tuple[Table, tuple[Match, ...]]],
        recorder: dump.Recorder | None,
    ) -> Tensor:
        task = self._tasks[group[0][0].key]
        settings = task.recipe.gallery
        if self._checkpoints:
            settings = settings.model_copy(update={"gradient_checkpointing": True})
        subjects = [
            Subject(one.clean, one.noise, one.regions.labels, matches)
            for one, (_, matches) in zip(contents, matched, strict=True)
        ]
        name = together([one.name for one in contents])
        schedule, inverted = self._backbone.schedule, task.recipe.dfcc.steps
        # Sampling begins where inversions end, so there may be fewer than steps.
        moments = visits(schedule, settings, schedule.levels(inverted) if inverted else None)
        with self._reporter.task(f"restyle {name}", len(moments)) as told:
            return stylise(
                self._backbone,
                filled(subjects, self.batch),
                [Reference(one.clean, one.noise, one.regions.labels) for one in styles],
                settings,
                seeds=filled([job.seed for job, _ in group], self.batch),
                adapters=self._adapters(task.accelerator),
                watch=recorder,
                on_step=lambda: told.advance(1),
                inversion_steps=inverted,
            )

    def _adapters(self, item: Input | None) -> Adapters | None:
        """The accelerator alone in the model, off until somebody uses it."""
        if item is None:
            return None
        if self._worn is None or self._worn[0] != item:
            adapters = self._worn[1] if self._worn else Adapters(self._backbone.unet, fused=True)
            if self._worn is not None:
                adapters.remove(ACCELERATOR)
            try:
                adapters.add(ACCELERATOR, lora.read(item.path, self._backbone.unet))
            except UsageError as error:
                raise UsageError(
                    f"{item.path}: {error.what.rstrip(': ')}", fix=error.fix
                ) from error
            self._worn = item, adapters
        return self._worn[1]

    def _opened(self, task: Task, at: int) -> Tensor:
        """A reference as the model saw it, without its margin."""
        canvas = sit(self._inverter, task.references[at].picture, None, task.recipe).canvas
        return canvas.geometry.undo(canvas.image)[0]


@dataclass(frozen=True, slots=True)
class _Clock:
    """What stages took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - started
