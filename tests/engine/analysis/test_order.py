"""Means and their differences against loops, what may not widen an interval, and the verdict."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.analysis.asked import Level
from stylecli.engine.analysis.cases import METRICS, Case, Cell
from stylecli.engine.analysis.order import Order, mean_difference, orders
from stylecli.engine.analysis.subjects import Domain

LEVEL = Level(540, 541, 22)
LAYERS = (2, 5, 7)
seeds = st.integers(0, 1000)

# Where the paper has them, in and out of domain.
PRINTED: dict[Domain, tuple[float, ...]] = {
    "in": (0.9970, 0.9943, 0.9922),
    "out": (0.9942, 0.9883, 0.9721),
}


def case(picture: str, lora: str, domain: Domain, values: tuple[float, ...]) -> Case:
    cosines = {
        Cell(LEVEL, layer, metric): value
        for metric in METRICS
        for layer, value in zip(LAYERS, values, strict=True)
    }
    return Case(picture, lora, lora, domain, cosines)


def crossed(means: dict[Domain, tuple[float, ...]], *, spread: float, n: int = 10) -> list[Case]:
    """Pictures of two looks, each with both LoRAs."""
    random = np.random.default_rng(0)
    found = []
    for home in ("a", "b"):
        for number in range(n):
            for lora in ("a", "b"):
                domain: Domain = "in" if lora == home else "out"
                noise = random.normal(0, spread, 3)
                values = tuple(float(m + e) for m, e in zip(means[domain], noise, strict=True))
                found.append(case(f"{home}{number}", lora, domain, values))
    return found


def shown(cases: list[Case]) -> Order:
    by_metric = {order.metric: order for order in orders(cases, 0)}
    assert set(by_metric) == set(METRICS)
    return by_metric["position"]


def test_the_papers_own_means_are_in_the_papers_order() -> None:
    order = shown(crossed(PRINTED, spread=0.0005))
    assert order.holds
    assert order.is_clear
    assert "the paper's order holds: in less out" in order.sentence()
    assert order.sentence().count(".\n") == 0
    assert order.sentence().endswith(".")
    assert all(gap.paired for gap in order.gaps)


@pytest.mark.slow
def test_an_order_within_the_noise_is_not_beyond_chance() -> None:
    near: dict[Domain, tuple[float, ...]] = {"in": (0.9, 0.8, 0.7), "out": (0.9, 0.8, 0.7)}
    held = {shown(crossed(near, spread=0.01, n=n)).sentence() for n in (3, 4, 5, 6, 7, 8)}
    assert all("does not hold" in one or "not beyond chance" in one for one in held)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("at", range(3))
def test_one_layer_the_other_way_round_is_enough_to_break_it(at: int) -> None:
    means = {domain: list(values) for domain, values in PRINTED.items()}
    means["in"][at], means["out"][at] = means["out"][at], means["in"][at]
    order = shown(crossed({d: tuple(v) for d, v in means.items()}, spread=1e-5))  # type: ignore[misc]
    assert order.holds is False
    assert "does not hold" in order.sentence()
    assert order.gaps[at].difference.value < 0


def test_a_deeper_layer_that_is_nearer_breaks_it() -> None:
    means: dict[Domain, tuple[float, ...]] = {"in": (0.99, 0.98, 0.985), "out": (0.97, 0.96, 0.95)}
    order = shown(crossed(means, spread=1e-5))
    assert order.holds is False
    (rise,) = [fall for fall in order.falls if fall.difference.value < 0]
    assert (rise.cell.layer, rise.deeper, rise.domain) == (5, 7, "in")


@pytest.mark.slow
def test_loras_that_change_nothing_are_in_order_by_a_hair() -> None:
    ones: dict[Domain, tuple[float, ...]] = {"in": (1.0, 1.0, 1.0), "out": (1.0, 1.0, 1.0)}
    order = shown(crossed(ones, spread=0))
    assert all(mean.mean.value == 1 and mean.std == 0 for mean in order.means)
    assert order.holds
    assert not order.is_clear


def test_means_are_of_a_domain_and_of_each_lora_in_it() -> None:
    cases = crossed(PRINTED, spread=0.01)
    order = shown(cases)
    assert len(order.means) == (2 + 4) * 3
    for mean in order.means:
        mine = [
            one.cosines[mean.cell]
            for one in cases
            if one.domain == mean.domain and mean.lora in ("", one.lora)
        ]
        assert mean.n == len(mine) == (10 if mean.lora else 20)
        assert mean.mean.value == pytest.approx(fmean(mine))
        assert mean.std == pytest.approx(stdev(mine))
        assert mean.mean.low < mean.mean.value < mean.mean.high


def test_without_both_domains_there_is_no_order() -> None:
    order = shown([case("p", "a", "", (0.9, 0.8, 0.7))])
    assert order.holds is None
    assert "no order to speak of" in order.sentence()
    assert [mean.domain for mean in order.means] == ["", "", ""]


# Differences.

Values = list[tuple[str, float]]


def paired(seed: int, n: int = 40) -> tuple[Values, Values, dict[str, str]]:
    random = np.random.default_rng(seed)
    names = [f"p{number}" for number in range(n)]
    base = random.normal(0, 5, n)
    first = [(p, float(b + e)) for p, b, e in zip(names, base, random.normal(1, 1, n), strict=True)]
    second = [(p, float(b)) for p, b in zip(names, base, strict=True)]
    return first, second, dict.fromkeys(names, "")


@pytest.mark.slow
@given(seeds)
def test_of_pairs_the_interval_is_that_of_their_differences(seed: int) -> None:
    first, second, strata = paired(seed)
    found = mean_difference(first, second, strata, seed=seed, resamples=2000)
    differences = [a - b for (_, a), (_, b) in zip(first, second, strict=True)]
    assert found.value == pytest.approx(fmean(differences))
    se = stdev(differences) / math.sqrt(len(differences))
    assert found.se == pytest.approx(se, rel=0.12)
    assert found.low == pytest.approx(found.value - 1.96 * se, abs=0.35 * se)
    assert found.high == pytest.approx(found.value + 1.96 * se, abs=0.35 * se)


@pytest.mark.slow
@given(seeds)
def test_of_strangers_the_interval_is_that_of_two_samples(seed: int) -> None:
    random = np.random.default_rng(seed)
    first = [(f"a{i}", float(v)) for i, v in enumerate(random.normal(3, 1, 40))]
    second = [(f"b{i}", float(v)) for i, v in enumerate(random.normal(1, 2, 30))]
    strata = {name: name[0] for name, _ in (*first, *second)}
    found = mean_difference(first, second, strata, seed=seed, resamples=2000)
    a, b = ([value for _, value in side] for side in (first, second))
    assert found.value == pytest.approx(fmean(a) - fmean(b))
    assert found.se == pytest.approx(math.sqrt(stdev(a) ** 2 / 40 + stdev(b) ** 2 / 30), rel=0.12)


@given(seeds, st.floats(-5, 5))
def test_how_strong_a_lora_is_neither_moves_nor_widens_the_difference(
    seed: int, stronger: float
) -> None:
    """Half of the pictures have it in their domain, and half out of it."""
    first, second, names = paired(seed)
    strata = {name: str(number % 2) for number, name in enumerate(names)}
    before = mean_difference(first, second, strata, seed=seed, resamples=200)
    shifted = [
        [(name, value + stronger * (strata[name] == half)) for name, value in side]
        for half, side in (("0", first), ("1", second))
    ]
    after = mean_difference(*shifted, strata, seed=seed, resamples=200)
    for name in ("value", "low", "high", "se"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), abs=1e-9)


@given(seeds)
def test_the_other_way_round_it_is_the_opposite(seed: int) -> None:
    first, second, strata = paired(seed, 7)
    one = mean_difference(first, second, strata, seed=3, resamples=200)
    other = mean_difference(second, first, strata, seed=3, resamples=200)
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))


def test_of_one_picture_nothing_is_known_but_the_difference() -> None:
    found = mean_difference([("p", 3.0)], [("p", 1.0)], {"p": ""}, seed=0)
    assert found.value == 2
    assert math.isnan(found.low)
    assert found.method == "none"


def test_a_picture_alone_in_its_stratum_is_drawn_with_the_others() -> None:
    first, second = [("a", 1.0), ("b", 2.0)], [("c", 0.0), ("d", 4.0), ("a", 2.0)]
    strata = {"a": "x", "b": "y", "c": "z", "d": "z"}
    found = mean_difference(first, second, strata, seed=0, resamples=500)
    assert found.low < found.value < found.high
