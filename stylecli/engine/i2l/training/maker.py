"""What `style i2l-train` makes of its job: a predictor, by one process or by several together."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stylecli.artifacts import cache, store
from stylecli.artifacts.files import to_json
from stylecli.engine.i2l.data.items import TRAIN, Dataset
from stylecli.engine.i2l.data.tuples import Tuples
from stylecli.engine.i2l.training import pupil
from stylecli.engine.i2l.training.caches import Encoded
from stylecli.engine.i2l.training.course import Course
from stylecli.engine.i2l.training.draws import Draws
from stylecli.engine.i2l.training.pupil import Loaded
from stylecli.engine.i2l.training.steps import Material, Trainer
from stylecli.engine.i2l.training.validation import Examination, can_compare
from stylecli.engine.plan import Job
from stylecli.engine.provenance import Model, provenance
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training.state import Place, folder_of, log_of
from stylecli.errors import InputError
from stylecli.methods.i2l import files as predictors
from stylecli.methods.i2l.predictor import Predictor
from stylecli.recipe.i2l import I2L

# What of a checkpoint can be used.
PREDICTOR = "predictor.safetensors"


@dataclass(frozen=True, slots=True)
class Start:
    """How a training begins.

    Attributes:
        init: The predictor to begin as; None is a new one.
        afresh: Forget what an interrupted training left.
        force: Go on from what one with other settings or data left.
    """

    init: Path | None = None
    afresh: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A predictor that has learned, and the figures of its last examination."""

    predictor: Predictor
    figures: Mapping[str, Any]


class PredictorMaker:
    """Trains the predictor of a run; told to take less memory, it goes on from where it was."""

    batch = 1

    def __init__(
        self,
        session: Session,
        dataset: Dataset,
        start: Start,
        *,
        team: Team = ALONE,
        allow_download: bool = False,
    ) -> None:
        """Take the job on; nothing is loaded yet."""
        self._session, self._dataset, self._start = session, dataset, start
        self._settings = session.recipe.i2l
        self._team = team
        self._allow_download = allow_download
        self._is_stale = start.afresh
        self._loaded: Loaded | None = None
        self._is_frugal = self._settings.predictor.checkpointing
        # How often less memory was asked for.
        self._shrunk = 0
        self._at_once = self._first_rows()

    def load(self, job: Job) -> None:
        """Nothing: pictures are read as they are drawn."""

    def bucket(self, job: Job, loaded: None) -> Hashable:
        return job.output

    def make(self, group: Sequence[tuple[Job, None]]) -> list[Made]:
        """Train; the team is told of it first.

        Raises:
            ItemError: A picture cannot be read, or the loss is no number.
            UsageError: Settings that do not fit the model, or the state of another run is in the
                way.
            WeightsError: The model or the encoder cannot be loaded.
        """
        ((job, _),) = group
        place = self._place(job.output)
        if self._team.leads:
            if self._is_stale:
                place.clear()
                self._is_stale = False  # what is tried again goes on
            self._team.order(json.dumps([self._shrunk, str(job.output)]))
        with self._team.same_fate():
            if self._loaded is None:
                cache.ensure_writable()
                self._loaded = pupil.load(
                    self._session, self._start.init, allow_download=self._allow_download
                )
            return [self._trained(job, place, self._loaded)]

    def follow(self, jobs: Sequence[Job]) -> int:
        """Do one's share; the exit status to end with."""
        known = {str(job.output): job for job in jobs}

        def work(order: str) -> None:
            shrunk, output = json.loads(order)
            while self._shrunk < shrunk:
                self.shrink()
            self.make([(known[output], None)])

        return self._team.follow(work)

    def save(self, job: Job, made: Made) -> Mapping[str, Any]:
        """Write the predictor, and forget its checkpoints."""
        self._write(job, made.predictor, job.output, made.figures)
        self._place(job.output).clear()
        return made.figures

    def shrink(self) -> str | None:
        """What costs least first: none of it changes what is learned by more than sums do."""
        self._shrunk += 1
        if not self._is_frugal:
            self._is_frugal = True
            return "computing blocks twice, to keep less"
        if self._at_once > 1:
            self._at_once = (self._at_once + 1) // 2
            return f"{self._at_once} styles at a time"
        return None

    def _trained(self, job: Job, place: Place, loaded: Loaded) -> Made:
        settings, seed = self._settings, self._session.recipe.sampling.seed
        denoiser, train = loaded.denoiser, settings.train
        denoiser.checkpointing(on=self._is_frugal)
        encoded = Encoded(
            denoiser,
            loaded.encoder,
            model=self._session.fingerprint,
            px=settings.data.resolution or denoiser.native_px,
            kept=settings.data.cache,
            warn=self._session.context.reporter.warn,
        )
        tuples = Tuples(
            self._dataset.split(TRAIN), settings.data, seed, targets=train.targets_per_style
        )
        material = Material(denoiser, encoded, Draws(tuples, train, seed), train.time_shift)
        predictor = loaded.predictor(seed)
        predictor.is_frugal = self._is_frugal
        trainer = Trainer(predictor, material, train, team=self._team, at_once=self._at_once)
        course = Course(
            trainer=trainer,
            place=place,
            write=lambda file: self._write_now(job, trainer, file),
            examination=self._examination(material, seed),
            settings=settings.validation,
            log=log_of(job.output),
            reporter=self._session.context.reporter,
            skipped={**self._dataset.skipped, "alone in its style": tuples.skipped},
            seed=seed,
            team=self._team,
        )
        figures = course.run(force=self._start.force)
        with trainer.averaged():
            values = {k: v.detach().cpu().clone() for k, v in predictor.state_dict().items()}
        learned = Predictor(predictor.shape, predictor.layers)
        learned.load_state_dict(values)
        return Made(learned, figures)

    def _examination(self, material: Material, seed: int) -> Examination | None:
        settings = self._settings
        if (tuples := held_out(self._dataset, settings, seed)) is None:
            return None
        return Examination(
            material,
            tuples,
            settings.validation,
            seed,
            team=self._team,
            rows=self._at_once * settings.train.targets_per_style,
        )

    def _write_now(self, job: Job, trainer: Trainer, file: Path) -> None:
        with trainer.averaged() as predictor:
            self._write(job, predictor, file, {"steps": trainer.done})

    def _write(
        self, job: Job, predictor: Predictor, file: Path, figures: Mapping[str, Any]
    ) -> None:
        loaded, session = self._loaded, self._session
        assert loaded is not None  # noqa: S101 - what is written was made with it
        training = {
            "data": self._dataset.digest,
            "pictures": len(self._dataset.split(TRAIN)),
            "styles": len(self._dataset.split(TRAIN).styles),
            "steps": self._settings.train.steps,
            "max_references": self._settings.data.n_refs.max,
            **({"forced": True} if self._start.force else {}),
            **figures,
        }
        config = replace(loaded.config, training=training)
        tensors, header = predictors.contents(predictor, config)
        context = session.context
        model = Model(session.source.name, session.fingerprint, context.device, context.dtype)
        sections = {
            "i2l": pupil.decisive(self._settings),
            "sampling": {"seed": session.recipe.sampling.seed},
        }
        if (made_by := provenance(job, sections, model, training=training)) is not None:
            header[store.KEY] = to_json(made_by)
        store.save_tensors(file, tensors, header)

    def _place(self, output: Path) -> Place:
        return Place(
            folder_of(output),
            pupil.identity(self._settings, self._session, self._start.init),
            self._dataset.digest,
            self._settings.train.keep,
            PREDICTOR,
        )

    def _first_rows(self) -> int:
        """Styles that pass the model together, before anybody asks for less."""
        train, most = self._settings.train, self._session.recipe.device.max_rows
        own = -(-train.global_batch // self._team.size)
        return own if most is None else max(1, min(own, most // train.targets_per_style))


def held_out(dataset: Dataset, settings: I2L, seed: int) -> Tuples | None:
    """Tuples of what no training sees; None where that is too little to compare styles."""
    try:
        tuples = Tuples(dataset.held_out(), settings.data, seed)
    except InputError:  # no style of it has a target and a reference
        return None
    return tuples if can_compare(tuples, settings.validation.tuples) else None
