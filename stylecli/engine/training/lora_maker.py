"""What `style train-lora` makes of its jobs: LoRAs, by one process or by several together."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import files, store
from stylecli.backbone import lora as lora_files
from stylecli.backbone.model import Backbone
from stylecli.engine.contents import read_content
from stylecli.engine.context import RunContext
from stylecli.engine.lora_files import saving
from stylecli.engine.plan import Job
from stylecli.engine.provenance import provenance
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training import lora
from stylecli.engine.training.encoded import Encoded, latent_sides
from stylecli.engine.training.lora import StylePicture
from stylecli.errors import ItemError, UsageError, WeightsError
from stylecli.recipe.schema import Lora, Recipe

# What a LoRA's header keeps where it is not to say what made it: what those read who load it.
OF_LOADING = {
    "format",
    "lora_adapter_metadata",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_base_model_version",
    "ss_v2",
    "modelspec.architecture",
    "modelspec.trigger_phrase",
    lora_files.COLOURS,
}


@dataclass(frozen=True, slots=True)
class Made:
    """A LoRA, ready to be written.

    Attributes:
        together: How many rows passed the model at a time.
    """

    fitted: lora.Fitted
    captions: Sequence[str]
    together: int = 1


class LoraMaker:
    """Trains the LoRAs of a run on one model, as many side by side as a batch holds."""

    def __init__(
        self,
        session: Session,
        settings: Mapping[str, Lora],
        *,
        team: Team = ALONE,
        afresh: bool = False,
        is_many: bool = False,
    ) -> None:
        """Take the jobs on.

        Args:
            settings: Of each job, by its key.
            afresh: Forget what interrupted trainings left.
            is_many: What is wrong with one LoRA must not keep the others from being made.
        """
        self.batch = session.recipe.device.batch
        self._session = session
        self._settings = settings
        self._team = team
        self._stale = set(settings) if afresh else set()
        self._is_many = is_many
        self._encoded: Encoded | None = None
        # How often less memory was asked for.
        self._shrunk = 0

    def load(self, job: Job) -> list[StylePicture]:
        """The pictures and captions of a job; that they can be decoded is all that is kept of it.

        Raises:
            ItemError: One cannot be read.
            UsageError: The caption of the only LoRA cannot be read.
        """
        for item in job.inputs:
            read_content(item)
        prompt = self._settings[job.key].prompt
        with self._an_items_failure():
            return lora.style_pictures([item.path for item in job.inputs], prompt)

    def bucket(self, job: Job, loaded: Sequence[StylePicture]) -> Hashable:
        """LoRAs of one bucket have the same settings, but for their captions, and sizes of rows."""
        if self.batch == 1:
            return job.key
        settings = self._settings[job.key]
        sizes = {latent_sides(picture.path, settings, self._session.backbone) for picture in loaded}
        return settings.model_copy(update={"prompt": ""}), frozenset(sizes)

    def make(self, group: Sequence[tuple[Job, Sequence[StylePicture]]]) -> list[Made]:
        """Train the LoRAs of a group; the team is told of it first.

        Raises:
            ItemError: A picture cannot be read, or a loss is no number.
            UsageError: Settings that do not fit the model, or the state of another run is in the
                way; of many LoRAs, an item's failure.
            WeightsError: The model cannot be loaded.
        """
        jobs = [job for job, _ in group]
        if self._team.leads:
            for job in jobs:
                if job.key in self._stale:
                    state_file(job.output).unlink(missing_ok=True)
                    self._stale.remove(job.key)  # what is tried again goes on
            keys = [job.key for job in jobs]
            self._team.order(json.dumps([self.batch, self._shrunk, keys]))
        with self._team.same_fate():
            # Not before: the others load theirs at the same time.
            backbone = self._session.backbone
        with self._an_items_failure(), self._team.same_fate():
            return self._fitted(backbone, jobs, [pictures for _, pictures in group])

    def follow(self, jobs: Sequence[Job]) -> int:
        """Do one's share of all that is made; the exit status to end with."""
        known = {job.key: job for job in jobs}

        def work(order: str) -> None:
            self.batch, shrunk, keys = json.loads(order)
            while self._shrunk < shrunk:
                self.shrink()
            self.make([(known[key], ()) for key in keys])

        return self._team.follow(work)

    def save(self, job: Job, made: Made) -> Mapping[str, Any]:
        """Write one LoRA, and forget its state; the losses before and after."""
        settings, seed = self._settings[job.key], self._session.recipe.sampling.seed
        return _write(job, made, settings, seed, self._session.backbone)

    def shrink(self) -> str | None:
        """What is cheapest first: neither changes a bit of what is learned."""
        self._shrunk += 1
        frugal = {"gradient_checkpointing": True}
        if not all(one.gradient_checkpointing for one in self._settings.values()):
            settings = self._settings.items()
            self._settings = {key: one.model_copy(update=frugal) for key, one in settings}
            return "with gradient checkpointing"
        return self._session.step_down(among=("parts",))

    def _fitted(
        self, backbone: Backbone, jobs: Sequence[Job], pictures: Sequence[Sequence[StylePicture]]
    ) -> list[Made]:
        if self._encoded is None:
            self._encoded = Encoded(backbone)
        courses = [
            lora.Course(own or self.load(job), state_file(job.output))
            for job, own in zip(jobs, pictures, strict=True)
        ]
        fitted = lora.fit_together(
            backbone,
            courses,
            self._settings[jobs[0].key],
            seed=self._session.recipe.sampling.seed,
            reporter=self._session.context.reporter,
            rows=self.batch,
            encoded=self._encoded,
            team=self._team,
        )
        return [
            Made(one, [picture.caption for picture in course.pictures], self.batch)
            for one, course in zip(fitted, courses, strict=True)
        ]

    @contextmanager
    def _an_items_failure(self) -> Iterator[None]:
        """Of many LoRAs, what would end the run of one ends the item."""
        try:
            yield
        except (UsageError, WeightsError) as error:
            if not self._is_many:
                raise
            raise ItemError(error.what, fix=error.fix) from error


def train_lora(
    job: Job, backbone: Backbone, recipe: Recipe, context: RunContext, *, settings: Lora
) -> dict[str, Any]:
    """Fit a LoRA to all inputs of a job and write it; an interrupted fit goes on where it was.

    Raises:
        ItemError: A picture cannot be read, or the loss is no number.
        UsageError: The state of another run is in the way.
    """
    pictures = lora.style_pictures([item.path for item in job.inputs], settings.prompt)
    seed = recipe.sampling.seed
    fitted = lora.fit(
        backbone,
        pictures,
        settings,
        seed=seed,
        state_file=state_file(job.output),
        reporter=context.reporter,
    )
    made = Made(fitted, [picture.caption for picture in pictures])
    return _write(job, made, settings, seed, backbone)


def _write(job: Job, made: Made, settings: Lora, seed: int, backbone: Backbone) -> dict[str, Any]:
    output, fitted = job.output, made.fitted
    figures = {
        "loss_before": round(fitted.loss_before, 6),
        "loss_after": round(fitted.loss_after, 6),
        "standard_error": round(fitted.standard_error, 6),
    }
    sections: dict[str, Any] = {"lora": settings.model_dump(), "sampling": {"seed": seed}}
    if backbone.quantize != "none":
        sections["backbone"] = {"quantize": backbone.quantize}
    if made.together > 1:
        sections["device"] = {"batch": made.together}
    made_by = provenance(job, sections, backbone, captions=made.captions, training=figures)
    if made_by is None:
        header = {key: value for key, value in fitted.header.items() if key in OF_LOADING}
    else:
        header = {**fitted.header, store.KEY: files.to_json(made_by)}
    config = fitted.peft_config if settings.format == "peft" else None
    saving.save_tensors(output, fitted.tensors, header, config)
    state_file(output).unlink(missing_ok=True)
    return figures


def state_file(output: Path) -> Path:
    """Where an interrupted training of this LoRA left what it needs to go on."""
    return output.with_name(f".{output.name}.state.safetensors")
