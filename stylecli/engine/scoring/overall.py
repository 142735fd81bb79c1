"""The mean over metrics: each put on one scale by the methods of this run, or by fixed ranges.

A number that depends on who else was there: one method more, and every other method's changes. So
whatever it was made of is kept beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from stylecli.artifacts import ranges
from stylecli.engine.scoring.entries import Entry
from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.summary import NOTHING, Aggregate, is_anchor
from stylecli.evaluation import table
from stylecli.evaluation.catalogue.overall import OVERALL, OVERALL_Z
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.normalising import (
    Overall,
    Ranges,
    rank_correlation,
    to_unit,
    z_scores,
)
from stylecli.evaluation.statistics import Interval
from stylecli.recipe.scoring import Evaluate

# Two methods are 0 and 1 on every metric, whatever lies between them.
LEAST_METHODS = 3


def ranges_of(settings: Evaluate) -> Ranges:
    """The fixed ranges of the file that the settings name; mostly none.

    Raises:
        InputError: It cannot be read, or says something else.
        UsageError: It names a metric that does not exist.
    """
    if settings.overall_ref is None:
        return {}
    found = ranges.load(Path(settings.overall_ref).expanduser())
    for name in found:
        table.lookup(name)
    return found


def unfounded(metrics: Sequence[Metric], items: Sequence[Item], fixed: Ranges) -> dict[str, str]:
    """Of these means over metrics -> why there can be none; empty text if there can."""
    ids: dict[str, set[str]] = {}
    for item in items:
        ids.setdefault(item.method, set()).add(item.id)
    frozen = {method: frozenset(own) for method, own in ids.items()}
    return {
        metric.name: why_not(metric.name, frozen, fixed)
        for metric in metrics
        if metric.kind == "overall"
    }


def why_not(name: str, ids: Mapping[str, frozenset[str]], fixed: Ranges) -> str:
    """Why there can be no such mean over these methods; empty if there can.

    Args:
        name: `overall` or `overall_z`.
        ids: Method -> items; without anchors.
        fixed: Ranges with which a method stands alone.
    """
    if len(ids) < LEAST_METHODS and not (fixed and name == OVERALL):
        return f"needs {LEAST_METHODS} methods, this run has {len(ids)}"
    if len(set(ids.values())) > 1:
        sizes = ", ".join(f"{len(own)} of {method}" for method, own in ids.items())
        return f"needs the same items of every method; there are {sizes}"
    return ""


def of(
    name: str,
    metrics: Sequence[Metric],
    aggregates: Sequence[Aggregate],
    entries: Mapping[str, Sequence[Entry]],
    fixed: Ranges,
) -> Overall:
    """The mean over all metrics that measured the same items of every method.

    Args:
        name: `overall` or `overall_z`.
        metrics: All that were computed.
        aggregates: Of them.
        entries: Rows by method.
        fixed: Ranges; without them the methods give them.
    """
    methods = tuple(method for method in entries if not is_anchor(method))
    limits = fixed if name == OVERALL else {}
    values: dict[str, list[float]] = {}
    parts: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for metric in metrics:
        by_method = {a.method: a for a in aggregates if a.metric == metric.name}
        own = [by_method[method] for method in methods]
        if reason := _unfit(metric, own, entries) or _unranged(metric, limits):
            left_out[metric.name] = reason
            continue
        is_higher_better = metric.better == "higher"
        found = [one.value for one in own]
        values[metric.name] = found if is_higher_better else [-value for value in found]
        scaled = (
            z_scores(found, is_higher_better=is_higher_better)
            if name == OVERALL_Z
            else to_unit(found, is_higher_better=is_higher_better, limits=limits.get(metric.name))
        )
        parts[metric.name] = dict(zip(methods, scaled, strict=True))
    return Overall(
        name=name,
        methods=methods,
        parts=parts,
        left_out=left_out,
        ranges={metric: limits[metric] for metric in parts if metric in limits},
        correlations={
            one: {other: rank_correlation(values[one], values[other]) for other in values}
            for one in values
        }
        if len(methods) >= LEAST_METHODS
        else {},
    )


def aggregates_of(overall: Overall, entries: Mapping[str, Sequence[Entry]]) -> list[Aggregate]:
    """Its numbers as those of any metric; no interval, for its parts are not independent."""
    found = []
    for method, of_method in entries.items():
        value = overall.value(method)
        is_known = not math.isnan(value)
        reason = "" if is_known or is_anchor(method) else "no metric measured every method alike"
        found.append(
            Aggregate(
                method=method,
                metric=overall.name,
                interval=Interval(value, math.nan, math.nan, math.nan, "none")
                if is_known
                else NOTHING,
                n=len(of_method) if is_known else 0,
                reason=reason,
            )
        )
    return found


def _unfit(metric: Metric, own: Sequence[Aggregate], entries: Mapping[str, Sequence[Entry]]) -> str:
    without = [one.method for one in own if not math.isfinite(one.value)]
    if without:
        return f"no value for {', '.join(without)}"
    measured = {
        frozenset(e.id for e in entries[one.method] if metric.name in e.values) for one in own
    }
    if len(measured) > 1 or len({one.n for one in own}) > 1:
        return "measured on other items of one method than of another"
    return ""


def _unranged(metric: Metric, limits: Ranges) -> str:
    return "has no fixed range" if limits and metric.name not in limits else ""
