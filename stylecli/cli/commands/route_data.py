"""`style route-data`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stylecli.cli.bundles import Seeded
from stylecli.cli.console import console
from stylecli.cli.options import (
    SETTINGS,
    AllowDownloadOpt,
    DryRunOpt,
    FolderOpt,
    OverwriteOpt,
    WaitOpt,
    examples,
    given,
    given_path,
)

CHOICE = "Pictures and styles"

SourcesArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="COCO",
        parser=given,
        help="instances_….json, phrases with masks (.jsonl), or NAME_im and NAME_gt.",
    ),
]
IconsOpt = Annotated[
    Path | None,
    typer.Option(
        "--icons",
        metavar="DIR",
        parser=given_path,
        help="Instead: scenes of npm's @iconify-json icons.",
        rich_help_panel=CHOICE,
    ),
]
PicturesOpt = Annotated[
    Path | None,
    typer.Option(
        "--pictures",
        metavar="DIR",
        parser=given_path,
        help="Where the lists' pictures are; default: near the list.",
        rich_help_panel=CHOICE,
    ),
]
ImagesOpt = Annotated[
    int | None,
    typer.Option(
        "--images",
        metavar="N",
        min=1,
        help="Pictures to learn from, one object of each; default: 150.",
        rich_help_panel=CHOICE,
    ),
]
ValOpt = Annotated[
    int | None,
    typer.Option(
        "--val",
        metavar="N",
        min=0,
        help="More pictures, for validation; default: 10.",
        rich_help_panel=CHOICE,
    ),
]
ObjectOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--object",
        metavar="NAME",
        parser=given,
        help="Repeatable: change these alone, as dog.",
        rich_help_panel=CHOICE,
    ),
]
StyleNameOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--style-name",
        metavar="STYLE",
        parser=given,
        help="Repeatable; default: the paper's four; or families.",
        rich_help_panel=CHOICE,
    ),
]
StylistOpt = Annotated[
    Literal["editor", "filter", "drawing"] | None,
    typer.Option(
        "--stylist",
        metavar="WHO",
        help="editor: the backbone, told to restyle all of a picture; filter: the paper's styles "
        "by rule; drawing: icons by another hand. Default: editor for photographs.",
        rich_help_panel=CHOICE,
        show_default=False,
    ),
]
SizeOpt = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="PX",
        min=32,
        max=1024,
        help="Side of scenes; default: 96.",
        rich_help_panel=CHOICE,
    ),
]
ExcludeOpt = Annotated[
    Path | None,
    typer.Option(
        "--exclude",
        metavar="SET",
        parser=given_path,
        help="Use no picture of this set: for a set to evaluate with.",
        rich_help_panel=CHOICE,
    ),
]
TriesOpt = Annotated[
    int | None,
    typer.Option(
        "--tries",
        metavar="N",
        min=1,
        max=16,
        help="Times to ask an editor that moves the object; default: 1.",
        rich_help_panel=SETTINGS,
    ),
]


@examples(
    "style route-data --icons node_modules/@iconify-json -o scenes/",
    "style route-data instances_train2017.json -o coco/ --backbone flux1-kontext --device cuda",
)
def route_data(
    output: FolderOpt,
    settings: Seeded,
    sources: SourcesArg = None,
    icons: IconsOpt = None,
    pictures: PicturesOpt = None,
    images: ImagesOpt = None,
    val: ValOpt = None,
    object_name: ObjectOpt = None,
    style_name: StyleNameOpt = None,
    stylist: StylistOpt = None,
    size: SizeOpt = None,
    exclude: ExcludeOpt = None,
    tries: TriesOpt = None,
    overwrite: OverwriteOpt = False,
    allow_download: AllowDownloadOpt = False,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
) -> None:
    """Make a set for route-train: of each picture one object changes. Run it again to resume."""
    resolved = settings.resolved(
        {
            "route.data.images": images,
            "route.data.held_out": val,
            "route.data.objects": object_name or None,
        }
    )
    from stylecli.engine.route.data.prepare import Asked, prepare

    build = prepare(
        Asked(
            sources=sources or (),
            icons=icons,
            output=output.expanduser(),
            recipe=resolved.recipe,
            pictures=pictures,
            styles=style_name or (),
            stylist=stylist,
            px=size,
            exclude=exclude,
            tries=tries,
            has_model=bool(settings.backbone or settings.device or settings.dtype),
            allow_download=allow_download,
            stdin=sys.stdin.read,
            overwrite=overwrite,
            wait=wait,
        ),
        console,
    )
    if dry_run:
        samples, pictured = build.total, len(build.source.subjects)
        row = {"output": str(output), "dry_run": True, "samples": samples, "pictures": pictured}
        said = f"{samples} samples of {pictured} pictures into {output}, nothing made"
        console.result(row, text=said)
        return
    built = build.run()
    for one in built.failed:
        console.result({"key": one.key, "status": "failed", "error": dict(one.error)})
    for reason, count in built.about["left_out"].items():
        console.note(f"{count} pictures left out {reason}")
    console.result(
        {"output": str(output), "status": built.status, **_shown(built.about)}, text=str(output)
    )


def _shown(about: Any) -> dict[str, Any]:
    return {key: about[key] for key in ("samples", "splits", "left_out", "failed")}
