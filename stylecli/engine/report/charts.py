"""Where the dots and lines of a chart lie, in its own units; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stylecli.engine.report.journals import number
from stylecli.engine.report.words import figure

# Of a chart of intervals: names to the left, numbers to the right.
LEFT, RIGHT, ROW = 128.0, 292.0, 24.0
# Empty on either side, so that no dot is cut.
MARGIN = 0.06
NAME_LETTERS = 18
# Of a chart of differences, around zero.
HALF = 100.0


@dataclass(frozen=True, slots=True)
class Line:
    """One method in a chart.

    Attributes:
        x: Of the dot; None where there is no value, and then `said` says why.
        low: Ends of the interval; None where none is known.
        is_best: It has the best value of the methods.
    """

    name: str
    short: str
    y: float
    x: float | None
    low: float | None
    high: float | None
    said: str
    is_anchor: bool
    is_best: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """One metric, its methods below each other on one scale."""

    name: str
    arrow: str
    definition: str
    height: float
    lines: Sequence[Line]
    notes: Sequence[str]


def chart(
    name: str,
    about: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    anchors: Sequence[str],
) -> Chart:
    """A metric of all methods.

    Args:
        about: What the evaluation says of the metric.
        figures: Method -> its figures, in the order of the lines.
        anchors: Which of them are copies.
    """
    ends = [
        value
        for one in figures.values()
        for key in ("value", "ci_low", "ci_high")
        if (value := number(one.get(key))) is not None
    ]
    lowest, highest = min(ends, default=0.0), max(ends, default=1.0)
    room = (highest - lowest) * MARGIN or 1.0

    def place(value: float | None) -> float | None:
        if value is None:
            return None
        share = (value - lowest + room) / (highest - lowest + 2 * room)
        return round(LEFT + share * (RIGHT - LEFT), 2)

    values = {
        method: value
        for method, one in figures.items()
        if method not in anchors and (value := number(one.get("value"))) is not None
    }
    better = max if about.get("better") == "higher" else min
    best = better(values.values()) if len(values) > 1 else None
    lines = [
        Line(
            method,
            _cut(method),
            ROW * (at + 0.5),
            place(value := number(one.get("value"))),
            place(number(one.get("ci_low"))),
            place(number(one.get("ci_high"))),
            str(one.get("reason") or "no value") if value is None else _said(one, value),
            method in anchors,
            value is not None and value == best and method not in anchors,
        )
        for at, (method, one) in enumerate(figures.items())
    ]
    notes = [f"{m}: {one['reason']}" for m, one in figures.items() if one.get("reason")]
    missing = [f"{m}: {one['n_missing']} without a value" for m, one in figures.items()
               if one.get("n_missing") and one.get("n")]  # fmt: skip
    return Chart(
        name,
        "↑" if about.get("better") == "higher" else "↓",
        str(about.get("definition") or ""),
        ROW * len(lines),
        lines,
        [*notes, *missing],
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of a comparison; to the right the first method is better.

    Attributes:
        verdict: ``better``, ``worse``, or empty where it is undecided.
    """

    name: str
    x: float
    low: float
    high: float
    said: str
    p: str
    effect: str
    wins: float | None
    verdict: str


def difference(one: Mapping[str, Any], sign: int, significant: float) -> Difference | None:
    """A comparison as the evaluation wrote it; None where it has no number.

    Args:
        sign: 1 where more is better, else -1.
        significant: Below it, p after Holm's correction decides.
    """
    interval = one.get("difference")
    found = interval if isinstance(interval, Mapping) else {}
    value, low, high = (number(found.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    ends = [value if low is None else low, value if high is None else high]
    reach = max(abs(value), *map(abs, ends)) or 1.0
    places = sorted(round(HALF * sign * end / reach, 2) for end in ends)
    p, effect = number(one.get("p_holm")), number(one.get("effect"))
    is_decided = p is not None and p < significant
    half = (ends[1] - ends[0]) / 2
    return Difference(
        str(one.get("metric")),
        round(HALF * sign * value / reach, 2),
        places[0],
        places[1],
        f"{_signed(value)}" + (f" ± {figure(half)}" if half else ""),
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "" if effect is None else f"{effect:.2f}",
        number(one.get("win_rate")),
        ("better" if sign * value > 0 else "worse") if is_decided else "",
    )


def _said(one: Mapping[str, Any], value: float) -> str:
    low, high = number(one.get("ci_low")), number(one.get("ci_high"))
    if low is None or high is None or math.isclose(low, high):
        return figure(value)
    return f"{figure(value)} ± {float(f'{(high - low) / 2:.2g}'):g}"


def _signed(value: float) -> str:
    return f"+{figure(value)}" if value > 0 else figure(value)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"
