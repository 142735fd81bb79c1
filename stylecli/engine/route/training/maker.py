"""What `style route-train` makes of its jobs: experts that learn in turns on one frozen model."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.artifacts import cache, store
from stylecli.artifacts.files import to_json
from stylecli.backbone.experts import Experts
from stylecli.engine.plan import Job
from stylecli.engine.provenance import Model, provenance
from stylecli.engine.route import experts as expert_files
from stylecli.engine.route.data.items import TRAIN, VAL, Dataset, Sample
from stylecli.engine.route.experts import Expert
from stylecli.engine.route.training import settings as deciding
from stylecli.engine.route.training.caches import Encoded
from stylecli.engine.route.training.course import Course
from stylecli.engine.route.training.draws import Draws
from stylecli.engine.route.training.examination import Examination
from stylecli.engine.route.training.pictures import Pictures
from stylecli.engine.route.training.steps import Material, Trainer
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training.state import Place, folder_of, log_of
from stylecli.errors import InputError, UsageError, WeightsError
from stylecli.methods.regionroute.losses import LEAST_CELLS
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.route import Route
from stylecli.tensors.seeds import generator

# What of a checkpoint can be used.
EXPERT = "expert.safetensors"


@dataclass(frozen=True, slots=True)
class Made:
    """An expert that has learned, and the figures of its last examination."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, str]
    figures: Mapping[str, Any]


class ExpertMaker:
    """Trains the experts of a run side by side, a step of each in turn.

    Each has its own optimiser and draws its own pairs, so it ends in the same bytes whichever
    others learn beside it.
    """

    def __init__(
        self,
        session: Session,
        dataset: Dataset,
        styles: Mapping[Path, Style],
        *,
        afresh: bool = False,
        force: bool = False,
        team: Team = ALONE,
    ) -> None:
        """Take the jobs on; nothing is loaded yet.

        Args:
            styles: By the file of the expert.
            afresh: Forget what an interrupted training left.
            force: Go on from what one with other settings or data left.
        """
        self.batch = max(1, len(styles))
        self._session, self._dataset, self._styles = session, dataset, styles
        self._settings: Route = session.recipe.route
        self._team, self._force = team, force
        self._stale = set(styles) if afresh else set()
        self._experts: Experts | None = None
        self._is_frugal = self._settings.train.checkpointing
        self._at_once = self._first_rows()
        # How often less memory was asked for.
        self._shrunk = 0
        # What is wrong with one of the experts, and for the user to mend.
        self._refusal: UsageError | WeightsError | None = None

    def load(self, job: Job) -> None:
        """Nothing: pictures are read as they are encoded."""

    def bucket(self, job: Job, loaded: None) -> Hashable:
        return None

    def make(self, group: Sequence[tuple[Job, None]]) -> list[Made]:
        """Train; the team is told of it first.

        Raises:
            ItemError: A picture cannot be read, or a loss is no number.
            UsageError: An instruction is too long for the model, no object of a style is seen on
                its grid, or the state of another run is in the way; before anything was learned.
            RecipeError: Settings that do not fit the model; likewise.
            WeightsError: The model cannot be loaded, or a checkpoint is damaged; likewise.
        """
        if self._refusal is not None:
            # It ends the run: nobody is to learn for hours before that, alone, as after what is
            # wrong with one item.
            raise self._refusal
        jobs = [job for job, _ in group]
        if self._team.leads:
            for job in jobs:
                if job.output in self._stale:
                    self._place(job).clear()
                    self._stale.remove(job.output)  # what is tried again goes on
            self._team.order(json.dumps([self._shrunk, [str(job.output) for job in jobs]]))
        with self._team.same_fate():
            cache.ensure_writable()
            try:
                return self._trained(jobs)
            except (UsageError, WeightsError) as error:
                self._refusal = error
                raise

    def follow(self, jobs: Sequence[Job]) -> int:
        """Do one's share; the exit status to end with."""
        known = {str(job.output): job for job in jobs}

        def work(order: str) -> None:
            shrunk, outputs = json.loads(order)
            while self._shrunk < shrunk:
                self.shrink()
            self.make([(known[output], None) for output in outputs])

        return self._team.follow(work)

    def save(self, job: Job, made: Made) -> Mapping[str, Any]:
        """Write the expert and its entry in the index, and forget its checkpoints."""
        expert = self._entry(self._styles[job.output], made.figures)
        expert_files.add(job.output.parent, expert, made.tensors, made.header)
        self._place(job).clear()
        return made.figures

    def shrink(self) -> str | None:
        """What costs least first: none of it changes what is learned by more than sums do."""
        self._shrunk += 1
        if not self._is_frugal:
            self._is_frugal = True
            return "computing blocks twice, to keep less"
        if self._at_once > 1:
            self._at_once = (self._at_once + 1) // 2
            return f"{self._at_once} pairs at a time"
        return None

    def _trained(self, jobs: Sequence[Job]) -> list[Made]:
        session, reporter = self._session, self._session.context.reporter
        editor = session.editor
        editor.checkpointing(on=self._is_frugal)
        if self._experts is None:
            self._experts = Experts(editor.model)
        encoded = Encoded(
            editor,
            side=self._settings.data.resolution or editor.native_px,
            is_kept=self._settings.data.cache,
            warn=reporter.warn,
        )
        material = Material(editor, encoded, self._settings)
        courses = [self._course(job, material, self._experts) for job in jobs]
        for course in courses:
            course.resume(force=self._force)
        # What can be refused without it was: it takes long.
        self._encode(material, jobs)
        skipped = [self._too_small(job, material) for job in jobs]
        for course, count in zip(courses, skipped, strict=True):
            course.begin(skipped=count)
        steps = self._settings.train.steps
        with reporter.task("train", steps * len(courses)) as task:
            task.advance(sum(course.trainer.done for course in courses))
            while left := [course for course in courses if not course.is_done]:
                with ExitStack() as stack:
                    for course in left:
                        stack.enter_context(course.kept())
                    min(left, key=lambda course: course.trainer.done).advance()
                task.advance()
        return [
            self._made(job, self._experts, course.finish())
            for job, course in zip(jobs, courses, strict=True)
        ]

    def _encode(self, material: Material, jobs: Sequence[Job]) -> None:
        """Ask the frozen parts once for all, before the first step: some of them are large."""
        encoded = material.encoded
        samples = [
            sample for job in jobs for name in (TRAIN, VAL) for sample in self._samples(job, name)
        ]
        own = self._team.share(samples) if self._settings.data.cache else samples
        encoded.text("")
        with self._session.context.reporter.task("encode", len(own)) as task:
            for sample in own:
                encoded.source(sample)
                grid = material.editor.grid(encoded.target(sample))
                encoded.text(sample.prompt)
                for phrase in encoded.asked(sample):
                    encoded.mask(sample, phrase.edits, grid)
                task.advance()
        material.editor.release("text")

    def _too_small(self, job: Job, material: Material) -> int:
        """Objects of less than a cell, whose attention nobody looks at.

        Raises:
            InputError: They are all, and losses on attention were asked for.
        """
        encoded, editor, loss = material.encoded, material.editor, self._settings.loss
        cells = [
            float(encoded.mask(sample, phrase.edits, editor.grid(encoded.target(sample))).sum())
            for sample in self._samples(job, TRAIN)
            for phrase in encoded.asked(sample)
        ]
        count = sum(one < LEAST_CELLS for one in cells)
        if count == len(cells) and (loss.focus_weight or loss.cover_weight):
            raise InputError(
                f"{self._dataset.folder}: every object in {self._styles[job.output].phrase} is "
                "smaller than a cell of the attention map, so none could be looked at",
                fix="raise route.data.resolution, or route.data.min_area of `style route-data`; or "
                "do without: --set route.loss.focus_weight=0 --set route.loss.cover_weight=0",
            )
        return count

    def _course(self, job: Job, material: Material, experts: Experts) -> Course:
        style, settings, session = self._styles[job.output], self._settings, self._session
        seed = session.recipe.sampling.seed
        self._begin(style.id, material, experts, seed)
        learned, held_out = (self._samples(job, name) for name in (TRAIN, VAL))
        lessons = Draws(learned, material.encoded, settings.train, seed)
        trainer = Trainer(
            style.id, experts, material, lessons, team=self._team, at_once=self._at_once
        )
        examination = pictures = None
        if held_out:
            asked = (style.id, experts, material, held_out, seed)
            examination = Examination(*asked, team=self._team)
            pictures = Pictures(*asked)
        return Course(
            trainer=trainer,
            place=self._place(job),
            write=lambda file: self._write_now(job, experts, file),
            examination=examination,
            pictures=pictures,
            log=log_of(job.output),
            reporter=session.context.reporter,
            team=self._team,
        )

    def _begin(self, style_id: str, material: Material, experts: Experts, seed: int) -> None:
        """The expert as it is before the first step; the same every time."""
        if style_id in experts.ids:
            experts.remove(style_id)  # of an attempt that ended
        lora = self._settings.lora
        experts.new(
            style_id,
            material.editor.layers(deciding.target_set(self._settings)),
            rank=lora.rank,
            alpha=lora.alpha,
            init=lora.init,
            generator=generator(seed, "expert", style_id),
        )

    def _made(self, job: Job, experts: Experts, figures: Mapping[str, Any]) -> Made:
        """The tensors as the file has them; the model keeps no trace of the expert."""
        style_id = self._styles[job.output].id
        tensors, header = self._contents(job, experts, figures)
        experts.remove(style_id)
        return Made(tensors, header, figures)

    def _write_now(self, job: Job, experts: Experts, file: Path) -> None:
        tensors, header = self._contents(job, experts, {})
        store.save_tensors(file, tensors, header)

    def _contents(
        self, job: Job, experts: Experts, figures: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        session, style = self._session, self._styles[job.output]
        dtype: torch.dtype = getattr(torch, self._settings.lora.dtype)
        header = experts.header(style.id)
        context = session.context
        model = Model(session.source.name, session.fingerprint, context.device, context.dtype)
        sections: dict[str, Any] = {
            "route": deciding.decisive(self._settings),
            "sampling": {"seed": session.recipe.sampling.seed},
        }
        if (quantize := session.recipe.backbone.quantize) != "none":
            sections["backbone"] = {"quantize": quantize}
        training = self._facts(style, figures)
        if (made_by := provenance(job, sections, model, training=training)) is not None:
            header[store.KEY] = to_json(made_by)
        return experts.tensors(style.id, dtype), header

    def _entry(self, style: Style, figures: Mapping[str, Any]) -> Expert:
        session, lora = self._session, self._settings.lora
        return Expert(
            id=style.id,
            phrase=style.phrase,
            aliases=style.aliases,
            rank=lora.rank,
            alpha=float(lora.rank if lora.alpha is None else lora.alpha),
            target_set=deciding.target_set(self._settings),
            # Of a local folder no more than its own name, since files will carry it.
            base={"name": Path(session.source.name).name, "fingerprint": session.fingerprint},
            text_length=session.editor.text_length,
            training=self._facts(style, figures),
        )

    def _facts(self, style: Style, figures: Mapping[str, Any]) -> dict[str, Any]:
        settings, editor = self._settings, self._session.editor
        learned = [sample for sample in self._dataset.split(TRAIN) if sample.style_id == style.id]
        return {
            "data": self._dataset.digest,
            "pairs": len(learned),
            "steps": settings.train.steps,
            "lr": settings.train.lr,
            "resolution": settings.data.resolution or editor.native_px,
            "seed": self._session.recipe.sampling.seed,
            "profile": settings.profile or "sound",
            **({"forced": True} if self._force else {}),
            **figures,
        }

    def _samples(self, job: Job, split: str) -> list[Sample]:
        style_id = self._styles[job.output].id
        return [one for one in self._dataset.split(split) if one.style_id == style_id]

    def _place(self, job: Job) -> Place:
        return Place(
            folder_of(job.output),
            deciding.identity(self._session),
            deciding.digest(self._dataset, self._styles[job.output]),
            self._settings.train.keep,
            EXPERT,
        )

    def _first_rows(self) -> int:
        """Pairs that pass the model together, before anybody asks for less."""
        most = self._session.recipe.device.max_rows
        own = self._settings.train.micro_batch
        return own if most is None else min(own, most)
