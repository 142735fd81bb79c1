"""The mean over metrics: what it is made of, and what it hangs on."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from stylecli.engine.scoring import overall
from stylecli.engine.scoring.entries import Entry
from stylecli.engine.scoring.summary import Aggregate
from stylecli.evaluation.metric import Metric, of_style
from stylecli.evaluation.normalising import Overall, Ranges
from stylecli.evaluation.statistics import Interval

UP = of_style("up", "higher", "")
DOWN = of_style("down", "lower", "")
ITEMS = ("x", "y")
VALUES = {
    "up": {"a": 0.1, "b": 0.3, "c": 0.2},
    "down": {"a": 5.0, "b": 9.0, "c": 5.0},
}


def entries_of(values: Mapping[str, Mapping[str, float]]) -> dict[str, list[Entry]]:
    methods = dict.fromkeys(method for by_method in values.values() for method in by_method)
    return {
        method: [
            Entry(
                id=item,
                method=method,
                content=item,
                style="s",
                values={m: by[method] for m, by in values.items() if not math.isnan(by[method])},
                features={},
                reasons={},
            )
            for item in ITEMS
        ]
        for method in methods
    }


def mean_of(
    values: Mapping[str, Mapping[str, float]],
    name: str = "overall",
    ranges: Ranges | None = None,
    metrics: tuple[Metric, ...] = (UP, DOWN),
) -> Overall:
    aggregates = [
        Aggregate(
            method=method,
            metric=metric,
            interval=Interval(value, math.nan, math.nan, math.nan, "none"),
            n=0 if math.isnan(value) else len(ITEMS),
        )
        for metric, by_method in values.items()
        for method, value in by_method.items()
    ]
    return overall.of(name, metrics, aggregates, entries_of(values), ranges or {})


def test_it_is_the_mean_of_metrics_between_worst_and_best() -> None:
    found = mean_of(VALUES)
    assert found.parts == {
        "up": {"a": 0.0, "b": pytest.approx(1), "c": pytest.approx(0.5)},
        "down": {"a": 1.0, "b": 0.0, "c": 1.0},
    }
    assert [found.value(m) for m in "abc"] == pytest.approx([0.5, 0.5, 0.75])
    z = mean_of(VALUES, "overall_z")
    assert z.value("b") == pytest.approx((1 - 2 / 3**0.5) / 2)
    assert sum(z.value(m) for m in "abc") == pytest.approx(0)


def test_a_metric_that_tells_nothing_apart_is_half_of_everything() -> None:
    flat = VALUES | {"down": dict.fromkeys("abc", 4.0)}
    assert mean_of(flat).parts["down"] == dict.fromkeys("abc", 0.5)
    assert mean_of(flat, "overall_z").parts["down"] == dict.fromkeys("abc", 0.0)
    assert math.isnan(mean_of(flat).correlations["up"]["down"])


def test_one_method_more_changes_every_other() -> None:
    more = {metric: by | {"d": 10.0} for metric, by in VALUES.items()}
    before, after = mean_of(VALUES), mean_of(more)
    assert (before.methods, after.methods) == (("a", "b", "c"), ("a", "b", "c", "d"))
    assert all(abs(before.value(m) - after.value(m)) > 0.2 for m in "bc")


def test_fixed_ranges_do_not_ask_who_is_there() -> None:
    ranges = {"up": (0.0, 0.5), "down": (0.0, 10.0)}
    alone = {metric: {"a": by["a"]} for metric, by in VALUES.items()}
    assert mean_of(alone, ranges=ranges).value("a") == pytest.approx((0.2 + 0.5) / 2)
    assert mean_of(VALUES, ranges=ranges).value("a") == pytest.approx((0.2 + 0.5) / 2)
    assert mean_of(alone, ranges=ranges).correlations == {}
    # Deviations are between methods, whatever a file says.
    assert mean_of(VALUES, "overall_z", ranges) == mean_of(VALUES, "overall_z")


def test_a_metric_without_a_range_takes_no_part_beside_those_that_have_one() -> None:
    found = mean_of(VALUES, ranges={"up": (0.0, 0.5)})
    assert found.left_out == {"down": "has no fixed range"}
    assert found.value("b") == pytest.approx(0.6)


def test_a_metric_that_lacks_one_method_takes_no_part() -> None:
    gap = VALUES | {"down": VALUES["down"] | {"b": math.nan}}
    found = mean_of(gap)
    assert found.left_out == {"down": "no value for b"}
    assert found.value("b") == pytest.approx(1)


def test_a_metric_measured_on_other_items_takes_no_part() -> None:
    entries = entries_of(VALUES)
    entries["c"][1] = Entry(
        id="y",
        method="c",
        content="y",
        style="s",
        values={"up": 0.2},
        features={},
        reasons={"down": "too small"},
    )
    aggregates = [
        Aggregate(method=m, metric=k, interval=Interval(v, v, v, 0.0, "none"), n=2)
        for k, by in VALUES.items()
        for m, v in by.items()
    ]
    found = overall.of("overall", (UP, DOWN), aggregates, entries, {})
    assert list(found.parts) == ["up"]
    assert "other items" in found.left_out["down"]


def test_anchors_take_no_part() -> None:
    more = {metric: by | {"style_copy": 99.0} for metric, by in VALUES.items()}
    found = mean_of(more)
    assert found == mean_of(VALUES)
    rows = {one.method: one for one in overall.aggregates_of(found, entries_of(more))}
    assert math.isnan(rows["style_copy"].value)
    assert rows["style_copy"].reason == ""
    assert (rows["c"].value, rows["c"].n) == (pytest.approx(0.75), 2)


def test_metrics_that_agree_are_correlated_whichever_way_they_point() -> None:
    same = {"up": {"a": 1.0, "b": 2.0, "c": 3.0}, "down": {"a": 3.0, "b": 2.0, "c": 1.0}}
    found = mean_of(same).correlations
    assert found["up"]["down"] == found["down"]["up"] == pytest.approx(1)
    opposed = same | {"down": same["up"]}
    assert mean_of(opposed).correlations["up"]["down"] == pytest.approx(-1)


def test_nothing_measured_is_no_number_and_says_why() -> None:
    none = {"up": {"a": math.nan, "b": 1.0, "c": 2.0}}
    found = mean_of(none, metrics=(UP,))
    rows = overall.aggregates_of(found, entries_of(none))
    assert {row.reason for row in rows} == {"no metric measured every method alike"}


def test_it_needs_three_methods_of_the_same_items() -> None:
    both = frozenset(ITEMS)
    three = dict.fromkeys("abc", both)
    assert overall.why_not("overall", three, {}) == ""
    two = dict.fromkeys("ab", both)
    assert overall.why_not("overall", two, {}) == "needs 3 methods, this run has 2"
    ranges = {"up": (0.0, 1.0)}
    assert overall.why_not("overall", two, ranges) == ""
    assert "needs 3 methods" in overall.why_not("overall_z", two, ranges)
    other = three | {"c": frozenset("x")}
    said = overall.why_not("overall", other, ranges)
    assert said == "needs the same items of every method; there are 2 of a, 2 of b, 1 of c"
