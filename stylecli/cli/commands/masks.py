"""`style masks`."""

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
    ManifestOpt,
    NameOpt,
    NulOpt,
    OutputOpt,
    OverwriteOpt,
    RecipeOpt,
    SeedOpt,
    SetOpt,
    ShardOpt,
    WaitOpt,
    examples,
    given,
)

FIND = "Find"

TextOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        "-t",
        metavar="WORDS",
        parser=given,
        help="What to find; repeatable.",
        rich_help_panel=FIND,
    ),
]
PointOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--point",
        metavar="X,Y",
        parser=given,
        help="A place in it; X,Y,- is outside; repeatable.",
        rich_help_panel=FIND,
    ),
]
BoxOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="X0,Y0,X1,Y1",
        parser=given,
        help="A box around it; repeatable.",
        rich_help_panel=FIND,
    ),
]
BackendOpt = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        parser=given,
        help="Who finds it: clusters, grounded-sam2, clipseg, …",
        rich_help_panel=FIND,
    ),
]
AllOpt = Annotated[
    bool,
    typer.Option("--all", help="Every find, not only the best.", rich_help_panel=FIND),
]


@examples(
    "style masks photo.jpg --text deer --text grass -o masks/",
    "style masks photos/ -o regions/",
)
def masks(
    output: OutputOpt,
    content: ContentArg = None,
    text: TextOpt = None,
    point: PointOpt = None,
    box: BoxOpt = None,
    backend: BackendOpt = None,
    every: AllOpt = False,
    manifest: ManifestOpt = None,
    nul: NulOpt = False,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
    seed: SeedOpt = None,
    name: NameOpt = None,
    overwrite: OverwriteOpt = False,
    shard: ShardOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Find regions of pictures: what words name, what lies at a place, or all there are."""
    resolved = options.settings(
        recipe,
        overrides,
        {
            "backbone.id": backbone,
            "device.name": device,
            "device.dtype": dtype,
            "masks.backend": backend,
            "sampling.seed": seed,
        },
    )
    from stylecli.engine import masks as work
    from stylecli.engine import request
    from stylecli.engine.places import Asked

    prepared = work.masks(
        resolved.recipe,
        request.Contents(arguments=content or [], manifest=manifest, stdin=sys.stdin.read, nul=nul),
        request.Destination(output=output, name=name, shard=shard, overwrite=overwrite, wait=wait),
        console,
        asked=Asked.of(text or [], point or [], box or []),
        every=every,
        allow_download=allow_download,
    )
    options.carry_out(prepared, resolved, dry_run=dry_run)
