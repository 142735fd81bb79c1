"""What an evaluation leaves in its folder: every row, every figure, and tables to print."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stylecli.artifacts.files import replacing, to_json, write_atomic
from stylecli.artifacts.tables import csv_text, latex, markdown
from stylecli.engine.scoring import printed
from stylecli.engine.scoring.entries import Entry
from stylecli.engine.scoring.rows import Scored
from stylecli.engine.scoring.summary import Aggregate, Outcome, undecidable
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.normalising import Overall

SCHEMA_VERSION = 1
ROWS, AGGREGATE = "per_image.jsonl", "aggregate.json"


def row(scored: Scored) -> dict[str, Any]:
    """One scored case as readers get it: names and digests, no folders."""
    case = scored.case
    return {
        "schema_version": SCHEMA_VERSION,
        "id": case.item.id,
        "method": case.method,
        "output": case.item.output.name if case.method == case.item.method else None,
        "content": case.item.content.name if case.item.content else None,
        "style": [path.name for path in case.item.style],
        "output_hash": case.output.key,
        "content_hash": case.content.key if case.content else None,
        "style_hash": [shot.key for shot in case.styles],
        **scored.values,
        "status": "failed" if scored.error else "done",
        "reasons": dict(scored.reasons),
        "error": scored.error.as_row() if scored.error else None,
    }


@contextmanager
def row_files(folder: Path, metrics: Sequence[str]) -> Iterator[Callable[[Scored], None]]:
    """Write rows as they come; the files appear when the last was written."""
    with _files(folder, metrics) as put:
        yield lambda scored: put(row(scored))


def complete(folder: Path, metrics: Sequence[str], entries: Iterable[Entry]) -> None:
    """Write the rows again with what could only be known behind the last of them.

    Args:
        folder: Of the report.
        metrics: Columns, those of before among them.
        entries: Of every row.
    """
    known = {(entry.method, entry.id): entry for entry in entries}
    # The old file is read while the new one is still under another name.
    with (folder / ROWS).open(encoding="utf-8") as lines, _files(folder, metrics) as put:
        for line in lines:
            found = json.loads(line)
            entry = known[found["method"], found["id"]]
            new = {name: entry.values[name] for name in metrics if name in entry.values}
            put({**new, **found, "reasons": dict(entry.reasons)})


@contextmanager
def _files(folder: Path, metrics: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    columns = ["id", "method", "output", "content", "style", *metrics, "status"]
    with ExitStack() as files:
        lines = files.enter_context(replacing(folder / ROWS))
        table = files.enter_context(replacing(folder / ROWS.replace(".jsonl", ".csv")))

        def cells(values: Sequence[object]) -> bytes:
            buffer = io.StringIO(newline="")
            csv.writer(buffer, lineterminator="\n").writerow(values)
            return buffer.getvalue().encode()

        def put(found: Mapping[str, Any]) -> None:
            lines.write(to_json(found).encode() + b"\n")
            flat = {**found, "style": "|".join(found["style"])}
            table.write(cells([flat.get(column, "") for column in columns]))

        table.write(cells(columns))
        yield put


def write(folder: Path, outcome: Outcome) -> None:
    """`aggregate.json` and the tables.

    Raises:
        ItemError: The disk is full.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "metrics": {m.name: _about(m, outcome) for m in outcome.metrics},
        "methods": {
            method: {a.metric: _figures(a) for a in outcome.aggregates if a.method == method}
            for method in outcome.entries
        },
        "discrimination": {
            name: {
                "undecidable": undecidable(gaps),
                "families": {f: {**asdict(gap), "gap": gap.value} for f, gap in gaps.items()},
            }
            for name, gaps in outcome.gaps.items()
        },
        "compared": outcome.compared,
        "comparisons": [asdict(one) for one in outcome.comparisons],
        "overall": {one.name: _made_of(one) for one in outcome.overalls},
    }
    write_atomic(folder / AGGREGATE, to_json(record).encode() + b"\n")
    tables = printed.tables(outcome)
    texts = {
        "table.md": "\n".join(map(markdown, tables)),
        "table.tex": "\n".join(map(latex, tables)),
        "table.csv": "".join(
            text if index == 0 else text.partition("\n")[2]
            for index, text in enumerate(map(csv_text, tables))
        ),
    }
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())


def _about(metric: Metric, outcome: Outcome) -> dict[str, object]:
    cut = outcome.cuts.get(metric.name)
    return {
        "kind": metric.kind,
        "group": printed.group_of(metric),
        "version": metric.version,
        "better": metric.better,
        "definition": metric.definition,
        "scale": metric.scale,
        "unavailable": outcome.absent.get(metric.name),
        "truncated": asdict(cut) if cut else None,
    }


def _made_of(one: Overall) -> dict[str, object]:
    return {
        "depends_on": one.methods,
        "parts": one.parts,
        "left_out": one.left_out,
        "fixed_ranges": one.ranges or None,
        "rank_correlations": {
            metric: {other: None if math.isnan(rho) else rho for other, rho in row.items()}
            for metric, row in one.correlations.items()
        },
    }


def _figures(one: Aggregate) -> dict[str, object]:
    interval = one.interval
    found = {
        "value": one.value,
        "std": one.std,
        "n": one.n,
        "n_missing": one.n_missing,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "ci_method": interval.method,
        "rel": one.rel,
        "reason": one.reason or None,
    }
    if one.n_references is not None:
        found["n_references"] = one.n_references
    if one.is_deficient is not None:
        found["rank_deficient"] = one.is_deficient
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}
