"""`style generate`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stylecli.cli import options
from stylecli.cli.commands.transfer import LoraOpt, StyleOpt
from stylecli.cli.console import console
from stylecli.cli.options import (
    AllowDownloadOpt,
    BackboneOpt,
    DeviceOpt,
    DryRunOpt,
    DtypeOpt,
    GuidanceOpt,
    NameOpt,
    OutputOpt,
    OverwriteOpt,
    RecipeOpt,
    RegionOpt,
    ScheduleOpt,
    SeedOpt,
    SetOpt,
    ShardOpt,
    WaitOpt,
    examples,
    given,
)

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
        rich_help_panel="Run",
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
        rich_help_panel="Settings",
    ),
]


@examples(
    "style generate --prompt 'red heart, {trigger}' --lora oil.safetensors -o heart.png",
    "style generate -p 'a house' --region sky.png=ink.png@stars --size 256x128 -o out/ --count 4",
)
def generate(
    output: OutputOpt,
    prompt: PromptsOpt = None,
    style: StyleOpt = None,
    lora: LoraOpt = None,
    region: RegionOpt = None,
    schedule: ScheduleOpt = None,
    count: CountOpt = 1,
    prompts: PromptFileOpt = None,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    seed: SeedOpt = None,
    guidance: GuidanceOpt = None,
    size: SizeOpt = None,
    name: NameOpt = None,
    overwrite: OverwriteOpt = False,
    shard: ShardOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Draw pictures from words, with the same LoRAs, regions and schedules."""
    width, height = options.sides(size)
    resolved = options.settings(
        recipe,
        overrides,
        {
            "backbone.id": backbone,
            "device.name": device,
            "device.dtype": dtype,
            "sampling.seed": seed,
            "sampling.guidance": guidance,
            "sampling.regions": region or None,
            "sampling.schedule": schedule,
            "sampling.width": width,
            "sampling.height": height,
        },
    )
    from stylecli.engine import generate as generation
    from stylecli.engine import request

    prepared = generation.generate(
        resolved.recipe,
        generation.Words.of(
            prompt or [], prompts, sys.stdin.read() if prompts == "-" else "", count
        ),
        request.Destination(output=output, name=name, shard=shard, overwrite=overwrite, wait=wait),
        console,
        styles=style or [],
        loras=lora or [],
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)
