"""`style mask-transfer` and `style switch`: which LoRA where, and which LoRA when."""

from __future__ import annotations

import sys
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
    RegionOpt,
    ScheduleOpt,
    SeedOpt,
    SetOpt,
    ShardOpt,
    SheetOpt,
    WaitOpt,
    examples,
)

FeatherOpt = Annotated[
    float | None,
    typer.Option(
        "--feather",
        metavar="PX",
        help="Soften the masks, in px of the model's size.",
        rich_help_panel="Settings",
    ),
]
OverlapOpt = Annotated[
    str | None,
    typer.Option(
        "--overlap",
        metavar="HOW",
        help="over (later on top), normalise or error.",
        rich_help_panel="Settings",
    ),
]
BackgroundOpt = Annotated[
    str | None,
    typer.Option(
        "--background",
        metavar="HOW",
        help="source: the content itself; denoise: repainted.",
        rich_help_panel="Settings",
    ),
]
NoCompositeOpt = Annotated[
    bool,
    typer.Option(
        "--no-composite",
        help="The decoded picture; else only regions are pasted.",
        rich_help_panel="Settings",
    ),
]


@examples(
    "style mask-transfer photo.jpg --region deer.png=oil.safetensors -o out.png --sheet",
    "style mask-transfer photo.jpg --region 'text:sky=ink.png@a sky in ink' -o out.png",
)
def mask_transfer(
    output: OutputOpt,
    content: ContentArg = None,
    region: RegionOpt = None,
    manifest: ManifestOpt = None,
    nul: NulOpt = False,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    seed: SeedOpt = None,
    guidance: GuidanceOpt = None,
    feather: FeatherOpt = None,
    overlap: OverlapOpt = None,
    background: BackgroundOpt = None,
    no_composite: NoCompositeOpt = False,
    name: NameOpt = None,
    sheet: SheetOpt = False,
    overwrite: OverwriteOpt = False,
    shard: ShardOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Restyle regions of pictures, each in its own LoRA; all other pixels stay as they are."""
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
            "sampling.overlap": overlap,
            "sampling.background": background,
            "sampling.composite": "none" if no_composite else None,
            "masks.feather_px": feather,
        },
    )
    from stylecli.engine import request, restyle

    prepared = restyle.mask_transfer(
        resolved.recipe,
        request.Contents(arguments=content or [], manifest=manifest, stdin=sys.stdin.read, nul=nul),
        request.Destination(output=output, name=name, shard=shard, overwrite=overwrite, wait=wait),
        console,
        compare=sheet,
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)


@examples(
    "style switch photo.jpg --schedule 'oil.safetensors:0-30,ink.safetensors:30-50' -o out.png",
    "style switch photos/ --schedule 'a.safetensors:0%-40%,base:40%-60%,b.png:60%-' -o out/",
)
def switch(
    output: OutputOpt,
    content: ContentArg = None,
    schedule: ScheduleOpt = None,
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
    name: NameOpt = None,
    sheet: SheetOpt = False,
    overwrite: OverwriteOpt = False,
    shard: ShardOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Restyle pictures with different LoRAs at different sampling steps."""
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
            "sampling.schedule": schedule,
        },
    )
    from stylecli.engine import request, restyle

    prepared = restyle.switch(
        resolved.recipe,
        request.Contents(arguments=content or [], manifest=manifest, stdin=sys.stdin.read, nul=nul),
        request.Destination(output=output, name=name, shard=shard, overwrite=overwrite, wait=wait),
        console,
        compare=sheet,
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)
