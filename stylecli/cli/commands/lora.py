"""`style train-lora`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Outputs, Seeded
from stylecli.cli.console import console
from stylecli.cli.options import OUTPUT, SETTINGS, BatchOpt, FitOpt, examples, given, given_path
from stylecli.cli.unattended import Running

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.engine.runs.processes import Team
    from stylecli.recipe.schema import Recipe

StyleArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STYLE", parser=given, help="Pictures of one style: files, folders or globs."
    ),
]
EachOpt = Annotated[
    bool, typer.Option("--each", help="One LoRA of every picture; -o is a folder then.")
]
ManifestOpt = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        parser=given_path,
        help="One LoRA a row of style, output, prompt, lora.*; .jsonl or .csv.",
    ),
]
PromptOpt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Caption of the style; a .txt beside a picture wins.",
        rich_help_panel=SETTINGS,
    ),
]
StepsOpt = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Optimiser steps.", rich_help_panel=SETTINGS),
]
RankOpt = Annotated[
    int | None,
    typer.Option("--rank", metavar="R", help="LoRA rank.", rich_help_panel=SETTINGS),
]
FormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="F",
        help="diffusers, kohya, comfy (files) or peft (a folder).",
        rich_help_panel=OUTPUT,
    ),
]


@examples(
    "style train-lora painting.jpg -o painting.safetensors",
    "style train-lora paintings/ --each --batch 4 -o loras/",
)
def train_lora(
    output: Outputs,
    settings: Seeded,
    running: Running,
    style: StyleArg = None,
    each: EachOpt = False,
    manifest: ManifestOpt = None,
    prompt: PromptOpt = None,
    steps: StepsOpt = None,
    rank: RankOpt = None,
    layout: FormatOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
) -> None:
    """Learn a style from one or more pictures. Run it again to resume.

    Several processes train together: torchrun --nproc-per-node 2 -m stylecli train-lora …
    """
    resolved = settings.resolved(
        {
            "lora.prompt": prompt,
            "lora.steps": steps,
            "lora.rank": rank,
            "lora.format": layout,
            "device.batch": batch,
        }
    )
    submission = running.submission(output)
    from stylecli.engine import commands
    from stylecli.engine.runs import processes

    if doubt := processes.doubt(os.environ):
        console.warn(doubt)
    destination = running.destination(output)

    def prepared_for(recipe: Recipe, reporter: Reporter, team: Team = processes.ALONE) -> Prepared:
        return commands.train_lora(
            recipe,
            style or [],
            destination,
            reporter,
            manifest=manifest,
            each=each,
            team=team,
            allow_download=running.allow_download,
        )

    resolved = carrying.fitted(resolved, fit, running, prepared_for)
    prepare = partial(prepared_for, running.recipe(resolved), console)
    carrying.carry_out_together(prepare, resolved, running, submission)
