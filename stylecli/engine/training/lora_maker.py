"""What `style train-lora` makes of one job: a LoRA, by one process or by several together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import files, store
from stylecli.backbone import lora as lora_files
from stylecli.backbone.model import Backbone
from stylecli.engine.contents import read_content
from stylecli.engine.context import RunContext
from stylecli.engine.plan import UNREADABLE, Job
from stylecli.engine.provenance import provenance
from stylecli.engine.request import Prepared
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training import lora
from stylecli.errors import ItemError, StyleError, UsageError, WeightsError
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
class LoraMaker:
    """Trains the LoRAs of a run, one after another on one model.

    Attributes:
        settings: Of each job, by its key.
        afresh: Forget what interrupted trainings left.
        is_many: What is wrong with one LoRA must not keep the others from being made.
    """

    session: Session
    settings: Mapping[str, Lora]
    team: Team = ALONE
    afresh: bool = False
    is_many: bool = False

    def make(self, job: Job) -> Mapping[str, Any]:
        """Train and write one LoRA; the losses before and after.

        Raises:
            ItemError: A picture or a caption cannot be read, or the loss is no number.
            UsageError: Settings that do not fit the model, or the state of another run is in the
                way; of many LoRAs, an item's failure.
            WeightsError: The model cannot be loaded.
        """
        if self.team.leads:
            if self.afresh:
                state_file(job.output).unlink(missing_ok=True)
            self.team.order(job.key)
        with self.team.same_fate():
            # Not before: the others load theirs at the same time.
            backbone = self.session.backbone
        recipe, context = self.session.recipe, self.session.context
        settings = self.settings[job.key]
        try:
            return train_lora(job, backbone, recipe, context, settings=settings, team=self.team)
        except (UsageError, WeightsError) as error:
            if not self.is_many:
                raise
            raise ItemError(error.what, fix=error.fix) from error


def train_lora(
    job: Job,
    backbone: Backbone,
    recipe: Recipe,
    context: RunContext,
    *,
    settings: Lora,
    team: Team = ALONE,
) -> dict[str, Any]:
    """Fit a LoRA to all inputs of a job and write it; an interrupted fit goes on where it was.

    Of several processes that do this together, the one that leads writes; the others return none of
    the figures.
    """
    output = job.output
    with team.same_fate():
        for item in job.inputs:
            if item.sha256 == UNREADABLE:
                read_content(item)
        pictures = lora.style_pictures([item.path for item in job.inputs], settings.prompt)
        fitted = lora.fit(
            backbone,
            pictures,
            settings,
            seed=recipe.sampling.seed,
            state_file=state_file(output),
            reporter=context.reporter,
            team=team,
        )
    if not team.leads:
        return {}
    figures = {
        "loss_before": round(fitted.loss_before, 6),
        "loss_after": round(fitted.loss_after, 6),
        "standard_error": round(fitted.standard_error, 6),
    }
    sections = {"lora": settings.model_dump(), "sampling": {"seed": recipe.sampling.seed}}
    captions = [picture.caption for picture in pictures]
    made_by = provenance(job, sections, backbone, captions=captions, training=figures)
    if made_by is None:
        header = {key: value for key, value in fitted.header.items() if key in OF_LOADING}
    else:
        header = {**fitted.header, store.KEY: files.to_json(made_by)}
    state = state_file(output)
    if settings.format == "peft":
        output.mkdir(parents=True, exist_ok=True)
        config = json.dumps(dict(fitted.peft_config), indent=2, sort_keys=True).encode()
        files.write_atomic(output / lora_files.PEFT_CONFIG, config)
        output = output / lora_files.PEFT_WEIGHTS
    store.save_tensors(output, fitted.tensors, header)
    state.unlink(missing_ok=True)
    return figures


def follow(prepare: Callable[..., Prepared], team: Team) -> int:
    """Help the process that leads with all its LoRAs.

    Args:
        prepare: What that process prepared too; takes the team.
        team: Whom to follow.

    Returns:
        The exit status to end with. What went wrong is for the one that leads to say.
    """
    try:
        with team.same_fate():
            prepared = prepare(team=team)
        maker = prepared.start()
        jobs = {job.key: job for job in prepared.plan.jobs}
        return team.follow(lambda key: maker.make([(jobs[key], None)]))
    except StyleError as error:
        return error.exit_status


def state_file(output: Path) -> Path:
    """Where an interrupted training of this LoRA left what it needs to go on."""
    return output.with_name(f".{output.name}.state.safetensors")
