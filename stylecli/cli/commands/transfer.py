"""`style transfer` and `style invert`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stylecli.cli import options
from stylecli.cli.console import console
from stylecli.cli.options import (
    AllowDownloadOpt,
    BackboneOpt,
    ContentArg,
    DeviceOpt,
    DryRunOpt,
    DtypeOpt,
    GuidanceOpt,
    ManifestOpt,
    NameOpt,
    NulOpt,
    OutputOpt,
    OverwriteOpt,
    PromptOpt,
    RecipeOpt,
    SeedOpt,
    SetOpt,
    ShardOpt,
    WaitOpt,
    examples,
    given,
    given_path,
)

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
        rich_help_panel="Settings",
    ),
]
CompareOpt = Annotated[
    bool,
    typer.Option(
        "--compare", help="Also write content | style | result.", rich_help_panel="Output"
    ),
]
SweepOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="NAME=A,B,..,Z",
        parser=given,
        help="A grid over features, attention, weight, guidance or a key; twice: rows x columns.",
        rich_help_panel="Output",
    ),
]
AblateOpt = Annotated[
    str | None,
    typer.Option(
        "--ablate",
        metavar="FIGURE",
        parser=given,
        help="A paper's ablation as a grid: aaai, v1 or adaptive.",
        rich_help_panel="Output",
    ),
]


@examples(
    "style transfer photo.jpg --style painting.jpg -o out.png --compare",
    "style transfer photos/ --lora ink.safetensors -o out/ --name '{content}-ink.png'",
)
def transfer(
    output: OutputOpt,
    content: ContentArg = None,
    style: StyleOpt = None,
    lora: LoraOpt = None,
    manifest: ManifestOpt = None,
    nul: NulOpt = False,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    seed: SeedOpt = None,
    guidance: GuidanceOpt = None,
    prompt: PromptOpt = None,
    prompt_from_style: PromptFromStyleOpt = False,
    name: NameOpt = None,
    compare: CompareOpt = False,
    sweep: SweepOpt = None,
    ablate: AblateOpt = None,
    overwrite: OverwriteOpt = False,
    shard: ShardOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Restyle pictures, keeping their layout. Run it again to resume."""
    resolved = options.settings(
        recipe,
        overrides,
        {
            "backbone.id": backbone,
            "device.name": device,
            "device.dtype": dtype,
            "sampling.seed": seed,
            "sampling.guidance": guidance,
            "sampling.prompt": prompt,
            "sampling.prompt_from_style": prompt_from_style or None,
        },
    )
    from stylecli.engine import figures, request, restyle

    prepared = restyle.transfer(
        resolved.recipe,
        request.Contents(arguments=content or [], manifest=manifest, stdin=sys.stdin.read, nul=nul),
        request.Destination(
            output=output,
            name=name,
            shard=shard,
            overwrite=overwrite,
            wait=wait,
        ),
        console,
        styles=style or [],
        loras=lora or [],
        compare=compare,
        figure=figures.chosen(resolved.recipe, sweep or [], ablate),
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)


VerifyOpt = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Sample back and report PSNR; writes NAME.verify.png.",
        rich_help_panel="Output",
    ),
]
RefineOpt = Annotated[
    int | None,
    typer.Option(
        "--refine",
        metavar="R",
        help="Fixed-point passes per level; 1 or 3.",
        rich_help_panel="Settings",
    ),
]


@examples(
    "style invert photo.jpg -o trajectories/ --verify",
    "style invert photos/ -o trajectories/ --refine 3",
)
def invert(
    output: OutputOpt,
    content: ContentArg = None,
    manifest: ManifestOpt = None,
    nul: NulOpt = False,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    refine: RefineOpt = None,
    name: NameOpt = None,
    verify: VerifyOpt = False,
    overwrite: OverwriteOpt = False,
    shard: ShardOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Walk pictures to noise (DDIM) and keep the trajectories. Run it again to resume."""
    resolved = options.settings(
        recipe,
        overrides,
        {
            "backbone.id": backbone,
            "device.name": device,
            "device.dtype": dtype,
            "inversion.refine_iters": refine,
        },
    )
    from stylecli.engine import commands, request

    prepared = commands.invert(
        resolved.recipe,
        request.Contents(arguments=content or [], manifest=manifest, stdin=sys.stdin.read, nul=nul),
        request.Destination(output=output, name=name, shard=shard, overwrite=overwrite, wait=wait),
        console,
        verify=verify,
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)
