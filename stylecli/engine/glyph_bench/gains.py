"""How much of the way to the true drawing a method goes, and the pictures to see it by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from stylecli.artifacts.files import replacing
from stylecli.engine.scoring.entries import Entry
from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.pictures import ANCHORS
from stylecli.evaluation import statistics
from stylecli.evaluation.statistics import Interval
from stylecli.evaluation.table import METRICS

# Distances to a target below this are none: nothing is left to close.
NO_DISTANCE = 1e-6
HEADINGS = ("content", "style", "result", "true drawing")
CELL, MARGIN, HEAD = 96, 6, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """One method by one distance d to the target T.

    Attributes:
        closed: 1 - mean d(O, T) / mean d(C, T): the share of all the way there was to go.
        over_content: Mean of 1 - d(O, T) / d(C, T): 1 is the target, 0 the content left alone.
        over_style: The same against the style picture, the first where there are several.
        over_both: The same against the nearer of the two.
        wins: Share of items nearer than content, and nearer than the content in the style's
            colours.
        excluded: Items whose content or style already is the target.
    """

    method: str
    metric: str
    n: int
    closed: Interval
    over_content: Interval
    over_style: Interval
    over_both: Interval
    wins: Interval
    excluded: int


def distance(metric: str, value: float) -> float:
    """A target metric as something that is 0 at the target.

    >>> distance("t_ssim", 0.75), distance("t_palette", 3.0)
    (0.25, 3.0)
    """
    return 1 - value if METRICS[metric].better == "higher" else value


def measure(
    entries: Mapping[str, Sequence[Entry]], metric: str, *, seed: int, resamples: int
) -> list[Gain]:
    """The gain of every method but the content copy, which is 0 by definition."""
    table = {method: _distances(rows, metric) for method, rows in entries.items()}
    found = []
    for method, rows in entries.items():
        if method == "content_copy" or not table[method]:
            continue
        kept, ratios, wins = [], [], []
        excluded = 0
        for entry in rows:
            of = {name: table.get(name, {}).get(entry.id, math.nan) for name in (*ANCHORS, method)}
            content, style, own = of["content_copy"], of["style_copy"], of[method]
            if math.isnan(content + style + own):
                continue
            if min(content, style) < NO_DISTANCE:
                excluded += 1
                continue
            kept.append(entry)
            ratios.append((own / content, own / style, own / min(content, style)))
            wins.append(float(own < content and not own >= of["palette_transfer"]))
        if not kept:
            continue
        contents, styles = [e.content for e in kept], [e.style for e in kept]

        def interval(
            values: Sequence[float],
            contents: Sequence[str] = contents,
            styles: Sequence[str] = styles,
        ) -> Interval:
            return statistics.mean_interval(
                values, contents, styles, seed=seed, resamples=resamples
            )

        by_reference = [[1 - ratio for ratio in column] for column in zip(*ratios, strict=True)]
        own_distances = [table[method][e.id] for e in kept]
        content_distances = [table["content_copy"][e.id] for e in kept]
        found.append(
            Gain(
                method=method,
                metric=metric,
                n=len(kept),
                closed=interval(_linearised(own_distances, content_distances)),
                over_content=interval(by_reference[0]),
                over_style=interval(by_reference[1]),
                over_both=interval(by_reference[2]),
                wins=interval(wins),
                excluded=excluded,
            )
        )
    return found


def _distances(rows: Sequence[Entry], metric: str) -> dict[str, float]:
    return {e.id: distance(metric, e.values[metric]) for e in rows if metric in e.values}


def _linearised(own: Sequence[float], content: Sequence[float]) -> list[float]:
    """Numbers whose mean is 1 - sum(own) / sum(content), and whose spread is that ratio's.

    A ratio of means has no rows to draw anew; to first order these are its rows.
    """
    total = math.fsum(content)
    ratio, mean = math.fsum(own) / total, total / len(content)
    return [1 - ratio + (ratio * c - o) / mean for o, c in zip(own, content, strict=True)]


def ranked(entries: Mapping[str, Sequence[Entry]], method: str, metric: str) -> list[str]:
    """Ids by gain over the content copy, the best first."""
    own, copied = (_distances(entries[name], metric) for name in (method, "content_copy"))
    gains = {
        id_: 1 - value / copied[id_]
        for id_, value in own.items()
        if copied.get(id_, 0) > NO_DISTANCE
    }
    return sorted(gains, key=lambda id_: (-gains[id_], id_))


def sheet(path: Path, items: Mapping[str, Item], ids: Sequence[str]) -> None:
    """Best and worst side by side: content, style, result, true drawing; half of the rows each.

    Raises:
        ItemError: It cannot be written.
    """
    half = min(6, (len(ids) + 1) // 2)
    best, worst = ids[:half], ids[::-1][:half]
    width = len(HEADINGS) * CELL
    page = Image.new("RGB", (2 * width + 3 * MARGIN, half * (CELL + MARGIN) + 2 * HEAD), "white")
    pen = ImageDraw.Draw(page)
    for side, (title, chosen) in enumerate((("best", best), ("worst", worst))):
        left = MARGIN + side * (width + MARGIN)
        pen.text((left, 2), f"{title}, by distance closed", fill="black")
        for column, heading in enumerate(HEADINGS):
            pen.text((left + column * CELL, HEAD), heading, fill="grey")
        for row, id_ in enumerate(chosen):
            item = items[id_]
            files = (item.content, item.style[0], item.output, item.target)
            for column, file in enumerate(files):
                if file is not None:
                    with Image.open(file) as picture:
                        cell = picture.convert("RGB").resize((CELL - 4, CELL - 4))
                    place = (left + column * CELL, 2 * HEAD + row * (CELL + MARGIN))
                    page.paste(cell, place)
    with replacing(path) as stream:
        page.save(stream, "PNG")
