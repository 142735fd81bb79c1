"""`style evaluate`: numbers for results, ours or another tool's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli import carrying, options
from stylecli.cli.console import console
from stylecli.cli.options import (
    AllowDownloadOpt,
    DeviceOpt,
    DryRunOpt,
    RecipeOpt,
    SetOpt,
    WaitOpt,
    examples,
    given,
)
from stylecli.cli.results import Results
from stylecli.cli.unattended import ShardOpt

if TYPE_CHECKING:
    from stylecli.engine.scoring.evaluation import Evaluation
    from stylecli.engine.scoring.rows import Scored
    from stylecli.recipe.load import Resolved

JUDGE, OUTPUT = "How", options.OUTPUT
LIST = "list"


@examples(
    "style evaluate out/ --content photos/ --style styles/ -o report/",
    "style evaluate --manifest all.jsonl --compare ours theirs --fail-under ssim=0.3 -o report/",
)
def evaluate(
    results: Results,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=given,
            help="Folder of the report.",
            rich_help_panel=OUTPUT,
        ),
    ] = "report",
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            metavar="A,B,-C",
            parser=given,
            help="Names, +NAME, -NAME; list, or list:NAME.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="core, pocket, features, diffstyler, stylegallery, regionroute, i2l, leakage, "
            "paired, all.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Paired difference of two methods.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="paper:NAME",
            parser=given,
            help="Show a paper's own figures beside.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="METRIC=VALUE",
            parser=given,
            help="Exit 1 where a method is worse; METHOD:METRIC=VALUE for one.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    no_anchors: Annotated[
        bool,
        typer.Option("--no-anchors", help="Leave out the copies.", rich_help_panel=JUDGE),
    ] = False,
    weights_dir: options.WeightsDirOpt = None,
    recipe: RecipeOpt = None,
    overrides: SetOpt = None,
    device: DeviceOpt = None,
    dry_run: DryRunOpt = False,
    wait: WaitOpt = False,
    allow_download: AllowDownloadOpt = False,
    shard: ShardOpt = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            metavar="N",
            min=1,
            max=256,
            show_default=False,
            help="Processes that share the rows, with a GPU each.",
            rich_help_panel=options.RARE,
        ),
    ] = 1,
) -> None:
    """Score results by the papers' metrics, beside what copying would score."""
    if metrics is not None and metrics.partition(":")[0] == LIST:
        _list(metrics.partition(":")[2])
        return
    resolved = carrying.settings(
        recipe,
        overrides,
        {
            "device.name": device,
            "evaluate.preset": preset,
            "evaluate.metrics": [w.strip() for w in metrics.split(",")] if metrics else None,
            "evaluate.anchors": [] if no_anchors else None,
        },
    )
    from stylecli.engine.runs import shards
    from stylecli.engine.scoring.evaluation import Evaluation
    from stylecli.engine.scoring.wishes import Wishes

    evaluation = Evaluation.prepare(
        resolved.recipe,
        results.asked(),
        Wishes(
            output=Path(output).expanduser(),
            weights_dir=weights_dir,
            allow_download=allow_download,
            compare=compare,
            baseline=baseline,
            fail_under=fail_under or (),
            wait=wait,
            dry_run=dry_run,
            part=shards.parse(shard, os.environ) if shard else None,
            jobs=jobs,
        ),
        console,
    )
    if dry_run:
        _show(evaluation, resolved)
        return
    if evaluation.wishes.part:
        evaluation.run_part(_say)
        console.note(
            f"part {shard} is scored; when all are, the same command without --shard makes the "
            "report"
        )
        return
    from stylecli.engine.report import evaluation_page

    place = evaluation_page.place(Path(output).expanduser())
    outcome = evaluation.run(_say)
    from stylecli.artifacts.tables import json_rows, markdown
    from stylecli.engine.scoring.printed import tables

    for table in tables(outcome):
        console.result({"table": table.title, "cells": json_rows(table)}, text=markdown(table))
    written = evaluation_page.write(place.parent, evaluation.pictures, place)
    console.note(f"charts, and the best and worst pictures: {written.page}")
    evaluation.check_bounds(outcome)


def _say(scored: Scored) -> None:
    from stylecli.engine.scoring import report

    row = report.row(scored)
    if scored.case.method != scored.case.item.method:
        # An anchor was not asked for by name: it neither counts as an item nor fails as one.
        del row["status"]
    # A person gets the table; a program every row.
    console.result(row, text="")


def _list(name: str) -> None:
    from stylecli.evaluation import table

    for metric in [table.lookup(name)] if name else table.METRICS.values():
        row = {
            "metric": metric.name,
            "kind": metric.kind,
            "better": metric.better,
            "definition": metric.definition,
            "columns": list(metric.columns),
            "weights": list(metric.needs),
            "presets": [p for p, names in table.PRESETS.items() if metric.name in names],
        }
        arrow = "↑" if metric.better == "higher" else "↓"
        text = f"{metric.name:<20} {arrow}  {metric.definition}"
        if name:
            needs = ", ".join(f"metrics/{need}" for need in metric.needs) or "nothing"
            text += f"\n  of {', '.join(('output', *metric.columns))}; needs {needs}"
        console.result(row, text=text)


def _show(evaluation: Evaluation, resolved: Resolved) -> None:
    """The settings and the plan: how much, by which metrics, and what is missing."""
    settings = {
        f"evaluate.{key}": value
        for key, value in resolved.recipe.evaluate.model_dump(mode="json").items()
    }
    lines = (f"{k:<28} {json.dumps(v)}  # {resolved.origin[k]}" for k, v in settings.items())
    console.result({"recipe": settings}, text="\n".join(lines))
    methods = evaluation.methods
    console.result(
        {"methods": methods, "items": len(evaluation.items)},
        text=f"{len(evaluation.items)} items of {len(methods)} methods: {', '.join(methods)}",
    )
    for metric in evaluation.chosen.metrics:
        why_not = evaluation.why_not(metric)
        row = {"metric": metric.name, "ready": not why_not, "why_not": why_not or None}
        console.result(row, text=f"{metric.name:<20} {why_not or 'ready'}")
