"""Circles are the smallest there are, and shares of discs are areas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors import circles
from tests.reference import stylegallery_matching as reference

Point = tuple[float, float]
# Cells of a latent lie on a lattice, where many points share a line or a circle.
lattice = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)
anywhere = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=9
)
disc = st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0.01, 2))

# Two unit circles that run through one another's middles share so much.
LENS = 2 * math.pi / 3 - math.sqrt(3) / 2


def points(*pairs: Point) -> Tensor:
    return torch.tensor(pairs, dtype=torch.double)


def share(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    (found,) = circles.iou(
        torch.tensor([one], dtype=torch.double), torch.tensor([other], dtype=torch.double)
    ).flatten()
    return float(found)


@given(lattice)
def test_of_cells_it_is_the_smallest_of_all_circles(cells: list[tuple[int, int]]) -> None:
    pairs = [(float(x), float(y)) for x, y in cells]
    expected = reference.smallest_circle(pairs)
    assert circles.enclosing(points(*pairs)).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@given(anywhere)
def test_every_point_is_inside_and_no_circle_is_smaller(pairs: list[Point]) -> None:
    x, y, radius = circles.enclosing(points(*pairs)).tolist()
    assert all(math.dist((x, y), pair) <= radius + 1e-9 for pair in pairs)
    assert radius <= reference.smallest_circle(pairs)[2] + 1e-6


@pytest.mark.slow
@given(lattice, st.randoms(use_true_random=False))
def test_the_order_of_points_decides_nothing(cells: list[tuple[int, int]], random) -> None:
    first = circles.enclosing(torch.tensor(cells, dtype=torch.double))
    random.shuffle(cells)
    assert torch.equal(first, circles.enclosing(torch.tensor(cells * 2, dtype=torch.double)))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([(2.0, 3.0)], (2, 3, 0), id="one"),
        pytest.param([(0.0, 0.0), (4.0, 0.0)], (2, 0, 2), id="two"),
        pytest.param([(1.0, 1.0), (1.0, 1.0)], (1, 1, 0), id="twice the same"),
        pytest.param([(0.0, 0.0), (1.0, 1.0), (4.0, 4.0)], (2, 2, math.sqrt(8)), id="on a line"),
        pytest.param([(0.0, 0.0), (4.0, 0.0), (1.0, 1.0)], (2, 0, 2), id="obtuse"),
        pytest.param([(0.0, 0.0), (2.0, 0.0), (0.0, 2.0)], (1, 1, math.sqrt(2)), id="right"),
        pytest.param(
            [(-1.0, 0.0), (1.0, 0.0), (0.0, math.sqrt(3))],
            (0, 1 / math.sqrt(3), 2 / math.sqrt(3)),
            id="acute",
        ),
        pytest.param([(0.0, 0.0), (1.0, 1e-9), (2.0, 0.0)], (1, 0, 1), id="a sliver"),
    ],
)
def test_few_points(pairs: list[Point], expected: tuple[float, float, float]) -> None:
    assert circles.enclosing(points(*pairs)).tolist() == pytest.approx(expected, abs=1e-8)


def test_around_a_centroid_it_is_larger_for_an_l() -> None:
    """Two bars of a 64-grid, 16 wide."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    corner = (rows >= 48) | (columns < 16)
    cells = torch.stack([columns[corner], rows[corner]], dim=1)
    assert float(circles.enclosing(cells)[2]) == pytest.approx(63 / math.sqrt(2))
    pairs = [(float(x), float(y)) for x, y in cells.tolist()]
    expected = reference.centroid_circle(pairs)
    assert circles.around_centroid(cells).tolist() == pytest.approx(expected)
    assert expected[2] > 46.8


@pytest.mark.slow
@given(disc, disc)
def test_the_share_of_two_discs_is_that_of_their_strips(one, other) -> None:
    assert share(one, other) == pytest.approx(reference.iou(one, other), abs=1e-3)
    assert share(one, other) == pytest.approx(share(other, one), abs=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 1), (0, 0, 1), 1.0),
        ((0, 0, 1), (3, 0, 1), 0.0),
        ((0, 0, 1), (2, 0, 1), 0.0),
        ((0, 0, 2), (0.5, 0, 1), 0.25),
        ((0, 0, 2), (1, 0, 1), 0.25),
        ((0, 0, 0), (0, 0, 0), 0.0),
        ((0, 0, 0), (0, 0, 1), 0.0),
        ((0, 0, 0), (2, 0, 1), 0.0),
        ((0, 0, 1), (1, 0, 1), LENS / (2 * math.pi - LENS)),
    ],
)
def test_discs_in_closed_form(one, other, expected: float) -> None:
    assert share(one, other) == pytest.approx(expected, abs=1e-12)


def test_every_pair_has_a_share_of_its_own() -> None:
    some = torch.tensor([[0.0, 0.0, 1.0], [5.0, 0.0, 1.0]])
    others = torch.tensor([[0.0, 0.0, 1.0], [5.0, 0.0, 2.0], [9.0, 9.0, 1.0]])
    torch.testing.assert_close(
        circles.iou(some, others), torch.tensor([[1.0, 0, 0], [0, 0.25, 0]], dtype=torch.double)
    )
