"""From the numbers of rows to numbers of methods: means with intervals, sets, differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stylecli.artifacts.baselines import Baseline
from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring import sets
from stylecli.engine.scoring.entries import (
    ABSENT,
    Codes,
    Entry,
    Words,
    in_columns,
    in_order,
    shared_of,
)
from stylecli.engine.scoring.pictures import ANCHORS
from stylecli.engine.scoring.sets import SetScore
from stylecli.engine.scoring.texts import Cut
from stylecli.evaluation import comparison, statistics
from stylecli.evaluation.comparison import Comparison
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.neighbours import Gap
from stylecli.evaluation.normalising import Overall
from stylecli.evaluation.statistics import Interval
from stylecli.recipe.scoring import Evaluate

COPIES = ("content_copy", "style_copy")
# Questions whose answer should be no, and how often they may be yes, together.
MISLEADING = ("vlm_q3", "vlm_q4")
MOST_MISLED = 0.2
# Copies that score the same span no scale.
NO_SPAN = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """One metric of one method.

    Attributes:
        std: Over rows, with n - 1; None for sets.
        rel: 0 where leaving the content alone would be, 1 where copying the style would.
        reason: Why there is no value.
        is_of_one: One content in one style: nothing is known of others.
        without: For set metrics: the value with each group left out.
    """

    method: str
    metric: str
    interval: Interval
    std: float | None = None
    n: int = 0
    n_missing: int = 0
    n_references: int | None = None
    is_deficient: bool | None = None
    rel: float | None = None
    reason: str = ""
    is_of_one: bool = False
    without: Mapping[int, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return self.interval.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything an evaluation found.

    Attributes:
        entries: Rows by method, anchors last.
        absent: Metric -> why nothing could be computed.
        comparisons: Of the two methods in `compared`.
        overalls: What the means over metrics were made of.
        cuts: Metric -> texts that were too long for its network.
        gaps: Metric -> family of references -> whether it can be told from the others.
    """

    metrics: Sequence[Metric]
    entries: Mapping[str, Sequence[Entry]]
    aggregates: Sequence[Aggregate]
    absent: Mapping[str, str]
    compared: tuple[str, str] | None
    comparisons: Sequence[Comparison]
    baseline: Baseline | None
    overalls: Sequence[Overall] = ()
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    gaps: Mapping[str, Mapping[str, Gap]] = field(default_factory=dict)


NOTHING = Interval(math.nan, math.nan, math.nan, math.nan, "none")


def of_rows(
    metric: Metric, method: str, entries: Sequence[Entry], *, seed: int, resamples: int
) -> Aggregate:
    """The mean of a row metric with its clustered interval."""
    rows = in_columns(entries)
    column = rows.column(metric.name)
    having = ~np.isnan(column)
    values = column[having]
    missing = len(rows) - len(values)
    if not len(values):
        # The most frequent of them: usually all are one.
        said = rows.why_not(metric.name)
        reason = said.most_common(1)[0][0] if said else "no items"
        return Aggregate(
            method=method, metric=metric.name, interval=NOTHING, n_missing=missing, reason=reason
        )
    contents = in_order(rows.contents[having], rows.shared.contents)
    styles = in_order(rows.styles[having], rows.shared.styles)
    interval = (
        statistics.rate_interval(values)
        if metric.is_rate
        else statistics.mean_interval(values, contents, styles, seed=seed, resamples=resamples)
    )
    return Aggregate(
        method=method,
        metric=metric.name,
        interval=interval,
        std=statistics.std(values) if len(values) > 1 else None,
        is_of_one=not contents.any() and not styles.any(),
        n=len(values),
        n_missing=missing,
    )


def of_set(metric: Metric, method: str, score: SetScore) -> Aggregate:
    """A set metric with its jackknife interval; never a bootstrap, which biases it."""
    return Aggregate(
        method=method,
        metric=metric.name,
        interval=statistics.jackknife_interval(score.value, list(score.without.values())),
        n=score.n_outputs,
        n_references=score.n_references,
        is_deficient=score.is_deficient,
        reason=score.reason,
        without=score.without,
    )


def with_rel(
    metrics: Sequence[Metric],
    aggregates: Sequence[Aggregate],
    entries: Mapping[str, Sequence[Entry]],
) -> list[Aggregate]:
    """How far from content copy to style copy a method is, on the items it has values for.

    Not for sets: their copies are of other numbers.
    """
    shared = shared_of(*entries.values())
    columns = {method: in_columns(rows, shared) for method, rows in entries.items()}
    kinds = {metric.name: metric.kind for metric in metrics}
    found = []
    for one in aggregates:
        if kinds[one.metric] not in ("row", "pool"):
            found.append(one)
            continue
        own = columns[one.method]
        ids = own.ids[~np.isnan(own.column(one.metric))]
        means = []
        for copy in COPIES:
            by_id = np.full(len(shared.ids), math.nan)
            if copy in columns:
                by_id[columns[copy].ids] = columns[copy].column(one.metric)
            means.append(_mean(by_id[ids].tolist()))
        content, style = means
        span = style - content
        is_defined = abs(span) > NO_SPAN
        found.append(replace(one, rel=(one.value - content) / span) if is_defined else one)
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def detectors(metrics: Sequence[Metric], aggregates: Sequence[Aggregate]) -> list[str]:
    """Names of metrics on which copying the style beats every method: style, not quality."""
    found = []
    for metric in metrics:
        sign = 1 if metric.better == "higher" else -1
        values = {a.method: sign * a.value for a in aggregates if a.metric == metric.name}
        copied = values.get("style_copy", math.nan)
        real = [
            value
            for a in aggregates
            if a.metric == metric.name
            and not is_anchor(a.method)
            and not math.isnan(value := sign * a.value)
        ]
        if "style" in metric.columns and real and copied > max(real):
            found.append(metric.name)
    return found


def misled(aggregates: Sequence[Aggregate]) -> dict[str, float]:
    """Methods whose outputs a judge sees a style in that nobody asked for, and how often.

    Its two answers about the other style, summed; above a fifth it cannot be believed about the
    style that was wanted.
    """
    found = {}
    for method in dict.fromkeys(a.method for a in aggregates if not is_anchor(a.method)):
        own = [a.value for a in aggregates if a.method == method and a.metric in MISLEADING]
        if len(own) == len(MISLEADING) and sum(own) > MOST_MISLED:
            found[method] = sum(own)
    return found


def undecidable(gaps: Mapping[str, Gap]) -> list[str]:
    """Families whose references are no nearer to one another than to some other family's."""
    return [family for family, gap in gaps.items() if gap.value <= 0]


def is_anchor(method: str) -> bool:
    return method in ANCHORS


def difference_of_rows(
    metric: Metric, first: Sequence[Entry], second: Sequence[Entry], settings: Evaluate
) -> Comparison | None:
    """The first method minus the second, paired by item; None where one has no numbers.

    Raises:
        UsageError: They share too few items.
    """
    # A row that failed is a pair without a difference, not an item that is not shared.
    shared = shared_of(first, second)
    pair = [in_columns(of, shared) for of in (first, second)]
    ours, theirs = (
        dict(zip(_named(of.ids, shared.ids), of.column(metric.name).tolist(), strict=True))
        for of in pair
    )
    if all(map(math.isnan, ours.values())) or all(map(math.isnan, theirs.values())):
        return None
    contents, styles = (
        {
            id_: key
            for of in pair
            for id_, key in zip(
                _named(of.ids, shared.ids), _named(getattr(of, keys), words), strict=True
            )
        }
        for keys, words in (("contents", shared.contents), ("styles", shared.styles))
    )
    return comparison.compare(
        ours,
        theirs,
        contents,
        styles,
        metric=metric.name,
        better=metric.better,
        is_rate=metric.is_rate,
        seed=settings.seed,
        resamples=settings.resamples,
        allow_partial=settings.allow_partial,
    )


def difference_of_sets(
    metric: Metric,
    first: Sequence[Entry],
    second: Sequence[Entry],
    groups: Mapping[str, int],
    store: FeatureStore,
) -> Comparison | None:
    """The same for a number of whole sets, made anew of the items that count for both."""
    shared = shared_of(first, second)
    pair = [in_columns(of, shared) for of in (first, second)]
    having = [of.ids[of.outputs(metric.name) != ABSENT] for of in pair]
    ids = np.intersect1d(*having)
    one, other = (sets.score(metric, of.where(np.isin(of.ids, ids)), groups, store) for of in pair)
    if math.isnan(one.value) or math.isnan(other.value):
        return None
    return comparison.compare_sets(
        one.value,
        other.value,
        [one.without[g] - other.without[g] for g in one.without if g in other.without],
        metric=metric.name,
        n=one.n_outputs,
    )


def _named(codes: Codes, words: Words[str]) -> list[str]:
    return [words[code] for code in codes.tolist()]
