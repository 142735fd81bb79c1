"""`style i2l-train`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

DatasetArg = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", parser=given_path, help="A folder of `style i2l-data`, or items.jsonl."
    ),
]
InitOpt = Annotated[
    Path | None,
    typer.Option(
        "--init",
        metavar="PREDICTOR",
        parser=given_path,
        help="Begin as this predictor, with a fresh optimiser.",
        rich_help_panel=SETTINGS,
    ),
]
StepsOpt = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Optimiser steps.", rich_help_panel=SETTINGS),
]


@examples(
    "style i2l-train icons/ -o icons.safetensors --backbone pocket",
    "style i2l-train megastyle/ -o predictor.safetensors --backbone z-image --device cuda",
)
def i2l_train(
    output: Output,
    settings: Seeded,
    running: Running,
    dataset: DatasetArg,
    init: InitOpt = None,
    steps: StepsOpt = None,
    force_resume: ForceResumeOpt = False,
) -> None:
    """Learn to predict LoRAs from pictures sorted by style. Run it again to resume.

    Resumed, it ends in the same bytes on a CPU; on CUDA last digits may differ.

    Several processes train together: torchrun --nproc-per-node 8 -m stylecli i2l-train …
    """
    resolved = settings.resolved({"i2l.train.steps": steps})
    submission = running.submission(output)
    from stylecli.engine.i2l.training.prepare import i2l_train as prepared_for
    from stylecli.engine.runs import processes

    if doubt := processes.doubt(os.environ):
        console.warn(doubt.replace("train-lora", "i2l-train"))
    destination = running.destination(output)

    def prepare_for(recipe: Recipe, reporter: Reporter, team: Team = processes.ALONE) -> Prepared:
        return prepared_for(
            recipe,
            dataset,
            destination,
            reporter,
            init=init,
            force_resume=force_resume,
            team=team,
            allow_download=running.allow_download,
        )

    prepare = partial(prepare_for, running.recipe(resolved), console)
    carrying.carry_out_together(prepare, resolved, running, submission)
