"""Agreement of raters and strengths of methods, against textbooks and slow formulas."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.evaluation.agreement import fleiss_kappa, krippendorff_alpha
from stylecli.evaluation.votes import binomial_p, bradley_terry

# Fourteen raters, ten subjects, five categories.
FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
# Four observers, twelve units; 0 is missing.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]


def units(rows: list[list[int]]) -> list[list[int]]:
    return [[choice for choice in unit if choice] for unit in zip(*rows, strict=True)]


def test_the_textbook_matrix_has_the_textbook_kappa() -> None:
    assert round(fleiss_kappa(FLEISS), 3) == 0.210


def test_the_textbook_example_has_the_textbook_alpha() -> None:
    assert round(krippendorff_alpha(units(KRIPPENDORFF)), 3) == 0.743


def test_alpha_does_not_depend_on_the_order_of_raters_or_units() -> None:
    shuffled = [KRIPPENDORFF[at][::-1] for at in (2, 0, 3, 1)]
    assert krippendorff_alpha(units(shuffled)) == pytest.approx(
        krippendorff_alpha(units(KRIPPENDORFF))
    )


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=0, max_size=5), max_size=7))
def test_alpha_is_one_minus_observed_over_expected_disagreement(found: list[list[str]]) -> None:
    """The same by listing every pair of choices, instead of counting them."""
    pairable = [unit for unit in found if len(unit) > 1]
    every = [choice for unit in pairable for choice in unit]
    expected = [a != b for a, b in permutations(every, 2)]
    alpha = krippendorff_alpha(found)
    if not any(expected):
        assert math.isnan(alpha)
        return
    observed = sum(
        sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in pairable
    ) / len(every)
    assert alpha == pytest.approx(1 - observed / np.mean(expected))


@given(
    st.integers(2, 5).flatmap(
        lambda raters: st.lists(
            st.lists(st.integers(0, 2), min_size=raters, max_size=raters), min_size=1, max_size=6
        )
    )
)
def test_kappa_is_the_share_of_agreeing_pairs_beyond_chance(choices: list[list[int]]) -> None:
    pairs = [a == b for item in choices for a, b in combinations(item, 2)]
    every = [choice for item in choices for choice in item]
    chance = sum((every.count(k) / len(every)) ** 2 for k in range(3))
    kappa = fleiss_kappa([[item.count(k) for k in range(3)] for item in choices])
    if len(set(every)) == 1:
        assert math.isnan(kappa)
    else:
        assert kappa == pytest.approx((np.mean(pairs) - chance) / (1 - chance))


def test_kappa_refuses_unequal_numbers_of_raters() -> None:
    with pytest.raises(ValueError, match="unequal"):
        fleiss_kappa([[2, 0], [1, 0]])


def test_of_nothing_nothing_is_known() -> None:
    assert math.isnan(fleiss_kappa([]))
    assert math.isnan(fleiss_kappa([[1, 0], [0, 1]]))
    assert math.isnan(krippendorff_alpha([["a"], ["b"]]))
    assert math.isnan(binomial_p(0, 0))


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_p_is_twice_the_smaller_tail(case: tuple[int, int]) -> None:
    successes, n = case
    least = min(successes, n - successes)
    tail = sum(comb(n, k) for k in range(least + 1)) / 2**n
    assert binomial_p(successes, n) == pytest.approx(min(1, 2 * tail))


def test_how_few_votes_of_133_and_of_60_differ_from_half() -> None:
    assert binomial_p(54, 133) < 0.05 < binomial_p(55, 133)
    assert binomial_p(21, 60) < 0.05 < binomial_p(22, 60)


def test_who_ties_with_everyone_is_as_strong_as_everyone() -> None:
    strengths = bradley_terry([[0, 4, 2.5], [4, 0, 3], [2.5, 3, 0]])
    assert strengths == pytest.approx([1 / 3] * 3)


def test_strengths_are_found_again_in_the_shares_they_make() -> None:
    true = np.array([0.5, 0.3, 0.15, 0.05])
    # Unequal numbers of meetings, so that no row of sums gives it away.
    met = np.array([[0, 10, 40, 5], [10, 0, 30, 20], [40, 30, 0, 8], [5, 20, 8, 0]])
    wins = met * true[:, None] / (true[:, None] + true)
    assert bradley_terry(wins.tolist()) == pytest.approx(true.tolist(), rel=1e-6)


def test_at_the_fit_everyone_won_as_often_as_expected() -> None:
    wins = np.array([[0, 7, 3], [2, 0, 6], [5, 4, 0]], dtype=float)
    strengths = np.array(bradley_terry(wins.tolist()))
    chances = strengths[:, None] / (strengths[:, None] + strengths)
    assert ((wins + wins.T) * chances).sum(axis=1) == pytest.approx(wins.sum(axis=1))


@pytest.mark.parametrize(
    "wins",
    [
        [[0, 3], [0, 0]],  # who always wins is infinitely strong
        [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]],  # two pairs that never met
        [[0]],
    ],
)
def test_strengths_that_votes_do_not_settle_are_not_made_up(wins: list[list[float]]) -> None:
    assert all(map(math.isnan, bradley_terry(wins)))
