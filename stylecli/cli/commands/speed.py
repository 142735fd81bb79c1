"""`style bench`: what a stylisation costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylecli.cli import bundles, options
from stylecli.cli.console import console
from stylecli.cli.options import AllowDownloadOpt, DryRunOpt, examples, given, given_path
from stylecli.errors import UsageError

MEASURED = "What is measured"


@examples(
    "style bench --quick",
    "style bench --backbone sd21-base --weights random --cases transfer -o sd21.json",
)
def bench(
    settings: bundles.Settings,
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases",
            metavar="A,B",
            parser=given,
            help="transfer, memory, rows, styles, train, gallery, compile; default: all.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            parser=given,
            help="Of the picture; one number is a square.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            "--weights",
            metavar="own|random",
            parser=given,
            help="Random ones cost the same, and need no download.",
            rich_help_panel=MEASURED,
        ),
    ] = "own",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Few steps, once: to see that it works.", rich_help_panel=MEASURED
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="All steps, and 50 of the authors' 999.", rich_help_panel=MEASURED
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=given_path,
            help="Also write all figures there, as JSON.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    dry_run: DryRunOpt = False,
    allow_download: AllowDownloadOpt = False,
) -> None:
    """Measure time, rows, operations and memory, beside a plain implementation of the same."""
    if quick and full:
        raise UsageError("--quick and --full are two of three efforts", fix="give one, or neither")
    if weights not in ("own", "random"):
        raise UsageError(f"--weights {weights} is none", fix="give own or random")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        where = "is a folder" if output.is_dir() else "lies in no folder that is there"
        raise UsageError(f"--output {output} {where}", fix="name a file, such as -o bench.json")
    width, height = options.sides(size)
    resolved = settings.resolved({})

    from stylecli.backbone.registry import PAINTING
    from stylecli.engine.bench.cases import CASES, chosen, measure
    from stylecli.engine.bench.workplace import Bench
    from stylecli.engine.session import Session

    asked = [name for name in (cases or "").split(",") if name]
    chosen(asked)
    if resolved.assumed:
        console.note(resolved.assumed)
    session = Session.open(
        resolved.recipe,
        console,
        allow_download=allow_download,
        kinds=PAINTING,
        blank=weights == "random",
    )
    names = chosen(asked, session.source.kind)
    measured = Bench(
        session,
        resolved.name,
        effort="quick" if quick else "full" if full else "default",
        size=None if width is None or height is None else (width, height),
    )
    if dry_run:
        for name in names:
            plan = {"case": name, "what": CASES[name].what, "steps": measured.steps}
            console.result(plan, text=f"{name:<9} {CASES[name].what}")
        return
    rows = []
    for row in measure(measured, names):
        rows.append(row)
        console.result(row.model_dump(mode="json"), text=str(row))
    if output is not None:
        from stylecli.artifacts.files import write_atomic

        text = measured.report(rows).model_dump_json(indent=2)
        write_atomic(output, f"{text}\n".encode())
        console.result({"output": str(output)})
