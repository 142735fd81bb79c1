"""Two methods on the same items: who wins, by how much, and whether that means anything."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from stylecli.errors import UsageError
from stylecli.evaluation.comparison import Comparison, compare, compare_sets
from stylecli.evaluation.statistics import mean_interval, sign_flip_p

CELLS = list(product(range(6), range(10)))
IDS = [f"c{i}-s{j}" for i, j in CELLS]
CONTENTS = {id_: f"c{i}" for id_, (i, _) in zip(IDS, CELLS, strict=True)}
STYLES = {id_: f"s{j}" for id_, (_, j) in zip(IDS, CELLS, strict=True)}


def scores(seed: int, shift: float = 0.0) -> dict[str, float]:
    random = np.random.default_rng(seed)
    effects = random.normal(0, 0.2, (6, 1)) + random.normal(0, 0.1, 10) + shift
    table = effects + random.normal(0, 0.05, (6, 10))
    return {id_: float(x) for id_, x in zip(IDS, table.ravel(), strict=True)}


def against(
    a: dict[str, float], b: dict[str, float], better: str = "higher", **rest: bool
) -> Comparison:
    return compare(
        a,
        b,
        CONTENTS,
        STYLES,
        metric="ssim",
        better=better,  # type: ignore[arg-type]
        seed=3,
        resamples=300,
        flips=300,
        **rest,
    )


def test_the_difference_is_that_of_pairs_with_limits_of_the_design() -> None:
    a, b = scores(1, 0.1), scores(2)
    found = against(a, b)
    differences = [a[id_] - b[id_] for id_ in sorted(IDS)]
    keys = [[kind[id_] for id_ in sorted(IDS)] for kind in (CONTENTS, STYLES)]
    assert found.difference == mean_interval(differences, *keys, seed=3, resamples=300)
    assert found.difference.method == "crossed bootstrap"
    assert found.difference.value == pytest.approx(np.mean([*a.values()]) - np.mean([*b.values()]))
    assert (found.metric, found.n, found.dropped, found.missing) == ("ssim", 60, 0, 0)
    assert found.effect == pytest.approx(np.mean(differences) / np.std(differences, ddof=1))
    assert found.wilcoxon_p == pytest.approx(wilcoxon(differences).pvalue)
    by_key = [sign_flip_p(differences, key, seed=3, flips=300) for key in keys]
    assert found.p == max(by_key) != min(by_key)
    assert math.isnan(found.p_holm)


def test_exchanging_the_methods_exchanges_the_signs() -> None:
    a, b = scores(1, 0.1), scores(2)
    one, other = against(a, b), against(b, a)
    assert other.difference.value == pytest.approx(-one.difference.value)
    assert other.effect == pytest.approx(-one.effect)
    assert (other.p, other.wilcoxon_p) == (one.p, pytest.approx(one.wilcoxon_p))
    assert other.win_rate == pytest.approx(1 - one.win_rate)


@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=40))
def test_wins_follow_the_direction_and_ties_are_half(differences: list[float]) -> None:
    a = dict(zip(IDS, differences, strict=False))
    b = dict.fromkeys(a, 0.0)
    ups, ties = differences.count(2.0), differences.count(0.0)
    assert against(a, b).win_rate == pytest.approx((ups + ties / 2) / len(a))
    assert against(a, b, "lower").win_rate == pytest.approx(1 - (ups + ties / 2) / len(a))
    assert against(a, b, "lower").difference == against(a, b).difference


def test_the_order_of_ids_does_not_matter() -> None:
    a, b = scores(1), scores(2)
    assert against(dict(reversed(a.items())), b) == against(a, b)


def test_ids_of_one_method_alone_are_dropped_and_counted() -> None:
    a, b = scores(1), scores(2)
    fewer = {id_: a[id_] for id_ in IDS[3:]}
    found = against(fewer, {id_: b[id_] for id_ in IDS[:-2]})
    assert (found.n, found.dropped) == (55, 5)
    kept = {id_: a[id_] for id_ in IDS[3:-2]}
    assert found.difference == against(kept, {id_: b[id_] for id_ in kept}).difference


def test_under_ninety_percent_is_refused_unless_allowed() -> None:
    a, b = scores(1), scores(2)
    just = {id_: b[id_] for id_ in IDS[:54]}
    assert against(a, just).n == 54
    too_few = {id_: b[id_] for id_ in IDS[:53]}
    for pair in ((a, too_few), (too_few, a)):
        with pytest.raises(UsageError, match="ssim: the two methods share 53 of 60") as raised:
            against(*pair)
        assert "allow_partial=true" in raised.value.fix
    assert against(a, too_few, allow_partial=True).n == 53


def test_nothing_shared_is_refused_even_if_partial_is_allowed() -> None:
    a = scores(1)
    other = {f"x{id_}": value for id_, value in a.items()}
    for pair in ((a, other), ({}, {})):
        with pytest.raises(UsageError, match="share 0 of") as raised:
            against(*pair, allow_partial=True)
        assert "allow_partial=true" not in raised.value.fix


def test_pairs_without_a_finite_difference_are_missing() -> None:
    """NaN on either side, and the infinite PSNR of equal pictures, even on both."""
    a, b = scores(1), scores(2)
    gaps = {IDS[0]: math.nan, IDS[1]: math.inf, IDS[2]: math.inf}
    found = against({**a, **gaps}, {**b, IDS[2]: math.inf, IDS[3]: math.nan})
    assert (found.n, found.missing, found.dropped) == (56, 4, 0)
    rest = {id_: a[id_] for id_ in IDS[4:]}
    assert found.difference == against(rest, {id_: b[id_] for id_ in rest}).difference
    nothing = against(dict.fromkeys(IDS, math.nan), b)
    assert (nothing.n, nothing.missing) == (0, 60)
    figures = (nothing.p, nothing.wilcoxon_p, nothing.effect, nothing.win_rate)
    assert all(math.isnan(figure) for figure in figures)


def test_equal_methods_differ_by_nothing() -> None:
    a = scores(1)
    found = against(a, dict(a))
    assert (found.difference.low, found.difference.high) == (0, 0)
    assert (found.p, found.wilcoxon_p, found.win_rate) == (1, 1, 0.5)
    assert math.isnan(found.effect)


def test_a_constant_lead_has_no_effect_size_for_it_has_no_spread() -> None:
    b = scores(1)
    found = against({id_: value + 0.1 for id_, value in b.items()}, b)
    assert found.difference.value == pytest.approx(0.1)
    assert math.isnan(found.effect)
    assert found.win_rate == 1


def test_few_styles_keep_p_high_where_rows_would_not() -> None:
    """Three styles, all in favour: 2 of 2**3 signs, though 18 rows agree."""
    ids = [id_ for id_, (_, j) in zip(IDS, CELLS, strict=True) if j < 3]
    random = np.random.default_rng(0)
    a = {id_: 1 + float(x) for id_, x in zip(ids, random.uniform(0, 0.1, 18), strict=True)}
    found = against(a, dict.fromkeys(ids, 0.0))
    assert found.p == 2 / 2**3
    assert found.wilcoxon_p < 1e-4


def test_with_a_single_style_the_contents_decide() -> None:
    ids = IDS[::10]
    a = {id_: float(x) for id_, x in zip(ids, (1, 2, 3, 4, 5, 6), strict=True)}
    assert against(a, dict.fromkeys(ids, 0.0)).p == 2 / 2**6
    alone = dict.fromkeys(ids, "one")
    found = compare(
        a, dict.fromkeys(ids, 0.0), alone, alone, metric="ssim", better="higher", seed=0
    )
    assert found.p == 2 / 2**6


def test_sets_are_compared_by_the_jackknife_of_their_difference() -> None:
    """Groups left out of both: what moves both alike is no doubt about their difference."""
    random = np.random.default_rng(0)
    common, own = random.normal(0, 1, 20), random.normal(0, 0.01, 20)
    differences = [float(x) for x in (30 + common + own) - (29.9 + common)]
    found = compare_sets(30.0, 29.9, differences, metric="fid", n=800)
    se = math.sqrt(19 / 20 * sum((d - np.mean(differences)) ** 2 for d in differences))
    assert (found.metric, found.n, found.difference.method) == ("fid", 800, "jackknife")
    assert found.difference.se == pytest.approx(se)
    assert se < 0.1
    # Of 20 groups 2.093024 standard errors are 5 %.
    edge = compare_sets(2.093024054408263 * se, 0.0, differences, metric="fid", n=800)
    assert edge.p == pytest.approx(0.05)
    assert edge.difference.low == pytest.approx(0, abs=1e-12)
    assert compare_sets(29.9, 30.0, differences, metric="fid", n=800).p == pytest.approx(found.p)


def test_sets_without_spread_are_equal_or_not() -> None:
    assert compare_sets(2.0, 2.0, [0.0] * 4, metric="fid", n=4).p == 1
    assert compare_sets(3.0, 2.0, [1.0] * 4, metric="fid", n=4).p == 0
    assert math.isnan(compare_sets(3.0, 2.0, [1.0] * 3, metric="fid", n=3).p)
