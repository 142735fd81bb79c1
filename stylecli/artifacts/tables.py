"""Tables of scores for people (Markdown, LaTeX) and for programs (CSV, JSON).

A table is plain data, made elsewhere; here it is only printed. Markdown and LaTeX round to each
column's digits and rank what they print; CSV and JSON hold every digit, one line for each row and
column.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Kind = Literal["method", "anchor", "published"]
Rank = Literal["best", "second", ""]

MISSING, DAGGER = "—", "†"
ARROWS = {"up": "↑", "down": "↓", "": ""}
FIELDS = (
    *("label", "kind", "metric", "direction"),
    *("value", "half_width", "low", "high", "n", "is_significant", "text"),
)

# What pdflatex cannot take as it is.
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "λ": r"$\lambda$",
    "²": r"$^2$",
    MISSING: "---",
    DAGGER: r"$^\dagger$",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One score.

    Attributes:
        value: None or NaN is missing.
        half_width: Of the interval, or whatever `Table.plus_minus` says.
        low: Limits for CSV and JSON, where the interval is known in full.
        text: Printed in place of the number; the cell is then in no ranking.
    """

    value: float | None = None
    half_width: float | None = None
    n: int | None = None
    is_significant: bool = False
    text: str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One metric.

    Attributes:
        arrow: Where better lies; without one nothing is ranked.
        digits: After the point.
        note: Printed below the table.
    """

    name: str
    arrow: Literal["up", "down", ""] = ""
    digits: int = 3
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One method, one anchor, or what a paper printed; only methods are ranked."""

    label: str
    kind: Kind
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Scores of several rows in the order of printing.

    Attributes:
        plus_minus: What stands after ±; printed below the table where there is one.
        dagger: What † says of a cell; the same.
        corner: What the first column lists.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()
    plus_minus: str = "half-width of the 95 % interval"
    dagger: str = "differs significantly from the baseline (Holm)"
    corner: str = "method"

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"{row.label}: {len(row.cells)} cells in {len(self.columns)} columns"
                )


@dataclass(frozen=True, slots=True)
class _Markup:
    """How one format writes plain text, and what it puts around a rank or a kind of row."""

    escape: Callable[[str], str]
    around: Mapping[Rank | Kind, str]


def markdown(table: Table) -> str:
    """A GitHub table, its columns aligned also for those who read the source.

    Underlining needs HTML tags; there is no grey, so published rows say "reported".
    """
    lines = _lines(table, _MARKDOWN)
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]

    def joined(cells: Sequence[str]) -> str:
        first, *others = cells
        padded = [c.rjust(width) for c, width in zip(others, widths[1:], strict=True)]
        return f"| {' | '.join([first.ljust(widths[0]), *padded])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    heading = [f"### {_MARKDOWN.escape(table.title)}", ""] if table.title else []
    body = [joined(lines[0]), joined(rule), *map(joined, lines[1:])]
    notes = [f"- {_MARKDOWN.escape(note)}" for note in _notes(table)]
    return "\n".join([*heading, *body, *([""] if notes else []), *notes]) + "\n"


def latex(table: Table) -> str:
    r"""A `table` environment for a preamble with `\usepackage{booktabs,xcolor}`."""
    head, *body = [f"    {' & '.join(line)} \\\\" for line in _lines(table, _LATEX_MARKUP)]
    ruled = body[:1]
    for (before, row), line in zip(pairwise(table.rows), body[1:], strict=True):
        ruled += ([r"    \midrule"] if before.kind != row.kind else []) + [line]
    notes = [rf"  \par\footnotesize {_LATEX_MARKUP.escape(note)}" for note in _notes(table)]
    alignment = "l" + "r" * (len(table.columns) + _has_n(table))
    return "\n".join(
        [
            "% needs booktabs and xcolor",
            r"\begin{table}",
            r"  \centering",
            *([rf"  \caption{{{_LATEX_MARKUP.escape(table.title)}}}"] if table.title else []),
            rf"  \begin{{tabular}}{{{alignment}}}",
            r"    \toprule",
            head,
            r"    \midrule",
            *ruled,
            r"    \bottomrule",
            r"  \end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def json_rows(table: Table) -> list[dict[str, Any]]:
    """One record for each row and column, with the keys of `FIELDS`; what is missing is None."""
    return [
        {
            "label": row.label,
            "kind": row.kind,
            "metric": column.name,
            "direction": column.arrow,
            "value": _known(cell.value),
            "half_width": _known(cell.half_width),
            "low": _known(cell.low),
            "high": _known(cell.high),
            "n": cell.n,
            "is_significant": cell.is_significant,
            "text": cell.text,
        }
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
    ]


def csv_text(table: Table) -> str:
    """The records of `json_rows`; what is missing is an empty field."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in json_rows(table):
        writer.writerow({**record, "is_significant": str(record["is_significant"]).lower()})
    return buffer.getvalue()


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _lines(table: Table, markup: _Markup) -> list[list[str]]:
    """The cells of the head and of every row, marked up."""
    heads = [table.corner, *(f"{c.name} {ARROWS[c.arrow]}".rstrip() for c in table.columns)]
    lines = [[markup.escape(head) for head in heads] + ["n"] * _has_n(table)]
    ranks = _ranks(table)
    for row, row_ranks in zip(table.rows, ranks, strict=True):
        label = row.label + (" (reported)" if row.kind == "published" else "")
        cells = [
            _cell(cell, column, rank, markup)
            for cell, column, rank in zip(row.cells, table.columns, row_ranks, strict=True)
        ]
        counts = [markup.escape(_counts(row))] if _has_n(table) else []
        texts = (markup.escape(label), *cells, *counts)
        lines.append([markup.around[row.kind].format(text) for text in texts])
    return lines


def _cell(cell: Cell, column: Column, rank: Rank, markup: _Markup) -> str:
    number = _printed(cell, column)
    if number is None:
        return markup.escape(MISSING if cell.text is None else cell.text)
    marked = markup.around[rank].format(markup.escape(number))
    if _known(cell.half_width) is not None:
        marked += " " + markup.escape(f"± {cell.half_width:.{column.digits}f}")
    return marked + markup.escape(DAGGER * cell.is_significant)


def _printed(cell: Cell, column: Column) -> str | None:
    """The number as it is printed; None for what is missing or has a text of its own."""
    if cell.text is not None or cell.value is None or math.isnan(cell.value):
        return None
    # `z`: what rounds to zero has no sign.
    return f"{cell.value:z.{column.digits}f}".replace("inf", "∞")


def _ranks(table: Table) -> list[list[Rank]]:
    """Best and second among the methods of each column, equal where the print is equal."""
    ranks: list[list[Rank]] = [["" for _ in table.columns] for _ in table.rows]
    for index, column in enumerate(table.columns):
        numbers = {
            at: float(text.replace("∞", "inf"))
            for at, row in enumerate(table.rows)
            if row.kind == "method" and (text := _printed(row.cells[index], column)) is not None
        }
        if len(numbers) < 2 or not column.arrow:
            continue
        order = sorted(set(numbers.values()), reverse=column.arrow == "up")
        places: dict[float, Rank] = dict(zip(order, ("best", "second"), strict=False))
        for at, number in numbers.items():
            ranks[at][index] = places.get(number, "")
    return ranks


def _has_n(table: Table) -> bool:
    return any(cell.n is not None for row in table.rows for cell in row.cells)


def _counts(row: Row) -> str:
    counts = sorted({cell.n for cell in row.cells if cell.n is not None})
    if not counts:
        return MISSING
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _notes(table: Table) -> list[str]:
    numbers = [
        cell
        for row in table.rows
        for cell, column in zip(row.cells, table.columns, strict=True)
        if _printed(cell, column) is not None
    ]
    kinds = {row.kind for row in table.rows}
    told = {
        f"± {table.plus_minus}": any(_known(cell.half_width) is not None for cell in numbers),
        f"{DAGGER} {table.dagger}": any(cell.is_significant for cell in numbers),
        "italics: not a method, but what copying or blending reaches": "anchor" in kinds,
        "reported: printed by its paper, on other inputs": "published" in kinds,
    }
    return [
        *(note for note, applies in told.items() if applies),
        *(f"{column.name}: {column.note}" for column in table.columns if column.note),
        *table.footnotes,
    ]


def _markdown_escape(text: str) -> str:
    # An ampersand is itself, unless what follows would make it an entity.
    escaped = re.sub(r"([\\`*\[\]<>|~]|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))
    # Within a word an underscore is one; elsewhere it would begin or end emphasis.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)


def _latex_escape(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    # Before a digit a hyphen is a minus.
    return re.sub(r"(?<!\S)-(?=[\d$])", "$-$", escaped)


_MARKDOWN = _Markup(
    _markdown_escape,
    {
        "best": "**{}**",
        "second": "<u>{}</u>",
        "": "{}",
        "method": "{}",
        "anchor": "*{}*",
        "published": "{}",
    },
)
_LATEX_MARKUP = _Markup(
    _latex_escape,
    {
        "best": r"\textbf{{{}}}",
        "second": r"\underline{{{}}}",
        "": "{}",
        "method": "{}",
        "anchor": r"\textit{{{}}}",
        "published": r"\textcolor{{gray}}{{{}}}",
    },
)
