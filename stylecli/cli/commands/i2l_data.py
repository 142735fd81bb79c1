"""`style i2l-data`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stylecli.cli.console import console
from stylecli.cli.options import (
    RUN,
    DryRunOpt,
    FolderOpt,
    OverwriteOpt,
    WaitOpt,
    examples,
    given,
    given_path,
)

OF_ICONS, OF_ROWS = "Icons in drawn styles", "Lists and tables"
MAX_WORKERS = 64
# More help a command line little, and each holds pictures in memory.
USUAL_WORKERS = 8


SourcesArg = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ROWS",
        parser=given,
        help="Lists (.jsonl) and tables (.parquet) of image, content and style; folders, globs.",
    ),
]
IconsOpt = Annotated[
    Path | None,
    typer.Option(
        "--icons",
        metavar="DIR",
        parser=given_path,
        help="npm's @iconify-json packages.",
        rich_help_panel=OF_ICONS,
    ),
]
StylesOpt = Annotated[
    int | None,
    typer.Option(
        "--styles",
        metavar="N",
        min=1,
        help="Styles of training; default: 2000.",
        rich_help_panel=OF_ICONS,
    ),
]
HeldOutOpt = Annotated[
    str | None,
    typer.Option(
        "--held-out",
        metavar="E,M,H",
        parser=given,
        help="Styles it never sees: easy, medium, hard; default: 200,100,36.",
        rich_help_panel=OF_ICONS,
    ),
]
PerStyleOpt = Annotated[
    int | None,
    typer.Option(
        "--per-style",
        metavar="N",
        min=2,
        help="Pictures of each; default: 24.",
        rich_help_panel=OF_ICONS,
    ),
]
SizeOpt = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="N",
        min=16,
        max=512,
        help="Side of each, in pixels; default: 64.",
        rich_help_panel=OF_ICONS,
    ),
]
SeedOpt = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        max=40_000,
        help="Of styles and contents; default: 0.",
        rich_help_panel=OF_ICONS,
    ),
]
HoldoutOpt = Annotated[
    int | None,
    typer.Option(
        "--holdout",
        metavar="N",
        min=0,
        help="Pictures for tests, where no row says; default: 1000.",
        rich_help_panel=OF_ROWS,
    ),
]
UpscaleToOpt = Annotated[
    int | None,
    typer.Option(
        "--upscale-to",
        metavar="N",
        min=16,
        max=8192,
        help="Short side of smaller pictures.",
        rich_help_panel=OF_ROWS,
    ),
]
UpscalerOpt = Annotated[
    str | None,
    typer.Option(
        "--upscaler",
        metavar="NAME",
        parser=given,
        help="lanczos (default), or package.module:function.",
        rich_help_panel=OF_ROWS,
    ),
]
WorkersOpt = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=MAX_WORKERS,
        help="Pictures in work at a time; default: one a CPU, at most 8.",
        rich_help_panel=RUN,
    ),
]


@examples(
    "style i2l-data --icons node_modules/@iconify-json -o icons/",
    "style i2l-data parts/*.parquet -o megastyle/ --upscale-to 1024",
)
def i2l_data(
    output: FolderOpt,
    sources: SourcesArg = None,
    icons: IconsOpt = None,
    styles: StylesOpt = None,
    held_out: HeldOutOpt = None,
    per_style: PerStyleOpt = None,
    size: SizeOpt = None,
    seed: SeedOpt = None,
    holdout: HoldoutOpt = None,
    upscale_to: UpscaleToOpt = None,
    upscaler: UpscalerOpt = None,
    workers: WorkersOpt = None,
    overwrite: OverwriteOpt = False,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
) -> None:
    """Make a set of pictures sorted by style for i2l-train. Run it again to resume."""
    from stylecli.engine.i2l.data.prepare import Asked, OfIcons, OfRows, prepare

    build = prepare(
        Asked(
            sources=sources or (),
            icons=icons,
            output=output.expanduser(),
            of_icons=OfIcons(styles, _three(held_out), per_style, size, seed),
            of_rows=OfRows(holdout, upscale_to, upscaler),
            workers=workers or min(USUAL_WORKERS, os.cpu_count() or 1),
            stdin=sys.stdin.read,
            overwrite=overwrite,
            wait=wait,
        ),
        console,
    )
    if dry_run:
        total = build.source.total
        row = {"output": str(output), "dry_run": True, "pictures": total}
        console.result(row, text=f"{total} pictures into {output}, nothing made")
        return
    built = build.run()
    for one in built.failed:
        console.result({"key": one.key, "status": "failed", "error": dict(one.error)})
    for reason, count in built.about["left_out"].items():
        console.warn(f"{count} pictures left out: {reason}")
    console.result(
        {"output": str(output), "status": built.status, **_shown(built.about)}, text=str(output)
    )


def _three(text: str | None) -> tuple[int, int, int] | None:
    """``200,100,36`` as numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"--held-out {text!r} is not EASY,MEDIUM,HARD, such as 200,100,36")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _shown(about: Any) -> dict[str, Any]:
    keys = ("items", "styles", "splits", "licences", "left_out", "failed")
    return {key: about[key] for key in keys}
