"""Segmentations of COCO, in all three of its forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylecli.engine.route.data import segments
from stylecli.errors import InputError
from tests.reference import rle

Masks = st.integers(1, 7).flatmap(
    lambda width: st.lists(
        st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=9
    )
)


@given(Masks)
def test_run_lengths_come_back_as_the_mask_plain_or_as_text(mask: list[list[bool]]) -> None:
    size, counts = (len(mask), len(mask[0])), rle.runs_of(mask)
    for written in (counts, rle.text_of(counts)):
        said = {"size": list(size), "counts": written}
        assert segments.decoded(said, size, "a").tolist() == mask


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=12))
def test_text_holds_counts_of_any_size(counts: list[int]) -> None:
    assert segments.counts_of(rle.text_of(counts)) == counts


def test_columns_come_first() -> None:
    """Four pixels down the first column of three."""
    mask = segments.unrolled([0, 4, 8], (4, 3))
    assert mask[:, 0].all()
    assert not mask[:, 1:].any()


@settings(max_examples=20)
@given(
    st.floats(40, 90), st.floats(95, 105), st.floats(95, 105), st.integers(24, 200), st.floats(0, 6)
)
def test_the_area_of_a_polygon_is_the_analytic_one(
    radius: float, x: float, y: float, corners: int, turn: float
) -> None:
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    polygon = [
        value for a in angles for value in (x + radius * math.cos(a), y + radius * math.sin(a))
    ]
    analytic = corners / 2 * radius**2 * math.sin(2 * math.pi / corners)
    mask = segments.decoded([polygon], (200, 200), "a")
    assert int(mask.sum()) == pytest.approx(analytic, rel=0.01)


def test_a_square_covers_its_pixels_and_no_others() -> None:
    mask = segments.decoded([[2, 1, 6, 1, 6, 4, 2, 4]], (8, 8), "a")
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:4, 2:6] = True
    assert torch.equal(mask, expected)


def test_parts_of_an_object_are_one_mask() -> None:
    parts = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 8, 2, 8, 8, 2, 8]]
    mask = segments.decoded(parts, (8, 8), "a")
    assert mask[3, 3]
    assert int(mask.sum()) == 16 + 36 - 4


def test_a_polygon_beyond_the_picture_ends_at_its_edge() -> None:
    mask = segments.decoded([[-9, -9, 20, -9, 20, 3, -9, 3]], (8, 8), "a")
    assert mask[:3].all()
    assert not mask[3:].any()


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        [[1, 2, 3]],
        [[1, 2, 3, 4]],
        [["a", "b", "c", "d", "e", "f"]],
        {"size": [8, 8]},
        {"size": [4, 4], "counts": [16]},
        {"size": [8, 8], "counts": [3, 4]},
        {"size": [8, 8], "counts": [70, -6]},
        {"size": [8, 8], "counts": [10**30]},
        {"size": [8, 8], "counts": "~"},
        {"size": [8, 8], "counts": "R"},
    ],
)
def test_what_is_none_is_refused_by_name(odd: object) -> None:
    with pytest.raises(InputError, match="annotation 5"):
        segments.decoded(odd, (8, 8), "annotation 5")
