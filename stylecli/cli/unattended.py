"""Options for work that nobody watches: in parts, on a cluster, and with programs that listen.

Their panel is for ``--help-all``: with it a help page would not fit one screen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylecli.cli import notify
from stylecli.cli.bundles import Output, Outputs
from stylecli.cli.console import console
from stylecli.cli.options import RARE, AllowDownloadOpt, DryRunOpt, WaitOpt, given, given_path
from stylecli.engine.runs import shards
from stylecli.errors import UsageError

if TYPE_CHECKING:
    from stylecli.engine.request import Destination
    from stylecli.recipe.load import Resolved
    from stylecli.recipe.schema import Recipe


def _events_file(text: str) -> Path:
    if text == "-":
        raise typer.BadParameter("standard output is for --json; name a file")
    return given_path(text)


def _program(text: str) -> str:
    try:
        notify.words(text)
    except ValueError as error:
        said = str(error)
        raise typer.BadParameter(said[:1].lower() + said[1:]) from error
    return text


ShardOpt = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N|auto",
        help="Do part I of N; auto: as the job array says.",
        rich_help_panel=RARE,
    ),
]
LimitOpt = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="Make at most N items, and leave the rest.",
        rich_help_panel=RARE,
    ),
]
RetryFailedOpt = Annotated[
    bool,
    typer.Option("--retry-failed", help="Only items that failed last time.", rich_help_panel=RARE),
]
MaxFailuresOpt = Annotated[
    int | None,
    typer.Option(
        "--max-failures",
        metavar="N",
        min=1,
        help="End the run once N items were tried in vain.",
        rich_help_panel=RARE,
    ),
]
EngineOpt = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="ray: on all GPUs of a cluster.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
SubmitOpt = Annotated[
    Literal["slurm"] | None,
    typer.Option(
        "--submit",
        metavar="slurm",
        help="Hand the work to a scheduler; --dry-run shows the batch file.",
        rich_help_panel=RARE,
    ),
]
TasksOpt = Annotated[
    int | None,
    typer.Option(
        "--tasks",
        metavar="N",
        min=1,
        help="With --submit: into how many parts; default: 1.",
        rich_help_panel=RARE,
    ),
]
SbatchOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--sbatch",
        metavar="OPTION",
        parser=given,
        help="With --submit: for its #SBATCH lines: --gres=gpu:1; repeatable.",
        rich_help_panel=RARE,
    ),
]
LogJsonOpt = Annotated[
    Path | None,
    typer.Option(
        "--log-json",
        metavar="FILE",
        parser=_events_file,
        help="Append what happens, as JSON lines; skipped items have none.",
        rich_help_panel=RARE,
    ),
]
PrometheusOpt = Annotated[
    Path | None,
    typer.Option(
        "--prometheus",
        metavar="FILE.prom",
        parser=given_path,
        help="Figures for node_exporter; every job needs a file of its own.",
        rich_help_panel=RARE,
    ),
]
NotifyOpt = Annotated[
    str | None,
    typer.Option(
        "--notify",
        metavar="CMD",
        parser=_program,
        help="Run CMD after a failure; it reads the summary.",
        rich_help_panel=RARE,
    ),
]
# For the programs that listen; `stylecli.cli.app` adds these to every command of the panel.
LISTENERS = {"log_json": LogJsonOpt, "prometheus": PrometheusOpt, "notify": NotifyOpt}


@dataclass(frozen=True, kw_only=True)
class Running:
    """How the work is carried out, here or by a cluster."""

    dry_run: DryRunOpt = False
    allow_download: AllowDownloadOpt = False
    shard: ShardOpt = None
    limit: LimitOpt = None
    retry_failed: RetryFailedOpt = False
    max_failures: MaxFailuresOpt = None
    wait: WaitOpt = False
    engine: EngineOpt = "local"
    submit: SubmitOpt = None
    tasks: TasksOpt = None
    sbatch: SbatchOpt = None

    def destination(self, output: Output) -> Destination:
        """Where results go and how to treat what is there, for the engine."""
        from stylecli.engine import request

        return request.Destination(
            output=output.output,
            name=output.name if isinstance(output, Outputs) else None,
            overwrite=output.overwrite,
            strip=output.strip,
            shard=self.shard,
            limit=self.limit,
            retry_failed=self.retry_failed,
            max_failures=self.max_failures,
            wait=self.wait,
            engine=self.engine,
        )

    def submission(self, output: Output) -> Submission | None:
        """What a scheduler is to be handed, which then calls us again for each part.

        Raises:
            UsageError: Options that exclude each other, or what no task could do.
        """
        if self.submit is None:
            if self.tasks is not None or self.sbatch:
                raise UsageError("--tasks and --sbatch go with --submit", fix="add --submit slurm")
            return None
        if self.shard is not None:
            raise UsageError(
                "--submit gives each task its own --shard", fix="leave --shard out, use --tasks N"
            )
        from stylecli.engine.runs import slurm

        target = Path(output.output).expanduser()
        is_file = bool(target.suffix) and not output.output.endswith("/") and not target.is_dir()
        folder = target.parent if is_file else target
        tasks = self.tasks or 1
        text = slurm.script(
            console.typed,
            tasks=tasks,
            options=self.sbatch or (),
            name=f"style-{folder.resolve().name}",
            folder=folder,
        )
        return Submission(text, folder, tasks)

    def recipe(self, resolved: Resolved) -> Recipe:
        """What to plan with: who submits work may sit at a machine without the GPU it is for."""
        recipe = resolved.recipe
        if self.submit is None:
            return recipe
        here = recipe.device.model_copy(update={"name": "cpu", "dtype": "auto"})
        return recipe.model_copy(update={"device": here})


@dataclass(frozen=True, slots=True)
class Submission:
    """A job array, ready to be handed to Slurm.

    Attributes:
        text: The batch file.
        folder: Of the outputs.
        tasks: How many share the work.
    """

    text: str
    folder: Path
    tasks: int

    def hand_on(self, *, dry_run: bool) -> None:
        """Submit it and say which job it is; or only show it.

        Raises:
            UsageError: No scheduler on this machine, or it refuses.
        """
        from stylecli.engine.runs import slurm

        if dry_run:
            console.result({"sbatch": self.text}, text=self.text.rstrip("\n"))
            return
        job = slurm.submit(self.text, self.folder)
        console.note(f"submitted as job {job}; submitted again it does only what is missing")
        console.result({"job": job, "tasks": self.tasks}, text=job)


def part(shard: str | None) -> tuple[int, int] | None:
    """``--shard`` as numbers, where it was given and is right."""
    try:
        return None if shard is None else shards.parse(shard, os.environ)
    except UsageError:
        return None
