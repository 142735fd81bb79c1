"""What an evaluation left in its folder, and which of its rows a page shows."""

from __future__ import annotations

import heapq
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylecli.engine.report.journals import mapping, number, text
from stylecli.engine.scoring.report import AGGREGATE, ROWS
from stylecli.engine.scoring.summary import is_anchor
from stylecli.errors import InputError
from stylecli.evaluation.table import METRICS

# Of each metric and method: the best, the worst, and those in the middle.
SHOWN, MIDDLE = 4, 2
# As many points as a person can still tell apart in a scatter plot.
MOST_POINTS = 1_500


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The figures of an evaluation.

    Attributes:
        methods: In the order of the tables, anchors last.
        metrics: Name -> what is said of it.
        figures: Method -> metric -> its figures.
        comparisons: Of the two in `compared`, the first minus the second.
    """

    folder: Path
    methods: Sequence[str]
    metrics: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]]
    compared: Sequence[str]
    comparisons: Sequence[Mapping[str, Any]]

    @property
    def real(self) -> list[str]:
        """Methods that are none of the copies."""
        return [method for method in self.methods if not is_anchor(method)]

    def has(self, metric: str) -> bool:
        """Whether any method has a value of it."""
        return any(number(of.get(metric, {}).get("value")) is not None for of in self._figures())

    def sign(self, metric: str) -> int:
        """1 where more is better, else -1."""
        return 1 if self.metrics[metric].get("better") == "higher" else -1

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Every row, as it was written; what is no row is passed over."""
        with (self.folder / ROWS).open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    row = mapping(json.loads(line))
                except (json.JSONDecodeError, RecursionError):
                    continue
                if text(row.get("id")) and text(row.get("method")):
                    yield row

    def _figures(self) -> Iterator[Mapping[str, Mapping[str, Any]]]:
        return iter(self.figures.values())


def is_evaluation(folder: Path) -> bool:
    """Whether `style evaluate` wrote to it."""
    return (folder / AGGREGATE).is_file() and (folder / ROWS).is_file()


def read(folder: Path) -> Evaluated:
    """The figures in a folder.

    Raises:
        InputError: They cannot be read.
    """
    try:
        record = mapping(json.loads((folder / AGGREGATE).read_text("utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{folder / AGGREGATE} cannot be read: {error}", fix="run `style evaluate` again"
        ) from error
    methods = {name: mapping(of) for name, of in mapping(record.get("methods")).items()}
    if not methods:
        raise InputError(f"{folder / AGGREGATE} names no method", fix="run `style evaluate` again")
    compared = record.get("compared")
    compared = [str(one) for one in compared] if isinstance(compared, list) else []
    comparisons = record.get("comparisons")
    metrics = {name: mapping(about) for name, about in mapping(record.get("metrics")).items()}
    order = {name: at for at, name in enumerate(METRICS)}
    return Evaluated(
        folder=folder,
        # A file has its keys by the alphabet.
        methods=sorted(methods, key=lambda name: (is_anchor(name), name not in compared)),
        metrics=dict(sorted(metrics.items(), key=lambda one: order.get(one[0], len(order)))),
        figures={
            name: {metric: mapping(one) for metric, one in of.items()}
            for name, of in methods.items()
        },
        compared=compared,
        comparisons=[mapping(one) for one in comparisons] if isinstance(comparisons, list) else [],
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """The numbers of all rows of the methods, by metric.

    Attributes:
        ids: Each item once.
        values: Metric -> method -> a number for every id; NaN where there is none.
    """

    ids: Sequence[str]
    values: Mapping[str, Mapping[str, Sequence[float]]]


def columns(one: Evaluated) -> Columns:
    """The numbers that rows have, as columns: a hundred thousand rows are read one at a time."""
    metrics = [name for name, about in one.metrics.items() if about.get("kind") in ("row", "pool")]
    index: dict[str, int] = {}
    found: dict[str, dict[str, array[float]]] = {
        metric: {method: array("d") for method in one.real} for metric in metrics
    }
    for row in one.rows():
        if (method := text(row.get("method"))) not in one.real:
            continue
        at = index.setdefault(text(row["id"]), len(index))
        for metric in metrics:
            if (value := number(row.get(metric))) is not None:
                column = found[metric][method]
                column.extend([math.nan] * (at + 1 - len(column)))
                column[at] = value
    for by_method in found.values():
        for column in by_method.values():
            column.extend([math.nan] * (len(index) - len(column)))
    return Columns(list(index), {name: of for name, of in found.items() if _any(of)})


@dataclass(slots=True)
class Picks:
    """Which items a page shows, by their place in `Columns.ids`.

    Attributes:
        of_methods: Metric -> method -> ``best``, ``middle`` and ``worst``.
        of_pairs: Metric -> those on which the first of the compared is ahead by most, and the
            second.
    """

    of_methods: dict[str, dict[str, dict[str, list[int]]]] = field(default_factory=dict)
    of_pairs: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def items(self) -> list[int]:
        """All of them, each once."""
        lists = [some for by in self.of_pairs.values() for some in by.values()]
        for of in self.of_methods.values():
            lists += [some for by in of.values() for some in by.values()]
        return sorted({at for some in lists for at in some})


def picks(one: Evaluated, table: Columns) -> Picks:
    """The best, the middle and the worst of every method, and where two methods differ most."""
    found = Picks()
    for metric, by_method in table.values.items():
        sign = one.sign(metric)
        for method, column in by_method.items():
            scored = [(sign * value, at) for at, value in enumerate(column) if value == value]
            if not scored:
                continue
            ordered = [at for _, at in sorted(scored)]
            # Of few items none is both.
            ends = min(SHOWN, max(1, len(ordered) // 2))
            between = ordered[ends : len(ordered) - ends]
            start = max(0, (len(between) - MIDDLE) // 2)
            found.of_methods.setdefault(metric, {})[method] = {
                "best": ordered[::-1][:ends],
                "middle": between[start : start + MIDDLE],
                "worst": ordered[:ends] if len(ordered) > 1 else [],
            }
        if len(one.compared) == 2 and all(method in by_method for method in one.compared):
            first, second = (by_method[method] for method in one.compared)
            ahead = [
                (sign * (a - b), at)
                for at, (a, b) in enumerate(zip(first, second, strict=True))
                if a == a and b == b
            ]
            found.of_pairs[metric] = {
                "first": [at for gain, at in heapq.nlargest(SHOWN, ahead) if gain > 0],
                "second": [at for gain, at in heapq.nsmallest(SHOWN, ahead) if gain < 0],
            }
    return found


def points(table: Columns) -> list[int]:
    """Items of a scatter plot: all, or as many as can be told apart, evenly taken."""
    step = max(1, math.ceil(len(table.ids) / MOST_POINTS))
    return list(range(0, len(table.ids), step))


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of the page.

    Attributes:
        outputs: Method -> file name and digest.
        reasons: Method -> metric -> why it has no number.
    """

    id: str
    content: tuple[str, str] | None
    styles: Sequence[tuple[str, str]]
    outputs: Mapping[str, tuple[str, str]]
    reasons: Mapping[str, Mapping[str, str]]


def shown(one: Evaluated, ids: Sequence[str]) -> dict[str, Shown]:
    """What is known of some items, by id."""
    wanted = set(ids)
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in one.rows():
        if row["id"] in wanted and not is_anchor(text(row["method"])):
            rows[row["id"]].append(row)
    found = {}
    for id_, of_item in rows.items():
        first = of_item[0]
        names, digests = first.get("style"), first.get("style_hash")
        styles = zip(names, digests, strict=False) if names and digests else ()
        found[id_] = Shown(
            id_,
            _file(first.get("content"), first.get("content_hash")),
            [file for name, digest in styles if (file := _file(name, digest))],
            {
                text(row["method"]): file
                for row in of_item
                if (file := _file(row.get("output"), row.get("output_hash")))
            },
            {text(row["method"]): mapping(row.get("reasons")) for row in of_item},
        )
    return found


def _file(name: object, digest: object) -> tuple[str, str] | None:
    return (text(name), text(digest)) if text(name) and text(digest) else None


def _any(by_method: Mapping[str, Sequence[float]]) -> bool:
    return any(value == value for column in by_method.values() for value in column)
