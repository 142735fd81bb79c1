"""From rows to all that follows from them: numbers of methods, means over metrics, differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring import overall, pools, sets, summary
from stylecli.engine.scoring.entries import Entries, Entry
from stylecli.engine.scoring.pictures import ANCHORS
from stylecli.engine.scoring.summary import Aggregate
from stylecli.evaluation import statistics
from stylecli.evaluation.comparison import Comparison
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.neighbours import Gap
from stylecli.evaluation.normalising import Overall, Ranges
from stylecli.recipe.scoring import Evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What `summary.Outcome` says of the rows."""

    aggregates: Sequence[Aggregate]
    overalls: Sequence[Overall]
    comparisons: Sequence[Comparison]
    gaps: Mapping[str, Mapping[str, Gap]]


def conclude(
    metrics: Sequence[Metric],
    entries: Mapping[str, Entries],
    store: FeatureStore,
    settings: Evaluate,
    *,
    compare: tuple[str, str] | None,
    ranges: Ranges,
) -> Conclusion:
    """Conclude.

    Args:
        metrics: Those that can be computed; means over the others among them.
        entries: Rows by method, copies too.
        store: Has their features.
        compare: Two methods.
        ranges: Fixed ones for the means.

    Raises:
        UsageError: The two share too few items.
    """
    measured = [metric for metric in metrics if metric.kind != "overall"]
    groups = sets.groups_of(name for rows in entries.values() for name in rows.content_names())
    found = [
        _of_method(metric, method, rows, groups, store, settings)
        for method, rows in entries.items()
        for metric in measured
    ]
    means = [
        overall.of(metric.name, measured, found, entries, ranges)
        for metric in metrics
        if metric.kind == "overall"
    ]
    aggregates = summary.with_rel(measured, found, entries)
    aggregates += [one for mean in means for one in overall.aggregates_of(mean, entries)]
    return Conclusion(
        aggregates=aggregates,
        overalls=means,
        comparisons=_compared(measured, entries, groups, store, settings, compare),
        gaps=_gaps(measured, entries, store),
    )


def _of_method(
    metric: Metric,
    method: str,
    rows: Entries,
    groups: Mapping[str, int],
    store: FeatureStore,
    settings: Evaluate,
) -> Aggregate:
    if metric.kind == "set":
        if method in ANCHORS:
            # A copy of one picture for forty tasks is one sample, and is far from forty styles.
            own = sets.distinct(metric, rows)
            score = sets.score(metric, own, groups, store, compared_with=rows)
        else:
            score = sets.score(metric, rows, groups, store)
        return summary.of_set(metric, method, score)
    found = summary.of_rows(metric, method, rows, seed=settings.seed, resamples=settings.resamples)
    if metric.kind == "pool":
        return replace(found, n_references=pools.references(metric, rows))
    return found


def _compared(
    metrics: Sequence[Metric],
    entries: Mapping[str, Entries],
    groups: Mapping[str, int],
    store: FeatureStore,
    settings: Evaluate,
    compare: tuple[str, str] | None,
) -> list[Comparison]:
    if compare is None:
        return []
    first, second = (entries.get(method, ()) for method in compare)
    found: list[Comparison] = []
    for metric in metrics:
        difference = (
            summary.difference_of_rows(metric, first, second, settings)
            if metric.kind != "set"
            else summary.difference_of_sets(metric, first, second, groups, store)
        )
        found += [difference] if difference else []
    adjusted = statistics.holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True)]


def _gaps(
    metrics: Sequence[Metric], entries: Mapping[str, Sequence[Entry]], store: FeatureStore
) -> dict[str, Mapping[str, Gap]]:
    """Of every metric made of similarities, by the references of all methods together."""

    def every() -> Iterator[Entry]:
        return (
            entry for method, rows in entries.items() if method not in ANCHORS for entry in rows
        )

    found = {
        metric.name: pools.gaps(metric, every(), store) for metric in metrics if metric.similar
    }
    return {name: gaps for name, gaps in found.items() if gaps}
