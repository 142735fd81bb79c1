"""Figures of an evaluation laid out as tables, with what a reader must know beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stylecli.artifacts.baselines import Baseline
from stylecli.artifacts.tables import Cell, Column, Row, Table
from stylecli.engine.scoring.summary import (
    MISLEADING,
    Aggregate,
    Outcome,
    detectors,
    is_anchor,
    misled,
    undecidable,
)
from stylecli.evaluation.comparison import Comparison
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.normalising import Overall
from stylecli.evaluation.statistics import Interval

SIGNIFICANT = 0.05
# A page is no wider.
MOST_COLUMNS = 6
# Columns that a metric of words, or of the output alone, does not compare with.
PICTURES = frozenset(("content", "style", "mask", "target"))
# What names of metrics begin with that a judge answers.
JUDGED = "vlm_"
# Names in a note.
SHOWN = 5


def tables(outcome: Outcome) -> list[Table]:
    """Metrics by what they ask, then the comparison; what could not be computed is in the notes."""
    groups: dict[str, list[Metric]] = {}
    for metric in outcome.metrics:
        if metric.name not in outcome.absent:
            groups.setdefault(group_of(metric), []).append(metric)
    found = [
        _scores(outcome, title, metrics[start : start + MOST_COLUMNS])
        for title, metrics in groups.items()
        for start in range(0, len(metrics), MOST_COLUMNS)
    ]
    if outcome.compared and outcome.comparisons:
        found.append(_comparison(outcome.compared, outcome.comparisons))
    if outcome.baseline:
        found.append(_reported(outcome.baseline))
    if outcome.absent:
        found.append(_absent(outcome.absent))
    return found


def group_of(metric: Metric) -> str:
    """What a metric asks, as a heading."""
    if metric.kind == "set":
        return "All outputs together, against all styles"
    if metric.kind == "overall":
        return "All metrics together"
    if metric.name.startswith(JUDGED):
        return "Asked of a judge"
    if PICTURES.isdisjoint(metric.columns):
        return "Words and taste"
    if "target" in metric.columns:
        return "Distance to the true picture"
    if "leak" in metric.name:
        return "What should have stayed with the style"
    if "mask" in metric.columns:
        return "Inside the mask, and outside"
    return "Content kept" if metric.columns == ("content",) else "Style reached"


def _scores(outcome: Outcome, title: str, metrics: Sequence[Metric]) -> Table:
    by_key = {(a.method, a.metric): a for a in outcome.aggregates}
    significant = {one.metric for one in outcome.comparisons if one.p_holm < SIGNIFICANT}
    rows = []
    for method in sorted(outcome.entries, key=is_anchor):
        cells = [
            _cell(by_key[method, metric.name], method, outcome, significant) for metric in metrics
        ]
        rows.append(Row(method, "anchor" if is_anchor(method) else "method", tuple(cells)))
    columns = tuple(
        _column(metric, [a for a in outcome.aggregates if a.metric == metric.name])
        for metric in metrics
    )
    notes = _notes(outcome, metrics)
    dagger = ""
    if outcome.compared:
        dagger = f"differs from {outcome.compared[1]}: p < {SIGNIFICANT} after Holm"
    return Table(title, columns, tuple(rows), tuple(notes), dagger=dagger)


def _cell(one: Aggregate, method: str, outcome: Outcome, significant: set[str]) -> Cell:
    is_first = outcome.compared is not None and method == outcome.compared[0]
    return _measured(one.interval, one.n, is_significant=is_first and one.metric in significant)


def _measured(interval: Interval, n: int, *, is_significant: bool = False) -> Cell:
    return Cell(
        value=interval.value,
        half_width=interval.half_width,
        n=n,
        is_significant=is_significant,
        low=interval.low,
        high=interval.high,
    )


def _column(metric: Metric, aggregates: Sequence[Aggregate]) -> Column:
    sizes = {a.n for a in aggregates if not is_anchor(a.method) and not math.isnan(a.value)}
    # Fréchet distances shrink as pictures are added, so unequal sets have no order.
    is_ranked = metric.kind == "row" or len(sizes) < 2
    arrow = ("up" if metric.better == "higher" else "down") if is_ranked else ""
    largest = max((abs(a.value) for a in aggregates if math.isfinite(a.value)), default=0.0)
    digits = 1 if largest >= 100 else 2 if largest >= 10 else 3
    return Column(metric.name, arrow, digits)  # type: ignore[arg-type]


def _notes(outcome: Outcome, metrics: Sequence[Metric]) -> list[str]:
    notes = []
    if sum(not is_anchor(method) for method in outcome.entries) > 1:
        notes.append("bold: the best method; underlined: the second; neither says by how much")
    for metric in metrics:
        scale = f" ({metric.scale})" if metric.scale else ""
        notes.append(f"{metric.name}: {metric.definition}{scale}")
    for metric in metrics:
        own = [a for a in outcome.aggregates if a.metric == metric.name]
        reasons = {a.reason for a in own if a.reason}
        notes += [f"{metric.name}: {reason}" for reason in sorted(reasons)]
        missing = {a.method: a.n_missing for a in own if a.n_missing and a.n}
        if missing:
            counts = ", ".join(f"{count} of {method}" for method, count in missing.items())
            notes.append(f"{metric.name}: items without a value: {counts}")
        if any(a.is_of_one and a.n > 1 for a in own):
            notes.append(f"{metric.name}: one content in one style; ± holds for nothing else")
        if metric.kind in ("set", "pool"):
            notes += _about_sets(metric, own)
        if cut := outcome.cuts.get(metric.name):
            notes.append(
                f"{metric.name}: {cut.truncated} of {cut.texts} texts are longer than the "
                f"{cut.context} tokens that the network reads"
            )
        if blind := undecidable(outcome.gaps.get(metric.name, {})):
            named = ", ".join(blind[:SHOWN]) + (" …" if len(blind) > SHOWN else "")
            notes.append(
                f"{metric.name}: undecided for {len(blind)} of "
                f"{len(outcome.gaps[metric.name])} families, whose references are no nearer to one "
                f"another than to another family's: {named}"
            )
    shown = {metric.name for metric in metrics}
    notes += [note for one in outcome.overalls if one.name in shown for note in _about_mean(one)]
    if not shown.isdisjoint(MISLEADING) and (fooled := misled(outcome.aggregates)):
        notes.append(misled_in_words(fooled))
    copied = detectors(metrics, outcome.aggregates)
    if copied:
        notes.append(
            f"{', '.join(copied)}: copying the style scores better than every method, so this "
            "detects style and does not judge a transfer"
        )
    return notes


def misled_in_words(fooled: Mapping[str, float]) -> str:
    """What a user is told about a judge.

    >>> misled_in_words({"x": 0.3125})
    'the judge also sees a style that nobody asked for (vlm_q3 + vlm_q4: x 0.31): do not go by it'
    """
    said = ", ".join(f"{method} {sum_:.2f}" for method, sum_ in fooled.items())
    return (
        f"the judge also sees a style that nobody asked for ({' + '.join(MISLEADING)}: {said}): "
        "do not go by it"
    )


def _about_sets(metric: Metric, own: Sequence[Aggregate]) -> list[str]:
    counts = {(a.n, a.n_references) for a in own if not (is_anchor(a.method) or a.reason)}
    if not counts:
        return []
    said = "; ".join(f"{outputs} outputs, {references} styles" for outputs, references in counts)
    notes = [f"{metric.name}: {said}"]
    if len({outputs for outputs, _ in counts}) > 1:
        notes.append(f"{metric.name}: not ranked, because the numbers of outputs differ")
    if any(a.is_deficient for a in own):
        notes.append(
            f"{metric.name}: fewer pictures than features, so the value is mostly bias; compare it "
            "only at equal numbers, and read the kid beside it"
        )
    return notes


def _about_mean(one: Overall) -> list[str]:
    if not one.parts:
        return []
    notes = [f"{one.name}: mean over {', '.join(one.parts)}"]
    if one.ranges:
        notes.append(f"{one.name}: by fixed ranges; a value outside its range counts as it is")
    else:
        notes.append(
            f"{one.name}: depends on the methods present ({', '.join(one.methods)}): one more or "
            "less changes it for all; its metrics' rank correlations are in aggregate.json"
        )
    if one.left_out:
        said = "; ".join(f"{name} {reason}" for name, reason in one.left_out.items())
        notes.append(f"{one.name}: left out: {said}")
    return notes


def _comparison(pair: tuple[str, str], comparisons: Sequence[Comparison]) -> Table:
    columns = (
        Column("difference", "", 4),
        Column("p", "", 4),
        Column("p (Holm)", "", 4),
        Column("effect d_z", "", 2),
        Column("win rate", "", 2),
    )
    rows = []
    for one in comparisons:
        others = (Cell(v) for v in (one.p, one.p_holm, one.effect, one.win_rate))
        rows.append(Row(one.metric, "method", (_measured(one.difference, one.n), *others)))
    notes = [
        "p: sign-flip permutation of whole contents and of whole styles, the larger of the two; "
        "for sets Student's, by the jackknife; for shares McNemar's, which takes items for "
        "independent",
        "effect d_z: the mean difference in deviations of the differences; win rate: the share of "
        "items on which the first is better, ties half",
    ]
    least = max((one.least_p for one in comparisons if one.least_p > SIGNIFICANT), default=0.0)
    if least:
        notes.append(
            f"so few contents or styles that p cannot fall below {least:.3g}: read the interval"
        )
    notes += [
        f"{one.metric}: {one.dropped} items of one method only, {one.missing} without a value"
        for one in comparisons
        if one.dropped or one.missing
    ]
    title = f"{pair[0]} minus {pair[1]}"
    return Table(title, columns, tuple(rows), tuple(notes), corner="metric")


def _reported(baseline: Baseline) -> Table:
    """A table of its own: the paper's pictures were others, and so are some of its scales."""
    columns = tuple(
        Column(
            name,
            "up" if about.better == "higher" else "down",
            max((row.digits.get(name, 0) for row in baseline.rows), default=3),
            note=f"printed as {about.published_as}"
            + ("" if about.scale_known else "; its scale is not known: compare ranks only"),
        )
        for name, about in baseline.metrics.items()
    )
    rows = tuple(
        Row(
            " ".join(filter(None, (row.method, row.dataset))),
            "published",
            tuple(Cell(row.values.get(name), row.std.get(name)) for name in baseline.metrics),
        )
        for row in baseline.rows
    )
    return Table(
        f"Reported by {baseline.paper}",
        columns,
        rows,
        baseline.caveats,
        plus_minus="standard deviation over pictures, as printed",
    )


def _absent(absent: Mapping[str, str]) -> Table:
    rows = tuple(Row(name, "method", (Cell(text=why),)) for name, why in absent.items())
    return Table("Not computed", (Column("why"),), rows, corner="metric")
