"""What a tally prints and leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stylecli.artifacts.files import to_json, write_atomic
from stylecli.artifacts.tables import Cell, Column, Row, Table, csv_text, json_rows, latex, markdown
from stylecli.engine.study.counting import Count, Share

SCHEMA_VERSION = 1
SIGNIFICANT = 0.05
LEAST_P = 0.0001


def tables(count: Count) -> list[Table]:
    """As papers print it, then what is behind it, then who voted."""
    found = [_main(count), _details(count), _agreement(count), _raters(count)]
    return [*found[:2], _strengths(count), *found[2:]] if count.strengths else found


def write(folder: Path, count: Count) -> None:
    """`table.md`, `.tex`, `.csv` and `.json`.

    Raises:
        ItemError: They cannot be written.
    """
    every = tables(count)
    write_atomic(folder / "table.md", "\n".join(map(markdown, every)).encode())
    write_atomic(folder / "table.tex", "\n".join(map(latex, every)).encode())
    lines = "".join(
        text if at == 0 else text.partition("\n")[2] for at, text in enumerate(map(csv_text, every))
    )
    write_atomic(folder / "table.csv", lines.encode())
    write_atomic(folder / "table.json", to_json(record(count, every)).encode() + b"\n")


def record(count: Count, every: Sequence[Table]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "schema_version": SCHEMA_VERSION,
        "study": count.key.study,
        "ours": count.key.ours,
        "files": count.ballots.files,
        "repeated": count.ballots.repeated,
        "contradicted": count.ballots.contradicted,
        "left_out": count.left_out,
        "shares": [
            asdict(share) | {"question": share.question.key, "share": share.share}
            for share in count.shares
        ],
        "strengths": count.strengths,
        "agreement": [
            asdict(one) | {"question": one.question.key, "side_p": one.side_p}
            for one in count.agreements
        ],
        "raters": [asdict(rater) | {"side_p": rater.side_p} for rater in count.raters],
        "tables": [{"table": table.title, "cells": json_rows(table)} for table in every],
    }


def _main(count: Count) -> Table:
    key = count.key
    shares = {(s.question.key, s.method): s for s in count.shares if s.rival == key.ours}
    baselines = list(dict.fromkeys(method for _, method in shares))
    notes = [f"below 50, {key.ours} was chosen more often"]
    if left := sum(share.ties for share in shares.values()):
        notes.append(f"{left} answers saw no difference and are in no share")
    if count.left_out:
        notes.append(f"left out: {', '.join(count.left_out)}")
    return Table(
        title=f"Votes for each baseline against {key.ours}, %",
        columns=tuple(Column(name, digits=1) for name in baselines),
        rows=tuple(
            Row(q.short, "method", tuple(_percent(shares[q.key, name]) for name in baselines))
            for q in key.questions
        ),
        footnotes=tuple(notes),
        plus_minus="half-width of the 95 % interval over raters and results (crossed bootstrap)",
        dagger="differs from 50 % (exact binomial, p < 0.05 after Holm)",
        corner="question",
    )


def _percent(share: Share) -> Cell:
    interval = share.crossed
    return Cell(
        100 * share.share,
        100 * interval.half_width,
        share.n,
        is_significant=share.p_holm < SIGNIFICANT,
        low=100 * interval.low,
        high=100 * interval.high,
    )


def _details(count: Count) -> Table:
    columns = (
        *(Column(name, digits=0) for name in ("votes for", "of", "ties")),
        *(Column(name, digits=1) for name in ("share %", "Wilson low", "high")),
        *(Column(name, digits=1) for name in ("crossed low", "crossed high")),
        *(Column(name, digits=4) for name in ("p", "p Holm")),
    )
    rows = []
    for one in count.shares:
        limits = (*one.wilson, one.crossed.low, one.crossed.high)
        values = [one.chosen, one.n, one.ties, *(100 * v for v in (one.share, *limits))]
        label = f"{one.question.short}: {one.method} against {one.rival}"
        rows.append(Row(label, "method", (*map(Cell, values), _p(one.p), _p(one.p_holm))))
    return Table(
        "Every pair",
        columns,
        tuple(rows),
        footnotes=(
            "Wilson and p take votes for independent; the crossed interval does not",
            f"p Holm: for all {len(rows)} tests",
        ),
        corner="question",
    )


def _p(p: float) -> Cell:
    """No p is 0, however it is rounded."""
    return Cell(p, text=f"< {LEAST_P}" if p < LEAST_P else None)


def _strengths(count: Count) -> Table:
    return Table(
        "Strength among all methods (Bradley-Terry)",
        tuple(Column(q.short, "up") for q in count.key.questions),
        tuple(
            Row(
                method,
                "method",
                tuple(Cell(count.strengths[q.key][method]) for q in count.key.questions),
            )
            for method in count.key.methods
        ),
        footnotes=(
            "of strengths a and b, the first is chosen in a / (a + b) of votes; they sum to 1",
            "missing where the votes do not settle them: someone won, or lost, every vote",
        ),
    )


def _agreement(count: Count) -> Table:
    names = (
        ("items", "raters"),
        ("Fleiss' kappa", "Krippendorff's alpha"),
        ("A chosen %",),
        ("side p",),
    )
    digits = (0, 3, 1, 4)
    return Table(
        "Agreement, and sides",
        tuple(Column(n, digits=d) for group, d in zip(names, digits, strict=True) for n in group),
        tuple(
            Row(
                one.question.short,
                "method",
                (
                    *(Cell(one.items), Cell(one.raters)),
                    *(Cell(one.fleiss), Cell(one.krippendorff)),
                    Cell(100 * one.lefts / one.sided if one.sided else None),
                    _p(one.side_p),
                ),
            )
            for one in count.agreements
        ),
        footnotes=("kappa needs equally many raters for every item, alpha does not",),
        corner="question",
    )


def _raters(count: Count) -> Table:
    columns = ("votes", 0), ("of", 0), ("checks failed", 0), ("of checks", 0), ("median s", 1)
    gone = set(count.left_out)
    rows = []
    for one in count.raters:
        said = [*one.faults]
        if again := count.ballots.contradicted.get(one.name):
            said.append(f"{again} answers came twice and differed; the first counts")
        verdict = ("left out" if one.name in gone else "counted") + ": " * bool(said)
        cells = (
            *(Cell(v) for v in (one.votes, one.expected, one.failed, one.checks, one.median_s)),
            Cell(100 * one.lefts / one.sided if one.sided else None),
            Cell(text=verdict + ", ".join(said)),
        )
        rows.append(Row(one.name, "method", cells))
    return Table(
        "Raters",
        (
            *(Column(name, digits=digits) for name, digits in columns),
            *(Column("A chosen %", digits=1), Column("counted?")),
        ),
        tuple(rows),
        footnotes=(
            f"{count.ballots.files} files; {count.ballots.repeated} answers came more than once "
            "and count once",
        ),
        corner="rater",
    )
