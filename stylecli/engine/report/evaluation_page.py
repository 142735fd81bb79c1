"""The page of an evaluation: every figure as a chart, method against method, best and worst."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.engine.report import charts, evaluated, html
from stylecli.engine.report.evaluated import Columns, Evaluated, Picks, Shown
from stylecli.engine.report.journals import number
from stylecli.engine.report.page import NAME, Written
from stylecli.engine.report.thumbnails import Thumbnails
from stylecli.engine.scoring.printed import SIGNIFICANT
from stylecli.engine.scoring.summary import is_anchor
from stylecli.errors import UsageError

File = tuple[str, str]


def among(outputs: Sequence[str]) -> Path | None:
    """The folder of an evaluation among some folders; None if there is none.

    Raises:
        UsageError: There are several.
    """
    named = dict.fromkeys(Path(name).expanduser() for name in outputs)
    found = [path for path in named if evaluated.is_evaluation(path)]
    if len(found) > 1:
        raise UsageError(
            f"{' and '.join(map(str, found))} are evaluations of their own",
            fix="evaluate the methods together: `style evaluate A B -o REPORT`",
        )
    return found[0] if found else None


def place(folder: Path, page: Path | None = None) -> Path:
    """Where the page of a report folder goes: by default, into it.

    Raises:
        UsageError: The name is taken by another file, or is not one of a page.
    """
    return html.check_place(
        folder / NAME if page is None else page / NAME if page.is_dir() else page
    )


def write(
    folder: Path, pictures: Iterable[Path], page: Path | None = None, title: str | None = None
) -> Written:
    """Write the page of what `style evaluate` left in a folder.

    The same folder and pictures give the same bytes.

    Args:
        folder: The report folder.
        pictures: Where outputs, contents and styles may be; told by name and digest.
        page: Default: `report.html` in the folder.

    Raises:
        InputError: The folder cannot be read.
        UsageError: The page's name is taken by another file, or is not one of a page.
        ItemError: It cannot be written; a page that was there is as it was.
    """
    target = place(folder, page)
    one = evaluated.read(folder)
    table = evaluated.columns(one)
    picks = evaluated.picks(one, table)
    items = evaluated.shown(one, [table.ids[at] for at in picks.items()])
    wanted = {file for item in items.values() for file in _files(item)}
    where = located(wanted, pictures)
    thumbnails = Thumbnails()
    numbers = {file: thumbnails.add(path, file[1]) for file, path in sorted(where.items())}
    counts = {method: _count(one.figures[method]) for method in one.real}
    not_found = sorted({name for name, _ in wanted - where.keys()})
    told = {
        "title": title or f"{folder.resolve().name}: {', '.join(one.real)}",
        "methods": one.real,
        "anchors": [m for m in one.methods if is_anchor(m)],
        "total": len(table.ids),
        "counts": counts,
        "groups": _groups(one),
        "metrics": [m for m in one.metrics if one.has(m)],
        "rows": _figures(one),
        "compared": one.compared,
        "differences": _differences(one),
        "least_p": max((number(c.get("least_p")) or 0.0 for c in one.comparisons), default=0.0),
        "absent": {
            name: about["unavailable"]
            for name, about in one.metrics.items()
            if about.get("unavailable")
        },
        "not_found": not_found,
        "has_items": bool(items),
        "data": html.script_data(_data(one, table, picks, items, numbers)),
        "pictures": html.script_data(list(thumbnails.inline())),
    }
    html.write(target, "evaluation", ["report.css", "evaluation.css"], told)
    return Written(target, {"done": len(table.ids)}, not_found)


def located(wanted: set[File], pictures: Iterable[Path]) -> dict[File, Path]:
    """Where files of these names and digests are, as far as they are.

    Args:
        pictures: Files, or folders with all that is below them.
    """
    digests: dict[str, set[str]] = defaultdict(set)
    for name, digest in wanted:
        digests[name].add(digest)
    found: dict[File, Path] = {}
    for path in _walked(pictures):
        for digest in digests.get(path.name, ()):
            if (path.name, digest) not in found and _digest(path) == digest:
                found[path.name, digest] = path
        if len(found) == len(wanted):
            break
    return found


def _walked(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        if place.is_dir():
            below = (p for p in sorted(place.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES)
            yield from below
        else:
            yield place


def _digest(path: Path) -> str:
    # As in the store of features, by which rows name their pictures.
    try:
        with path.open("rb") as stream:
            made = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
    except OSError:
        return ""
    return made.hexdigest()


def _files(item: Shown) -> list[File]:
    first = [item.content] if item.content else []
    return [*first, *item.styles, *item.outputs.values()]


def _count(figures: Mapping[str, Mapping[str, Any]]) -> int:
    return max((int(one.get("n") or 0) for one in figures.values()), default=0)


def _groups(one: Evaluated) -> dict[str, list[charts.Chart]]:
    """Charts by what their metrics ask, in the order of the tables."""
    anchors = [method for method in one.methods if is_anchor(method)]
    found: dict[str, list[charts.Chart]] = {}
    for name, about in one.metrics.items():
        if not one.has(name):
            continue
        figures = {method: one.figures[method].get(name, {}) for method in one.methods}
        group = str(about.get("group") or "Figures")
        found.setdefault(group, []).append(charts.chart(name, about, figures, anchors))
    return found


def _figures(one: Evaluated) -> list[tuple[str, bool, list[Mapping[str, Any]]]]:
    names = [name for name in one.metrics if one.has(name)]
    return [
        (method, is_anchor(method), [one.figures[method].get(name, {}) for name in names])
        for method in one.methods
    ]


def _differences(one: Evaluated) -> list[charts.Difference]:
    found = (
        charts.difference(each, one.sign(str(each.get("metric"))), SIGNIFICANT)
        for each in one.comparisons
        if str(each.get("metric")) in one.metrics
    )
    return [each for each in found if each is not None]


def _data(
    one: Evaluated,
    table: Columns,
    picks: Picks,
    items: Mapping[str, Shown],
    numbers: Mapping[File, int],
) -> dict[str, Any]:
    """What the script needs: the shown items with their pictures, and the points of the plot."""
    chosen = picks.items()
    dots = evaluated.points(table)
    # A point whose pictures are here can be opened.
    places = {at: index for index, at in enumerate(chosen)}

    def renumbered(some: Sequence[int]) -> list[int]:
        return [places[at] for at in some]

    return {
        "methods": one.real,
        "metrics": [
            {"name": name, "better": one.metrics[name].get("better")} for name in table.values
        ],
        "compared": list(one.compared),
        "items": [_item(items[table.ids[at]], at, table, numbers) for at in chosen],
        "picks": {
            metric: {
                method: {kind: renumbered(some) for kind, some in by.items()}
                for method, by in of.items()
            }
            for metric, of in picks.of_methods.items()
        },
        "pairs": {
            metric: {side: renumbered(some) for side, some in by.items()}
            for metric, by in picks.of_pairs.items()
        },
        "points": {
            "ids": [table.ids[at] for at in dots],
            "items": [places.get(at) for at in dots],
            "values": {
                metric: {method: _rounded(column, dots) for method, column in by.items()}
                for metric, by in table.values.items()
            },
        },
    }


def _item(item: Shown, at: int, table: Columns, numbers: Mapping[File, int]) -> dict[str, Any]:
    values = {
        method: {
            metric: _finite(by[method][at])
            for metric, by in table.values.items()
            if by[method][at] == by[method][at]
        }
        for method in item.reasons
    }
    return {
        "id": item.id,
        "content": numbers.get(item.content) if item.content else None,
        "styles": [numbers[file] for file in item.styles[:4] if file in numbers],
        "outputs": {
            method: {"name": file[0], "picture": numbers.get(file)}
            for method, file in item.outputs.items()
        },
        "values": values,
        "reasons": {method: dict(of) for method, of in item.reasons.items() if of},
    }


def _rounded(column: Sequence[float], dots: Sequence[int]) -> list[float | None]:
    return [_finite(column[at]) for at in dots]


def _finite(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
