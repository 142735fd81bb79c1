"""`style route-train` as data: who will learn from what, checked before anything is loaded."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from stylecli.artifacts import store
from stylecli.backbone import registry
from stylecli.engine import plan
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Input, Plan, Wanted
from stylecli.engine.request import Destination, Prepared
from stylecli.engine.route import experts as expert_files
from stylecli.engine.route.data import items
from stylecli.engine.route.data.items import TRAIN, VAL, Dataset
from stylecli.engine.route.training import settings as deciding
from stylecli.engine.route.training.maker import ExpertMaker
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training import refusals
from stylecli.errors import InputError, UsageError, WeightsError, did_you_mean
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.route import Route, Train
from stylecli.recipe.schema import Recipe


def route_train(
    recipe: Recipe,
    dataset: Path,
    destination: Destination,
    reporter: Reporter,
    *,
    force_resume: bool = False,
    team: Team = ALONE,
    allow_download: bool = False,
) -> Prepared:
    """Experts from a set of pairs, one for each style.

    Args:
        dataset: What `style route-data` made.
        force_resume: Go on from checkpoints of other settings or data.

    Raises:
        InputError: No such set, or no pair to learn from.
        UsageError: A style that the set does not have, one that goes by another's name in the
            folder of experts, the output is a file, or more processes than micro-batches.
        RecipeError: Settings that do not fit the model.
        WeightsError: The backbone is not on this machine, the index of experts is damaged, or it
            does not name an expert that is done.
    """
    _refuse_file(destination)
    settings = recipe.route
    _refuse_idle(settings.train, team)
    refusals.refuse_engine(destination, "experts")
    data = items.read(dataset)
    styles = _chosen(data, settings.train.styles)
    expert_files.refuse_namesakes(destination.path, styles)
    session = Session.open(recipe, reporter, allow_download=allow_download, kinds=registry.EDITING)
    refusals.refuse_float16(session, "experts")
    _refuse_unfit(settings, session)
    planned = plan.build(
        "route-train",
        [
            Wanted(
                [Input("dataset", dataset / items.NAME, deciding.digest(data, style))],
                output=destination.path / f"{style.id}{expert_files.SUFFIX}",
                settings=style.id,
            )
            for style in styles
        ],
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "route": deciding.decisive(settings),
            # What comes of another beginning is not what these settings alone would give.
            **({"forced": True} if force_resume else {}),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name="",
        is_file=False,
        strip=destination.strip,
    )
    team.must_agree("inputs or settings", store.digest([job.key for job in planned.jobs]))
    by_file = {job.output: style for job, style in zip(planned.jobs, styles, strict=True)}
    mine = plan.shard(planned, destination.part)
    _refuse_unindexed(mine, destination)
    maker = ExpertMaker(
        session,
        data,
        {job.output: by_file[job.output] for job in mine.jobs},
        afresh=destination.overwrite,
        force=force_resume,
        team=team,
    )
    return Prepared(
        plan=mine,
        session=session,
        destination=destination,
        rows={},
        start=lambda: maker,
        notes=_notes(data, styles, settings),
    )


def _chosen(data: Dataset, asked: Sequence[str]) -> tuple[Style, ...]:
    """The styles to learn, in the order of the set."""
    known = {style.id: style for style in data.styles}
    for style_id in asked:
        if style_id not in known:
            raise UsageError(
                f"the set has no style {style_id}",
                fix=f"{did_you_mean(style_id, known)}it has {', '.join(known)}",
            )
    chosen = tuple(style for style in data.styles if not asked or style.id in asked)
    learned = {sample.style_id for sample in data.split(TRAIN)}
    for style in chosen:
        if style.id not in learned:
            raise InputError(
                f"{data.folder}: no pair to learn {style.id} from",
                fix="run `style route-data` again, or leave the style out: --styles "
                + ",".join(one.id for one in chosen if one.id in learned),
            )
    return chosen


def _notes(data: Dataset, styles: Sequence[Style], settings: Route) -> list[str]:
    ids = {style.id for style in styles}
    learned, held_out = (
        [sample for sample in data.split(name) if sample.style_id in ids] for name in (TRAIN, VAL)
    )
    rows = settings.train.micro_batch * settings.train.accumulation
    epochs = settings.train.steps * rows * len(styles) / len(learned)
    notes = [
        f"{len(learned)} pairs of {', '.join(style.id for style in styles)}, "
        f"{len(held_out)} held out",
        f"{settings.train.steps} steps of {rows} pairs for each expert: {epochs:.3g} times "
        "through its pairs",
    ]
    if not settings.loss.focus_weight and not settings.loss.cover_weight:
        notes.append("nothing is learned about where to look: both losses on attention are off")
    without = [
        style.id for style in styles if all(sample.style_id != style.id for sample in held_out)
    ]
    if without:
        notes.append(f"nothing is held out of {', '.join(without)}: nothing will tell if it learns")
    return notes


def _refuse_file(destination: Destination) -> None:
    is_folder = destination.output.endswith(("/", os.sep)) or destination.path.is_dir()
    if destination.path.suffix and not is_folder:
        raise UsageError(
            f"--output {destination.output} is a file, and experts are a folder with an index",
            fix="name a folder: -o experts/",
        )


def _refuse_unindexed(mine: Plan, destination: Destination) -> None:
    """See that experts that are done can be used: those that the index does not mean cannot."""
    _, settled = pending(mine.jobs, Known.of(mine.folder), overwrite=destination.overwrite)
    for job in (result.job for result in settled if result.status == "skipped"):
        if not expert_files.is_indexed(job.output):
            raise WeightsError(
                f"{job.output} is done, and {expert_files.INDEX} beside it does not mean this file",
                fix=f"put its {expert_files.INDEX} back, or train it again: "
                f"rm {shlex.quote(str(job.output))}",
            )


def _refuse_idle(train: Train, team: Team) -> None:
    """See that every process has a micro-batch of every step."""
    if train.accumulation < team.size:
        raise UsageError(
            f"route.train.accumulation {train.accumulation} leaves some of {team.size} processes "
            "without work",
            fix=f"--set route.train.accumulation={team.size}",
        )


def _refuse_unfit(settings: Route, session: Session) -> None:
    if session.source.kind == "edit-unet":
        return
    for name in ("p_drop_picture", "p_drop_both"):
        if getattr(settings.train, name):
            raise UsageError(
                f"route.train.{name} is for UNets, and {session.source.name} always sees a picture",
                fix=f"leave route.train.{name} out",
            )
