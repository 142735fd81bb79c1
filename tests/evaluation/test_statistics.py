"""Intervals have the right width, tests the right level, and both are repeatable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest
from scipy.stats import t as student

from stylecli.evaluation import statistics
from stylecli.evaluation.statistics import (
    Interval,
    holm,
    jackknife_interval,
    mean_interval,
    sign_flip_p,
    std,
    wilson,
)

P_VALUES = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12)


def names(letter: str, numbers: Sequence[int]) -> list[str]:
    return [f"{letter}{number}" for number in numbers]


def grid(contents: int, styles: int) -> tuple[list[str], list[str]]:
    """The keys of every content in every style."""
    cells = list(product(range(contents), range(styles)))
    return names("c", [i for i, _ in cells]), names("s", [j for _, j in cells])


def crossed(seed: int, contents: int = 20, styles: int = 40) -> list[float]:
    """Two crossed effects of 0.1 and noise of 0.05: hard contents, strong styles."""
    random = np.random.default_rng(seed)
    effects = random.normal(0, 0.1, (contents, 1)) + random.normal(0, 0.1, styles)
    return [float(x) for x in (effects + random.normal(0, 0.05, (contents, styles))).ravel()]


def slow_means(
    values: Sequence[float], rows: Sequence[int], columns: Sequence[int], seed: int, resamples: int
) -> list[float]:
    """Every resample written out as a list of values; the same draws as the package's."""
    row_stream, column_stream = np.random.default_rng(seed).spawn(2)
    row_count, column_count = max(rows) + 1, max(columns) + 1
    row_draws = row_stream.integers(row_count, size=(resamples, row_count))
    column_draws = column_stream.integers(column_count, size=(resamples, column_count))
    means = []
    for chosen_rows, chosen_columns in zip(row_draws, column_draws, strict=True):
        drawn = [
            value
            for row in chosen_rows
            for column in chosen_columns
            for value, i, j in zip(values, rows, columns, strict=True)
            if (i, j) == (row, column)
        ]
        if drawn:
            means.append(sum(drawn) / len(drawn))
    return means


# Value, content and style of each row; the second lacks cells and has some twice.
DESIGNS = {
    "crossed bootstrap": ([0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 0, 2, 1, 2, 2]),
    "cluster bootstrap": ([0, 0, 1, 1, 1, 2, 3, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
    "row bootstrap": ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]),
}
VALUES = [0.3, 0.1, 0.45, 0.9, 0.77, 0.2, 0.61, 0.05]


@pytest.mark.parametrize("method", DESIGNS)
def test_limits_are_percentiles_of_resamples_written_out_one_by_one(method: str) -> None:
    contents, styles = DESIGNS[method]
    one_column = styles if method == "crossed bootstrap" else [0] * len(styles)
    means = slow_means(VALUES, contents, one_column, seed=5, resamples=400)
    found = mean_interval(
        VALUES, names("c", contents), names("s", styles), seed=5, resamples=400, level=0.9
    )
    low, high = np.quantile(means, [0.05, 0.95])
    expected = (sum(VALUES) / 8, low, high, np.std(means, ddof=1))
    assert found.method == method
    assert (found.value, found.low, found.high, found.se) == pytest.approx(expected, abs=1e-12)
    assert found.half_width == pytest.approx((high - low) / 2)


def test_resamples_that_hit_no_row_are_left_out() -> None:
    """Opposite corners of a grid and one more cell: some draws of both keys miss all of them."""
    contents, styles = [0, 0, 1, 2], [0, 1, 2, 2]
    means = slow_means(VALUES[:4], contents, styles, seed=1, resamples=300)
    assert len(means) < 300
    found = mean_interval(
        VALUES[:4], names("c", contents), names("s", styles), seed=1, resamples=300
    )
    assert found.method == "crossed bootstrap"
    assert found.se == pytest.approx(np.std(means, ddof=1), abs=1e-12)


@pytest.mark.slow
def test_crossed_limits_see_what_row_limits_miss_by_a_factor_of_five() -> None:
    """The standard error of the grid's mean is sqrt(.01 / 20 + .01 / 40 + .0025 / 800) = .0274."""
    truth = math.sqrt(0.1**2 / 20 + 0.1**2 / 40 + 0.05**2 / 800)
    contents, styles = grid(20, 40)
    rows = names("r", range(800))
    by_grid, by_rows = [], []
    for seed in range(20):
        values = crossed(seed)
        by_grid.append(mean_interval(values, contents, styles, seed=seed, resamples=1000).se)
        by_rows.append(mean_interval(values, rows, rows, seed=seed, resamples=1000).se)
    assert truth == pytest.approx(0.0274, abs=5e-5)
    assert np.mean(by_grid) == pytest.approx(truth, rel=0.1)
    assert max(by_rows) < 0.007


@pytest.mark.slow
def test_ninety_five_percent_limits_hold_the_truth_about_as_often() -> None:
    contents, styles = grid(20, 40)
    held = 0
    for seed in range(200):
        found = mean_interval(crossed(seed), contents, styles, seed=seed, resamples=300)
        held += found.low <= 0 <= found.high
    assert 0.89 <= held / 200 <= 0.99


def test_above_the_limit_the_normal_approximation_agrees_with_the_bootstrap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents, styles = grid(30, 40)
    values = crossed(3, 30, 40)
    drawn = mean_interval(values, contents, styles, seed=0, resamples=2000)
    clustered = mean_interval(values, contents, names("s", range(1200)), seed=0, resamples=2000)
    monkeypatch.setattr(statistics, "MAX_BOOTSTRAP_ROWS", 1199)
    normal = mean_interval(values, contents, styles, seed=0)
    assert (drawn.method, normal.method) == ("crossed bootstrap", "normal, clustered")
    assert normal.se == pytest.approx(drawn.se, rel=0.08)
    assert normal.high - normal.value == pytest.approx(1.959964 * normal.se, rel=1e-6)
    assert normal.value - normal.low == pytest.approx(1.959964 * normal.se, rel=1e-6)
    one_way = mean_interval(values, contents, names("s", range(1200)), seed=0)
    assert one_way.se == pytest.approx(clustered.se, rel=0.08)


def test_the_cluster_variance_is_its_sum_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents plus styles minus cells, each the squared sums of deviations."""
    contents, styles = DESIGNS["crossed bootstrap"]
    mean = sum(VALUES) / 8

    def one_way(keys: Sequence[object]) -> float:
        sums = dict.fromkeys(keys, 0.0)
        for value, key in zip(VALUES, keys, strict=True):
            sums[key] += value - mean
        return len(sums) / (len(sums) - 1) * sum(s**2 for s in sums.values()) / 64

    cells = one_way(list(zip(contents, styles, strict=True)))
    variance = one_way(contents) + one_way(styles) - cells
    monkeypatch.setattr(statistics, "MAX_BOOTSTRAP_ROWS", 7)
    found = mean_interval(VALUES, names("c", contents), names("s", styles), seed=0)
    assert found.se**2 == pytest.approx(max(variance, cells), rel=1e-12)


def test_the_cluster_variance_is_never_below_that_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Latin square: every content and every style sums to 0, so the three terms go below 0."""
    contents, styles = grid(3, 3)
    values = [float((i + j) % 3 - 1) for i, j in product(range(3), range(3))]
    monkeypatch.setattr(statistics, "MAX_BOOTSTRAP_ROWS", 8)
    found = mean_interval(values, contents, styles, seed=0)
    assert found.se == pytest.approx(std(values) / 3, rel=1e-12)


def test_what_lies_within_the_other_key_is_not_counted_twice() -> None:
    """Each content in one style only, five seeds each: the rows are 12 groups and no grid."""
    pairs = [index // 5 for index in range(60)]
    values = [float(x) for x in np.random.default_rng(0).normal(size=60)]
    one = mean_interval(values, names("c", pairs), names("s", pairs), seed=0, resamples=500)
    other = mean_interval(values, names("c", pairs), names("s", range(60)), seed=0, resamples=500)
    assert one.method == other.method == "cluster bootstrap"
    assert one == other
    # Two contents to a style: only styles are drawn.
    styles = [index // 10 for index in range(60)]
    nested = mean_interval(values, names("c", pairs), names("s", styles), seed=0, resamples=500)
    outer = mean_interval(values, names("c", range(60)), names("s", styles), seed=0, resamples=500)
    swapped = mean_interval(values, names("s", styles), names("c", pairs), seed=0, resamples=500)
    assert nested == outer == swapped


def test_a_single_content_leaves_the_styles_to_be_drawn() -> None:
    values = crossed(1, 1, 40)
    alone = ["c"] * 40
    styles = names("s", range(40))
    found = mean_interval(values, alone, styles, seed=0, resamples=2000)
    assert found.method == "row bootstrap"
    assert found.se == pytest.approx(std(values) / math.sqrt(40), rel=0.1)
    twice = mean_interval(values * 2, alone * 2, styles * 2, seed=0, resamples=2000)
    assert twice.method == "cluster bootstrap"
    assert twice.se == pytest.approx(std(values) / math.sqrt(40), rel=0.1)
    nothing_repeats_but_all = mean_interval(values, alone, ["s"] * 40, seed=0, resamples=100)
    assert nothing_repeats_but_all.method == "row bootstrap"


def test_the_same_seed_gives_the_same_limits_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents, styles = grid(6, 7)
    values = crossed(2, 6, 7)

    def both(seed: int) -> tuple[Interval, float]:
        interval = mean_interval(values, contents, styles, seed=seed, resamples=501)
        return interval, sign_flip_p(values, names("r", range(42)), seed=seed, flips=501)

    whole = both(3)
    assert whole == both(3)
    assert whole[0].low != both(4)[0].low
    monkeypatch.setattr(statistics, "CHUNK", 100)
    pieces = both(3)
    assert pieces[1] == whole[1]
    assert pieces[0].se == pytest.approx(whole[0].se, rel=1e-12)


@given(st.floats(-1e3, 1e3), st.floats(0.1, 10))
def test_intervals_move_with_an_offset_and_grow_with_a_scale(offset: float, scale: float) -> None:
    contents, styles = grid(5, 4)
    values = crossed(4, 5, 4)
    moved = [offset + scale * value for value in values]
    one = mean_interval(values, contents, styles, seed=0, resamples=50)
    other = mean_interval(moved, contents, styles, seed=0, resamples=50)
    assert other.low == pytest.approx(offset + scale * one.low, abs=1e-9)
    assert other.high == pytest.approx(offset + scale * one.high, abs=1e-9)
    assert other.se == pytest.approx(scale * one.se, rel=1e-6)


def test_missing_rows_are_left_out() -> None:
    contents, styles = grid(5, 4)
    values = crossed(5, 5, 4)
    gaps = [math.nan if index in (3, 11) else value for index, value in enumerate(values)]
    kept = [index for index in range(20) if index not in (3, 11)]
    found = mean_interval(gaps, contents, styles, seed=0, resamples=200)
    expected = mean_interval(
        [values[i] for i in kept],
        [contents[i] for i in kept],
        [styles[i] for i in kept],
        seed=0,
        resamples=200,
    )
    assert found == expected


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [math.inf, 0.5], [math.inf, -math.inf]])
def test_too_little_gives_a_value_at_most(values: list[float]) -> None:
    keys = names("c", range(len(values)))
    found = mean_interval(values, keys, keys, seed=0)
    assert found.method == "none"
    assert all(math.isnan(x) for x in (found.low, found.high, found.se, found.half_width))
    if len(values) == 1 or math.inf in values:
        assert found.value == pytest.approx(sum(values) / len(values), nan_ok=True)
    else:
        assert math.isnan(found.value)


def test_values_without_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        mean_interval([1.0, 2.0], ["a", "b"], ["a"], seed=0)


@pytest.mark.slow
def test_ten_thousand_resamples_cost_less_than_a_thousand_plain_ones() -> None:
    contents, styles = grid(20, 40)
    values, random = crossed(0), Random(0)
    mean_interval(values, contents, styles, seed=0, resamples=10)  # imports scipy

    def plain() -> None:
        for _ in range(100):
            rows = random.choices(range(20), k=20)
            columns = random.choices(range(40), k=40)
            sum(values[40 * i + j] for i in rows for j in columns)

    ours = fewest_seconds(lambda: mean_interval(values, contents, styles, seed=0))
    assert ours < 10 * fewest_seconds(plain)


def test_of_many_clusters_ten_thousand_resamples_cost_less_than_a_hundred_plain_ones() -> None:
    values = [float(x) for x in np.random.default_rng(0).normal(size=20_000)]
    many, few = names("c", range(20_000)), names("s", [i % 25 for i in range(20_000)])
    assert mean_interval(values, many, few, seed=0).method == "cluster bootstrap"
    random = Random(0)

    def plain() -> None:
        for _ in range(10):
            sum(values[i] for i in random.choices(range(20_000), k=20_000))

    ours = fewest_seconds(lambda: mean_interval(values, many, few, seed=0))
    assert ours < 10 * fewest_seconds(plain)


def fewest_seconds(work: Callable[[], object]) -> float:
    """Of work and not of waiting: what it takes when nothing else slows it."""

    def once() -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    return min(once() for _ in range(3))


def test_std_divides_by_one_less_than_there_are() -> None:
    assert std([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5 / 3))
    assert all(math.isnan(std(values)) for values in ([], [1.0], [1.0, math.inf]))


def test_wilson_limits_of_a_user_study() -> None:
    low, high = wilson(49, 133)
    assert (round(low, 3), round(high, 3)) == (0.291, 0.453)
    assert all(math.isnan(limit) for limit in wilson(0, 0))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_limits_are_scipys(counts: tuple[int, int]) -> None:
    successes, n = counts
    expected = binomtest(successes, n).proportion_ci(0.9, method="wilson")
    found = wilson(successes, n, level=0.9)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found[0] <= successes / n <= found[1] <= 1


@given(
    st.lists(st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.1, 0.2, 0.3, 2.0]), min_size=1, max_size=8)
)
def test_exact_flips_are_all_flips_written_out(differences: list[float]) -> None:
    clusters = [index % 5 for index in range(len(differences))]
    sums = [0.0] * (max(clusters) + 1)
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] += difference
    observed = abs(sum(sums))
    flipped = [
        abs(sum(sign * s for sign, s in zip(signs, sums, strict=True)))
        for signs in product((-1, 1), repeat=len(sums))
    ]
    expected = sum(total >= observed - 1e-9 for total in flipped) / len(flipped)
    assert sign_flip_p(differences, names("c", clusters), seed=0) == expected


def test_drawn_flips_approach_the_exact_ones_and_count_the_observed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    differences = [float(x) for x in np.random.default_rng(1).normal(0.3, 1, 14)]
    clusters = names("c", range(14))
    exact = sign_flip_p(differences, clusters, seed=0)
    assert exact * 2**14 == round(exact * 2**14)
    monkeypatch.setattr(statistics, "MAX_EXACT_FLIPS", 2**13)
    drawn = sign_flip_p(differences, clusters, seed=0, flips=20_000)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.01)
    # Nothing but the observed reaches forty equal differences: p is 1 of 1 + flips.
    assert sign_flip_p([1.0] * 40, names("c", range(40)), seed=0, flips=99) == 0.01
    assert sign_flip_p([0.0] * 40, names("c", range(40)), seed=0, flips=99) == 1


def test_flips_of_few_clusters_cannot_be_significant() -> None:
    """Twenty rows that agree are five clusters: 2 of 2**5."""
    clusters = [index % 5 for index in range(20)]
    assert sign_flip_p([1.0] * 20, names("c", clusters), seed=0) == 2 / 2**5
    assert math.isnan(sign_flip_p([], [], seed=0))
    assert math.isnan(sign_flip_p([1.0, math.nan], ["a", "b"], seed=0))


@pytest.mark.mostly_slow
@pytest.mark.parametrize("clusters", [12, 30])
def test_under_the_null_p_is_uniform(clusters: int) -> None:
    """Exact and drawn flips; a cluster's rows share an effect that row tests would mistake."""
    random = np.random.default_rng(clusters)
    keys = names("c", [index % clusters for index in range(4 * clusters)])
    p_values = []
    for seed in range(2000):
        shared = np.tile(random.normal(size=clusters), 4)
        differences = shared + 0.3 * random.normal(size=4 * clusters)
        p_values.append(sign_flip_p([float(d) for d in differences], keys, seed=seed, flips=499))
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert 0.035 <= np.mean(np.asarray(p_values) <= 0.05) <= 0.065


@given(P_VALUES)
def test_holm_is_the_step_down_loop(p_values: list[float]) -> None:
    """Test from the smallest on, each against what is left, never below an earlier one."""
    left = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    expected = [math.nan] * len(p_values)
    floor = 0.0
    while left:
        smallest = min(left, key=lambda index: p_values[index])
        floor = max(floor, len(left) * p_values[smallest])
        expected[smallest] = min(1.0, floor)
        left.remove(smallest)
    assert holm(p_values) == pytest.approx(expected, abs=1e-15, nan_ok=True)


@given(P_VALUES)
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    known = [(p, q) for p, q in zip(p_values, adjusted, strict=True) if not math.isnan(p)]
    for p, q in known:
        assert p <= q <= 1
        assert q <= max(1.0, len(known)) * max(x for x, _ in known)
    ordered = sorted(known)
    assert all(a[1] <= b[1] for a, b in pairwise(ordered))
    assert [math.isnan(q) for q in adjusted] == [math.isnan(p) for p in p_values]


@given(st.lists(st.floats(-100, 100), min_size=4, max_size=30))
def test_the_jackknife_of_a_mean_is_its_standard_error(values: list[float]) -> None:
    n = len(values)
    without = [(sum(values) - value) / (n - 1) for value in values]
    found = jackknife_interval(sum(values) / n, without)
    se = np.std(values, ddof=1) / math.sqrt(n)
    assert found.se == pytest.approx(se, abs=1e-9)
    width = student.ppf(0.975, n - 1) * se
    assert found.high - found.value == pytest.approx(width, abs=1e-8)
    assert found.value - found.low == pytest.approx(width, abs=1e-8)
    assert found.method == "jackknife"


@pytest.mark.slow
def test_the_limits_of_few_groups_hold_what_they_promise() -> None:
    """With normal limits five groups would miss the truth in one case of eight."""
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(2000):
        groups = random.normal(0, 1, 5)
        without = [(groups.sum() - g) / 4 for g in groups]
        found = jackknife_interval(float(groups.mean()), without)
        missed += not found.low <= 0 <= found.high
    assert missed / 2000 == pytest.approx(0.05, abs=0.015)


def frechet(features: Sequence[Sequence[float]], mean: float) -> float:
    """Of a sample to a Gaussian of unit covariance around `mean`."""
    sample = np.asarray(features)
    covariance = np.cov(sample.T)
    root = np.sqrt(np.linalg.eigvalsh(covariance)).sum()
    shift = sample.mean(axis=0) - mean
    return float(shift @ shift + np.trace(covariance) + sample.shape[1] - 2 * root)


@pytest.mark.slow
def test_the_jackknife_of_a_frechet_distance_is_near_the_spread_of_new_samples() -> None:
    """Forty contents of ten outputs each, which share an effect; groups are whole contents."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40) % 20, 10)
    distances, errors = [], []
    for _ in range(150):
        shared = np.repeat(random.normal(0, 0.7, (40, 6)), 10, axis=0)
        sample = shared + random.normal(size=(400, 6))
        distances.append(frechet(sample.tolist(), 0.4))
        without = [frechet(sample[groups != group].tolist(), 0.4) for group in range(20)]
        errors.append(jackknife_interval(distances[-1], without).se)
    assert np.mean(errors) == pytest.approx(np.std(distances, ddof=1), rel=0.4)


def test_the_jackknife_of_few_groups_or_of_a_failed_one_is_none() -> None:
    for without in ([], [1.0], [1.0, 2.0, 3.0], [1.0, math.nan, 2.0, 3.0]):
        found = jackknife_interval(3.0, without)
        assert (found.value, found.method) == (3.0, "none")
        assert math.isnan(found.se)


def test_many_clusters_are_as_likely_as_flips_say(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    differences = (random.normal(size=400) + 0.06).tolist()
    clusters = [str(index // 2) for index in range(400)]
    flipped = sign_flip_p(differences, clusters, seed=1, flips=40_000)
    monkeypatch.setattr(statistics, "MAX_BOOTSTRAP_ROWS", 100)
    assert sign_flip_p(differences, clusters, seed=1) == pytest.approx(flipped, abs=0.01)
    assert sign_flip_p([0.0] * 400, clusters, seed=1) == 1


def test_numbers_stand_for_words_of_their_order() -> None:
    words = ["b", "a", "b", "c", "a", "c"]
    numbers = np.array([1, 0, 1, 2, 0, 2], dtype=np.int64)
    styles = ["x"] * 6
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.7]
    assert mean_interval(values, words, styles, seed=3) == mean_interval(
        np.array(values), numbers, np.zeros(6, dtype=np.int64), seed=3
    )
