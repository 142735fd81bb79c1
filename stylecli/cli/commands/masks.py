"""`style masks`."""

from __future__ import annotations

from typing import Annotated

import typer

from stylecli.cli import carrying
from stylecli.cli.bundles import Inputs, Outputs, Seeded
from stylecli.cli.console import console
from stylecli.cli.options import examples, given
from stylecli.cli.unattended import Running

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
    *,
    outputs: Outputs,
    text: TextOpt = None,
    point: PointOpt = None,
    box: BoxOpt = None,
    backend: BackendOpt = None,
    every: AllOpt = False,
    inputs: Inputs,
    settings: Seeded,
    running: Running,
) -> None:
    """Find regions of pictures: what words name, what lies at a place, or all there are."""
    resolved = settings.resolved({"masks.backend": backend})
    submission = running.submission(outputs)
    from stylecli.engine import masks as work
    from stylecli.engine.places import Asked

    prepared = work.masks(
        running.recipe(resolved),
        inputs.contents(),
        running.destination(outputs),
        console,
        asked=Asked.of(text or [], point or [], box or []),
        every=every,
        allow_download=running.allow_download,
    )
    carrying.carry_out(prepared, resolved, dry_run=running.dry_run, submission=submission)
