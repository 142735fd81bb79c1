"""One scale for all metrics: its ends, its direction, and its agreement with scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stylecli.evaluation.normalising import rank_correlation, to_unit, z_scores

SOME = st.lists(st.integers(-50, 50), min_size=3, max_size=8)


@given(SOME, st.booleans())
def test_the_best_is_one_and_the_worst_is_nought(values: list[int], higher: bool) -> None:
    found = to_unit([float(v) for v in values], is_higher_better=higher)
    best = max(values) if higher else min(values)
    if len(set(values)) == 1:
        assert found == [0.5] * len(values)
    else:
        assert (min(found), max(found)) == (0.0, 1.0)
        assert found[values.index(best)] == 1.0


@given(SOME)
def test_the_other_direction_turns_the_scale_round(values: list[int]) -> None:
    numbers = [float(v) for v in values]
    up, down = (to_unit(numbers, is_higher_better=h) for h in (True, False))
    assert [a + b for a, b in zip(up, down, strict=True)] == pytest.approx([1.0] * len(values))
    up, down = (z_scores(numbers, is_higher_better=h) for h in (True, False))
    assert up == pytest.approx([-z for z in down])


def test_a_fixed_range_does_not_ask_who_is_there() -> None:
    alone = to_unit([6.0], is_higher_better=True, limits=(4.0, 8.0))
    assert alone == to_unit([6.0, 4.0, 9.0], is_higher_better=True, limits=(4.0, 8.0))[:1] == [0.5]
    assert to_unit([10.0], is_higher_better=True, limits=(4.0, 8.0)) == [1.5]


@given(SOME)
def test_deviations_are_those_of_a_sample(values: list[int]) -> None:
    found = z_scores([float(v) for v in values], is_higher_better=True)
    if len(set(values)) == 1:
        assert found == [0.0] * len(values)
    else:
        assert found == pytest.approx(list(stats.zscore(values, ddof=1)))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    first, second = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic)
