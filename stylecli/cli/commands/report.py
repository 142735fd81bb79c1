"""`style report`: one page that shows what runs made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylecli.cli.console import console
from stylecli.cli.options import OUTPUT, examples, given, given_path
from stylecli.errors import UsageError

PICTURES = "Where things are"


@examples(
    "style report out/ --content photos/ --style styles/",
    "style report report/ a/ b/ --content photos/ --style styles/",
)
def report(
    outputs: Annotated[
        list[str],
        typer.Argument(metavar="OUT", parser=given, help="What runs or `style evaluate` wrote."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            parser=given_path,
            help="Default: report.html in OUT; here when there are several.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(
            "--title", metavar="TEXT", help="Heading of the page.", rich_help_panel=OUTPUT
        ),
    ] = None,
    content: Annotated[
        list[str] | None,
        typer.Option(
            "--content",
            metavar="PATH",
            parser=given,
            help="Where contents and masks are; repeatable.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(
            "--style",
            metavar="PATH",
            parser=given,
            help="Where styles and LoRAs are; repeatable.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="DIR",
            parser=given_path,
            help="What `style evaluate` wrote about OUT.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
) -> None:
    """Show runs on one page: what went in, what came out, what failed, and with which settings.

    What `style evaluate` wrote becomes a page of charts, of method against method, and of the best
    and the worst; name the folders of the results beside it for their pictures.
    """
    from stylecli.engine.report import evaluation_page, page

    place = None if output is None else output.expanduser()
    folder = evaluation_page.among(outputs)
    if folder is not None:
        if scores is not None:
            raise UsageError(
                f"{folder} is an evaluation itself, and --scores names one",
                fix="leave one of them out",
            )
        others = [Path(name).expanduser() for name in (*outputs, *(content or ()), *(style or ()))]
        written = evaluation_page.write(folder, others, place, title)
    else:
        wanted = page.Wanted(
            outputs=outputs,
            page=place,
            contents=content or (),
            styles=style or (),
            scores=scores,
            title=title,
        )
        written = page.write(wanted, console)
    if written.not_found:
        some = ", ".join(written.not_found[:3]) + (", …" if len(written.not_found) > 3 else "")
        count = len(written.not_found)
        console.note(
            f"{count} input{'s were' if count > 1 else ' was'} not found ({some}); "
            "say where with --content and --style"
        )
    console.result(
        {
            "output": str(written.page),
            "status": "done",
            "items": dict(written.counts),
            "not_found": list(written.not_found),
        }
    )
