"""`style invert` and `style train-lora` as data: what will be done, and a way to do it.

Each function checks everything that can be checked without a model and returns a `Prepared`;
nothing is loaded or written until its `run` is iterated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from stylecli.artifacts import store
from stylecli.backbone import lora_layouts, registry
from stylecli.engine import plan, suiting
from stylecli.engine.contents import Inverter, InvertMaker
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Input, Wanted
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.runs.processes import ALONE, Team
from stylecli.engine.session import Session
from stylecli.engine.training.lessons import Lesson, Styles, refuse_wrong_kind, suffix
from stylecli.engine.training.lora_maker import LoraMaker
from stylecli.errors import UsageError
from stylecli.recipe.schema import Lora, Recipe

TRAJECTORY_NAME = "{content}.safetensors"


def invert(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    verify: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content's trajectory.

    Raises:
        InputError: Inputs that do not exist.
        UsageError: Outputs that collide.
        WeightsError: The backbone is not on this machine.
    """
    rows = contents.plain_rows(destination.path)
    wanted = [
        Wanted([Input.of_content(row.content)], row.output, folder=row.folder) for row in rows
    ]
    session = Session.open(recipe, reporter, allow_download=allow_download, kinds=registry.PAINTING)
    suiting.check_steps(session, recipe)
    timesteps = recipe.sampling.timesteps
    planned = plan.build(
        "invert",
        wanted,
        decisive={
            "model": session.fingerprint,
            **session.precision,
            "inversion": recipe.inversion.model_dump(),
            "size": recipe.sampling.size,
            "steps": recipe.sampling.steps,
            **({} if timesteps is None else {"timesteps": timesteps}),
        },
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or TRAJECTORY_NAME,
        is_file=destination.is_file(len(wanted), from_manifest=contents.manifest is not None),
        suffixes=(".safetensors",),
        sheet="verify" if verify else None,
        strip=destination.strip,
    )
    counts = {"inversion": recipe.inversion.steps * (1 + recipe.inversion.refine_iters)}
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows=counts | ({"reconstruction": recipe.sampling.steps} if verify else {}),
        start=lambda: InvertMaker(Inverter(session.backbone, session.context), session),
    )


def train_lora(
    recipe: Recipe,
    styles: Sequence[str],
    destination: Destination,
    reporter: Reporter,
    *,
    manifest: Path | None = None,
    each: bool = False,
    team: Team = ALONE,
    allow_download: bool = False,
) -> Prepared:
    """One LoRA of all the pictures named, one of each, or one for every row of a manifest.

    Raises:
        InputError: Inputs that do not exist.
        UsageError: An output's name does not fit the format, or more processes than rows a step.
        WeightsError: The backbone is not on this machine.
    """
    asked = Styles(styles, manifest, each)
    lessons = asked.lessons(recipe, destination)
    _refuse_idle(lessons, team, destination)
    is_file = not asked.is_many or destination.is_file(
        len(lessons), from_manifest=manifest is not None
    )
    wanted = [lesson.wanted(is_one_of_many=asked.is_many) for lesson in lessons]
    if not asked.is_many:
        _advise_steps(lessons[0], reporter)
    session = Session.open(recipe, reporter, allow_download=allow_download, kinds=registry.PAINTING)
    if session.source.kind in registry.FLOWS:
        lora_layouts.refuse_unnamed("transformer", recipe.lora.format)
    planned = plan.build(
        "train-lora",
        wanted,
        decisive={"model": session.fingerprint, **session.precision},
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or f"{{folder}}/{{style}}{suffix(recipe.lora)}",
        is_file=is_file,
        strip=destination.strip,
    )
    settings = {}
    for job, lesson in zip(planned.jobs, lessons, strict=True):
        refuse_wrong_kind(job, lesson)
        settings[job.key] = lesson.settings
    team.must_agree("inputs or settings", store.digest([job.key for job in planned.jobs]))
    maker = LoraMaker(
        session, settings, team=team, afresh=destination.overwrite, is_many=asked.is_many
    )
    rows = sum(lesson.settings.steps * lesson.settings.batch for lesson in lessons)
    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={"training": math.ceil(rows / len(lessons) / team.size)},
        start=lambda: maker,
    )


def _refuse_idle(lessons: Sequence[Lesson], team: Team, destination: Destination) -> None:
    """See that every process has a row of every step."""
    fewest = min(lesson.settings.batch for lesson in lessons)
    if fewest < team.size:
        raise UsageError(
            f"lora.batch {fewest} leaves some of {team.size} processes without work",
            fix=f"--set lora.batch={team.size}, or --shard auto for a LoRA a process",
        )
    if team.size > 1 and destination.engine != "local":
        raise UsageError(
            f"--engine {destination.engine} starts processes of its own",
            fix="leave out accelerate launch or torchrun, or the option",
        )


def _advise_steps(lesson: Lesson, reporter: Reporter) -> None:
    steps, count = lesson.settings.steps, len(lesson.pictures)
    if count > 1 and steps <= Lora().steps:
        reporter.note(
            f"{steps} steps suit one picture; for {count} consider "
            f"--set lora.steps={min(2000, steps * count)}"
        )
