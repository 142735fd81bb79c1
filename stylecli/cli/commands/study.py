"""`style study make` and `style study tally`: ask people, and count what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stylecli.cli import carrying
from stylecli.cli.console import console
from stylecli.cli.options import (
    OUTPUT,
    SETTINGS,
    FolderOpt,
    OverwriteOpt,
    RecipeOpt,
    SetOpt,
    examples,
    given,
    given_path,
)
from stylecli.cli.results import WHAT, Results

ASKED = "What raters are asked"


def _texts(flag: str, metavar: str, text: str, panel: str) -> object:
    return typer.Option(flag, metavar=metavar, parser=given, help=text, rich_help_panel=panel)


@examples(
    "style study make ours/ theirs/ --content photos/ --style styles/ --ours ours -o study/",
    "style study make --manifest all.jsonl --ours ours --per-rater 30 --ties -o study/",
)
def make(
    output: FolderOpt,
    ours: Annotated[str, _texts("--ours", "NAME", "The method that others are up against.", WHAT)],
    results: Results,
    against: Annotated[
        list[str] | None,
        _texts("--against", "NAME", "Another method; repeatable; default: all others.", WHAT),
    ] = None,
    all_pairs: Annotated[
        bool,
        typer.Option("--all-pairs", help="Others against one another too.", rich_help_panel=WHAT),
    ] = False,
    items: Annotated[
        int | None,
        typer.Option(
            "--items",
            metavar="N",
            min=1,
            help="Results at most, drawn by the seed.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    question: Annotated[
        list[str] | None,
        _texts("--question", "TEXT", "content, style, overall or your own; repeatable.", ASKED),
    ] = None,
    ties: Annotated[
        bool, typer.Option("--ties", help="Allow 'no difference'.", rich_help_panel=ASKED)
    ] = False,
    per_rater: Annotated[
        int | None,
        typer.Option(
            "--per-rater",
            metavar="N",
            min=1,
            help="Pairs for each rater, in turn; default: all.",
            rich_help_panel=ASKED,
        ),
    ] = None,
    title: Annotated[str | None, _texts("--title", "TEXT", "Heading of the page.", ASKED)] = None,
    instructions: Annotated[
        str | None, _texts("--instructions", "TEXT", "What raters read first.", ASKED)
    ] = None,
    consent: Annotated[
        str | None, _texts("--consent", "TEXT", "What they agree to.", ASKED)
    ] = None,
    images: Annotated[
        Literal["inside", "beside"],
        typer.Option(
            "--images",
            metavar="inside|beside",
            help="Pictures in the page (default), or a folder.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = "inside",
    side: Annotated[
        int,
        typer.Option(
            "--side",
            metavar="PX",
            min=16,
            max=4096,
            help="Long side of every picture.",
            rich_help_panel=OUTPUT,
        ),
    ] = 512,
    overwrite: OverwriteOpt = False,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
) -> None:
    """Make a page on which people compare results, without learning whose they are."""
    settings = carrying.settings(recipe, overrides).recipe.evaluate
    from stylecli.engine.study import making, page

    wanted = making.Wanted(
        output=output.expanduser(),
        ours=ours,
        against=against or (),
        all_pairs=all_pairs,
        items=items,
        questions=question or (),
        ties=ties,
        per_rater=per_rater,
        title=title or page.TITLE,
        instructions=instructions,
        consent=consent or page.CONSENT,
        beside=images == "beside",
        side_px=side,
        seed=settings.seed,
        overwrite=overwrite,
    )
    made = making.make(results.asked(), wanted, settings, console)
    for line in making.notes(made):
        console.note(line)
    for name, error in made.failures.items():
        console.result({"id": name, "status": "failed", "error": error.as_row()})
    console.result(making.row(made))


@examples(
    "style study tally study/ votes/*.csv -o table/",
    "style study tally study/ votes/ -o table/ --fastest 3 --keep-all --json",
)
def tally(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY", parser=given_path, help="What `style study make` wrote, with its key."
        ),
    ],
    votes: Annotated[
        list[str],
        typer.Argument(
            metavar="VOTES", parser=given, help="Files of raters, folders of them, or globs."
        ),
    ],
    output: FolderOpt,
    fastest: Annotated[
        float,
        typer.Option(
            "--fastest",
            metavar="SECONDS",
            min=0,
            help="Leave out raters with a median below it.",
            rich_help_panel=SETTINGS,
        ),
    ] = 2.0,
    keep_all: Annotated[
        bool,
        typer.Option(
            "--keep-all",
            help="Leave nobody out; faults are listed all the same.",
            rich_help_panel=SETTINGS,
        ),
    ] = False,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
) -> None:
    """Count the votes of raters: shares, intervals, tests, and whom not to believe."""
    settings = carrying.settings(recipe, overrides).recipe.evaluate
    from stylecli.artifacts.tables import json_rows, markdown
    from stylecli.engine.study import counting, printed

    count = counting.tally(
        study.expanduser(),
        votes,
        fastest_s=fastest,
        keep_all=keep_all,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    printed.write(output.expanduser(), count)
    for rater in count.raters:
        if rater.faults:
            done = "left out" if rater.name in count.left_out else "counted all the same"
            console.warn(f"rater {rater.name} {' and '.join(rater.faults)}: {done}")
    for table in printed.tables(count):
        console.result({"table": table.title, "cells": json_rows(table)}, text=markdown(table))
