"""`style generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying, options
from stylecli.cli.bundles import Outputs, Seeded
from stylecli.cli.commands.transfer import LoraOpt, StyleOpt
from stylecli.cli.options import (
    RUN,
    SETTINGS,
    BatchOpt,
    FitOpt,
    GuidanceOpt,
    NegativeLoraOpt,
    RegionOpt,
    ScheduleOpt,
    StepsOpt,
    examples,
    given,
    given_path,
)
from stylecli.cli.unattended import Running

if TYPE_CHECKING:
    from stylecli.engine.context import Reporter
    from stylecli.engine.request import Prepared
    from stylecli.recipe.schema import Recipe

PromptsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        "-p",
        metavar="TEXT",
        parser=given,
        help="What to draw; {trigger} is the LoRA's caption; repeatable.",
    ),
]
PromptFileOpt = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        parser=given,
        help="One prompt a line; - is standard input.",
        rich_help_panel=RUN,
    ),
]
WordsOpt = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        parser=given_path,
        help="Rows of prompt, style, lora, output, …; .jsonl or .csv.",
        rich_help_panel=RUN,
    ),
]
CountOpt = Annotated[
    int, typer.Option("--count", metavar="N", min=1, max=10_000, help="Pictures of each prompt.")
]
SizeOpt = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="WxH",
        help="In pixels, or one side of a square.",
        rich_help_panel=SETTINGS,
    ),
]


@examples(
    "style generate --prompt 'red heart, {trigger}' --lora oil.safetensors -o heart.png",
    "style generate -p 'a house' --region sky.png=ink.png@stars --size 256x128 -o out/ --count 4",
)
def generate(
    outputs: Outputs,
    settings: Seeded,
    running: Running,
    prompt: PromptsOpt = None,
    style: StyleOpt = None,
    lora: LoraOpt = None,
    region: RegionOpt = None,
    schedule: ScheduleOpt = None,
    count: CountOpt = 1,
    prompts: PromptFileOpt = None,
    manifest: WordsOpt = None,
    guidance: GuidanceOpt = None,
    negative_lora: NegativeLoraOpt = None,
    steps: StepsOpt = None,
    batch: BatchOpt = None,
    fit: FitOpt = None,
    size: SizeOpt = None,
) -> None:
    """Draw pictures from words, with the same LoRAs, regions and schedules."""
    width, height = options.sides(size)
    resolved = settings.resolved(
        {
            "sampling.guidance": guidance,
            "sampling.negative_lora": negative_lora,
            "sampling.steps": steps,
            "device.batch": batch,
            "sampling.regions": region or None,
            "sampling.schedule": schedule,
            "sampling.width": width,
            "sampling.height": height,
        }
    )
    submission = running.submission(outputs)
    from stylecli.engine import generate as generation

    words = generation.Words.of(
        prompt or [], prompts, sys.stdin.read() if prompts == "-" else "", count, manifest
    )

    def prepare(recipe: Recipe, reporter: Reporter) -> Prepared:
        return generation.generate(
            recipe,
            words,
            running.destination(outputs),
            reporter,
            styles=style or [],
            loras=lora or [],
            allow_download=running.allow_download,
        )

    carrying.fit_and_carry_out(resolved, fit, running, prepare, submission)
