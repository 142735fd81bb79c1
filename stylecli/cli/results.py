"""Options that name results and what they are of, for commands that judge them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli.options import given, given_path

if TYPE_CHECKING:
    from stylecli.engine.scoring.items import Asked

WHAT = "What is judged"

ResultsArg = Annotated[
    list[str] | None,
    typer.Argument(metavar="RESULTS", parser=given, help="Folders of results, one a method."),
]
RowsOpt = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        parser=given_path,
        help="Rows of id, method, output, content, style, mask, …; .jsonl or .csv.",
        rich_help_panel=WHAT,
    ),
]
ContentsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--content",
        metavar="PATH",
        parser=given,
        help="Where the contents of RESULTS are; repeatable.",
        rich_help_panel=WHAT,
    ),
]
StylesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        metavar="PATH",
        parser=given,
        help="Where their styles are; repeatable.",
        rich_help_panel=WHAT,
    ),
]
MethodsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        parser=given,
        help="What to call each folder; default: its name.",
        rich_help_panel=WHAT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Results to judge."""

    results: ResultsArg = None
    manifest: RowsOpt = None
    content: ContentsOpt = None
    style: StylesOpt = None
    method: MethodsOpt = None

    def asked(self) -> Asked:
        """The same for the engine."""
        from stylecli.engine.scoring.items import Asked

        return Asked(
            results=self.results or (),
            manifest=self.manifest,
            contents=self.content or (),
            styles=self.style or (),
            methods=self.method or (),
        )
