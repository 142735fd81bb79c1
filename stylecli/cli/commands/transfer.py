"""`style transfer` and `style invert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Inputs, Outputs, Seeded, Settings
from stylecli.cli.console import console
from stylecli.cli.options import (
    OUTPUT,
    SETTINGS,
    BatchOpt,
    GuidanceOpt,
    PromptOpt,
    examples,
    given,
    given_path,
)
from stylecli.cli.unattended import Running

StyleOpt = Annotated[
    list[str] | None,
    typer.Option("--style", "-s", metavar="IMG", parser=given, help="A style picture; repeatable."),
]
LoraOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--lora",
        "-l",
        metavar="LORA",
        parser=given_path,
        help="A style learnt before; with --style, one more result; repeatable.",
    ),
]
PromptFromStyleOpt = Annotated[
    bool,
    typer.Option(
        "--prompt-from-style",
        help="Add words that CLIP finds nearest to the style.",
        rich_help_panel=SETTINGS,
    ),
]
CompareOpt = Annotated[
    bool,
    typer.Option("--compare", help="Also write content | style | result.", rich_help_panel=OUTPUT),
]
SweepOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="NAME=A,B,..,Z",
        parser=given,
        help="A grid over features, attention, weight, guidance or a key; twice: rows x columns.",
        rich_help_panel=OUTPUT,
    ),
]
AblateOpt = Annotated[
    str | None,
    typer.Option(
        "--ablate",
        metavar="FIGURE",
        parser=given,
        help="A paper's ablation as a grid: aaai, v1 or adaptive.",
        rich_help_panel=OUTPUT,
    ),
]


@examples(
    "style transfer photo.jpg --style painting.jpg -o out.png --compare",
    "style transfer photos/ --lora ink.safetensors -o out/ --name '{content}-ink.png'",
)
def transfer(
    outputs: Outputs,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
    style: StyleOpt = None,
    lora: LoraOpt = None,
    guidance: GuidanceOpt = None,
    batch: BatchOpt = None,
    prompt: PromptOpt = None,
    prompt_from_style: PromptFromStyleOpt = False,
    compare: CompareOpt = False,
    sweep: SweepOpt = None,
    ablate: AblateOpt = None,
) -> None:
    """Restyle pictures, keeping their layout. Run it again to resume."""
    resolved = settings.resolved(
        {
            "sampling.guidance": guidance,
            "device.batch": batch,
            "sampling.prompt": prompt,
            "sampling.prompt_from_style": prompt_from_style or None,
        }
    )
    submission = running.submission(outputs)
    from stylecli.engine import figures, restyle

    prepared = restyle.transfer(
        running.recipe(resolved),
        inputs.contents(),
        running.destination(outputs),
        console,
        styles=style or [],
        loras=lora or [],
        compare=compare,
        figure=figures.chosen(resolved.recipe, sweep or [], ablate),
        allow_download=running.allow_download,
    )
    carrying.carry_out(prepared, resolved, dry_run=running.dry_run, submission=submission)


VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Sample back and report PSNR; writes NAME.verify.png.",
        rich_help_panel=OUTPUT,
    ),
]
RefineOpt = Annotated[
    int | None,
    typer.Option(
        "--refine",
        metavar="R",
        help="Fixed-point passes per level; 1 or 3.",
        rich_help_panel=SETTINGS,
    ),
]


@examples(
    "style invert photo.jpg -o trajectories/ --verify",
    "style invert photos/ -o trajectories/ --refine 3",
)
def invert(
    outputs: Outputs,
    inputs: Inputs,
    settings: Settings,
    running: Running,
    refine: RefineOpt = None,
    batch: BatchOpt = None,
    verify: VerifyOpt = False,
) -> None:
    """Walk pictures to noise (DDIM) and keep the trajectories. Run it again to resume."""
    resolved = settings.resolved({"inversion.refine_iters": refine, "device.batch": batch})
    submission = running.submission(outputs)
    from stylecli.engine import commands

    prepared = commands.invert(
        running.recipe(resolved),
        inputs.contents(),
        running.destination(outputs),
        console,
        verify=verify,
        allow_download=running.allow_download,
    )
    carrying.carry_out(prepared, resolved, dry_run=running.dry_run, submission=submission)
