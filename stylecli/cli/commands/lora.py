"""`style train-lora`."""

from __future__ import annotations

from typing import Annotated

import typer

from stylecli.cli import options
from stylecli.cli.console import console
from stylecli.cli.options import (
    AllowDownloadOpt,
    BackboneOpt,
    DeviceOpt,
    DryRunOpt,
    DtypeOpt,
    OutputOpt,
    OverwriteOpt,
    RecipeOpt,
    SeedOpt,
    SetOpt,
    WaitOpt,
    examples,
    given,
)

StyleArg = Annotated[
    list[str],
    typer.Argument(
        metavar="STYLE", parser=given, help="Pictures of one style: files, folders or globs."
    ),
]
PromptOpt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Caption of the style; a .txt beside a picture wins.",
        rich_help_panel="Settings",
    ),
]
StepsOpt = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Optimiser steps.", rich_help_panel="Settings"),
]
RankOpt = Annotated[
    int | None,
    typer.Option("--rank", metavar="R", help="LoRA rank.", rich_help_panel="Settings"),
]
FormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="F",
        help="diffusers, kohya, comfy (files) or peft (a folder).",
        rich_help_panel="Output",
    ),
]


@examples(
    "style train-lora painting.jpg -o painting.safetensors",
    "style train-lora sketches/ -o sketch.safetensors --prompt 'a <sss> pencil sketch'",
)
def train_lora(
    style: StyleArg,
    output: OutputOpt,
    prompt: PromptOpt = None,
    steps: StepsOpt = None,
    rank: RankOpt = None,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    seed: SeedOpt = None,
    layout: FormatOpt = None,
    overwrite: OverwriteOpt = False,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Learn a style from one or more pictures. Run it again to resume."""
    resolved = options.settings(
        recipe,
        overrides,
        {
            "lora.prompt": prompt,
            "lora.steps": steps,
            "lora.rank": rank,
            "lora.format": layout,
            "backbone.id": backbone,
            "device.name": device,
            "device.dtype": dtype,
            "sampling.seed": seed,
        },
    )
    from stylecli.engine import commands, request

    prepared = commands.train_lora(
        resolved.recipe,
        style,
        request.Destination(output=output, overwrite=overwrite, wait=wait),
        console,
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)
