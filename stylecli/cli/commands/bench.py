"""`style bench-glyphs`: transfers whose true result is known."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying, options
from stylecli.cli.console import console
from stylecli.cli.options import (
    BackboneOpt,
    DeviceOpt,
    DryRunOpt,
    RecipeOpt,
    SetOpt,
    WaitOpt,
    examples,
    given,
    given_path,
)

if TYPE_CHECKING:
    from stylecli.engine.glyph_bench.gains import Gain
    from stylecli.engine.runs.making import Result

QUESTIONS = "Questions"


@examples(
    "style bench-glyphs node_modules/@iconify-json -o glyphs/",
    "style bench-glyphs icons/ -o glyphs/ --contents 4 --methods diffstyler,styleid",
)
def bench_glyphs(
    icons: Annotated[
        Path,
        typer.Argument(
            metavar="ICONS", parser=given_path, help="Folder of npm's @iconify-json packages."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=given,
            help="Pictures, results and figures.",
            rich_help_panel=options.OUTPUT,
        ),
    ],
    contents: Annotated[
        int,
        typer.Option(
            "--contents",
            metavar="N",
            min=1,
            help="Things asked for in each held-out family.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 12,
    styles: Annotated[
        int,
        typer.Option(
            "--styles",
            metavar="N",
            min=1,
            help="Styles of each family, asked for in turn.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 2,
    references: Annotated[
        int,
        typer.Option(
            "--references",
            metavar="N",
            min=1,
            help="Pictures that make one style.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 1,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="FAMILY",
            help="The family that draws the contents.",
            rich_help_panel=QUESTIONS,
        ),
    ] = "noto",
    px: Annotated[
        int,
        typer.Option(
            "--px",
            metavar="N",
            min=64,
            max=512,
            help="Side of every picture, a multiple of 64.",
            rich_help_panel=QUESTIONS,
        ),
    ] = 64,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            metavar="A,B",
            parser=given,
            help="Who answers.",
            rich_help_panel=QUESTIONS,
        ),
    ] = "diffstyler,i2l,styleid,attn-distill,gallery",
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    backbone: BackboneOpt = None,
    device: DeviceOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
) -> None:
    """Restyle icons whose restyled form exists, and measure how near to it the result comes."""
    resolved = carrying.settings(
        recipe,
        overrides,
        {"backbone.id": backbone, "device.name": device, "evaluate.preset": "paired"},
    )
    from stylecli.engine.extras import drawing_icons

    with drawing_icons():
        from stylecli.engine.glyph_bench.questions import Asked
        from stylecli.engine.glyph_bench.run import GlyphBench
    asked = Asked(
        icons=icons,
        output=Path(output).expanduser(),
        source=source,
        contents=contents,
        styles=styles,
        references=references,
        px=px,
        methods=list(dict.fromkeys(methods.replace(" ", "").split(","))),
        wait=wait,
    )
    bench = GlyphBench.prepare(resolved.recipe, asked, console)
    if dry_run:
        text = f"{len(bench.questions)} questions in {asked.output}, nothing answered"
        console.result({"output": str(asked.output), "questions": len(bench.questions)}, text=text)
        return
    for gain in bench.run(_say):
        console.result(asdict(gain), text=_line(gain))
    for method in asked.methods:
        console.result({"output": str(bench.sheet_of(method))})


def _say(result: Result) -> None:
    # A person gets the figures; a program every result.
    console.result(result.row(), text="")


def _line(gain: Gain) -> str:
    closed, wins = gain.closed, gain.wins
    return (
        f"{gain.metric:<15} {gain.method:<17} closes {closed.value:+7.1%} of the distance "
        f"[{closed.low:+.1%}, {closed.high:+.1%}], and is nearer than the content and its "
        f"recolouring in {wins.value:.0%} of {gain.n}"
    )
