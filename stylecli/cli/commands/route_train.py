"""`style route-train`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Output, Seeded
from stylecli.cli.console import console
from stylecli.cli.options import SETTINGS, ForceResumeOpt, examples, given_path
from stylecli.cli.unattended import Running

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.engine.runs.processes import Team
    from stylecli.recipe.schema import Recipe

ALL = "all"
DatasetArg = Annotated[
    Path,
    typer.Argument(metavar="DATASET", parser=given_path, help="A folder of `style route-data`."),
]
StylesOpt = Annotated[
    str | None,
    typer.Option(
        "--styles",
        metavar="ID,ID|all",
        help="Which styles of the set get an expert; default: all.",
        rich_help_panel=SETTINGS,
    ),
]
StepsOpt = Annotated[
    int | None,
    typer.Option(
        "--steps", metavar="N", help="Optimiser steps of each expert.", rich_help_panel=SETTINGS
    ),
]
ProfileOpt = Annotated[
    Literal["sound", "paper", "reference"] | None,
    typer.Option(
        "--profile",
        help="Settings beneath those given beside it: ours, the paper's, or its code's.",
        rich_help_panel=SETTINGS,
    ),
]


@examples(
    "style route-train pairs/ -o experts/",
    "style route-train pairs/ -o experts/ --styles pixel_art --recipe flux1-kontext-24gb",
)
def route_train(
    output: Output,
    settings: Seeded,
    running: Running,
    dataset: DatasetArg,
    styles: StylesOpt = None,
    steps: StepsOpt = None,
    profile: ProfileOpt = None,
    force_resume: ForceResumeOpt = False,
) -> None:
    """Learn an expert for each style, which looks where it is told. Run it again to resume.

    Resumed, it ends in the same bytes on a CPU; on CUDA last digits may differ.

    Several processes train together: torchrun --nproc-per-node 8 -m stylecli route-train …
    """
    named = None if styles is None else [part.strip() for part in styles.split(",")]
    chosen = [] if named == [ALL] else named
    resolved = settings.resolved(
        {
            "route.train.styles": chosen,
            "route.train.steps": steps,
            "route.profile": profile,
        }
    )
    submission = running.submission(output)
    from stylecli.engine.route.training.prepare import route_train as prepared_for
    from stylecli.engine.runs import processes

    if doubt := processes.doubt(os.environ):
        console.warn(doubt.replace("train-lora", "route-train"))
    destination = running.destination(output)

    def prepare_for(recipe: Recipe, reporter: Reporter, team: Team = processes.ALONE) -> Prepared:
        return prepared_for(
            recipe,
            dataset,
            destination,
            reporter,
            force_resume=force_resume,
            team=team,
            allow_download=running.allow_download,
        )

    prepare = partial(prepare_for, running.recipe(resolved), console)
    carrying.carry_out_together(prepare, resolved, running, submission)
