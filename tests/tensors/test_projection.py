"""Axes against scikit-learn and loops, what may not change them, and cosines that are exactly 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors.projection import (
    cosine_by_position,
    cosine_flat,
    fixed_signs,
    joint_pca,
    unit_range,
)

seeds = st.integers(0, 10_000)
# Fewer positions than channels, and more.
shapes = st.sampled_from([(2, 5, 3, 4), (3, 40, 2, 3), (1, 4, 5, 5)])


def maps(seed: int, shape: tuple[int, ...] = (2, 5, 3, 4)) -> Tensor:
    """Channels of clearly different spread, so that no two axes are equally good."""
    random = torch.Generator().manual_seed(seed)
    spread = 2.0 ** -torch.arange(shape[1])[:, None, None]
    return torch.randn(shape, generator=random) * spread + torch.randn(1, generator=random)


def points(stack: Tensor) -> Any:
    """One row for each position of each map, by walking."""
    models, channels, height, width = stack.shape
    return np.array(
        [
            [float(stack[m, c, y, x]) for c in range(channels)]
            for m in range(models)
            for y in range(height)
            for x in range(width)
        ]
    )


def turned(seed: int, channels: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(channels, channels, generator=random)).Q


@given(seeds, shapes)
def test_axes_are_those_of_all_positions_of_all_maps_together(
    seed: int, shape: tuple[int, int, int, int]
) -> None:
    from sklearn.decomposition import PCA

    stack = maps(seed, shape)
    found = joint_pca(stack)
    rows = points(stack)
    theirs = PCA(n_components=3, svd_solver="full").fit(rows)
    assert np.allclose(found.mean, rows.mean(axis=0), atol=1e-6)
    assert np.allclose(found.explained, theirs.explained_variance_ratio_, atol=1e-6)
    for mine, other in zip(found.components.numpy(), theirs.components_, strict=True):
        assert abs(mine @ other) == pytest.approx(1, abs=1e-6)
        assert mine[np.abs(mine).argmax()] > 0
    expected = (rows - rows.mean(axis=0)) @ found.components.numpy().T
    models, _, height, width = shape
    for row, value in enumerate(expected):
        m, rest = divmod(row, height * width)
        at = found.coordinates[m, :, rest // width, rest % width]
        assert np.allclose(at, value, atol=1e-5)
    assert found.coordinates.shape == (models, 3, height, width)


@given(seeds, shapes)
def test_it_does_not_matter_which_of_two_opposite_vectors_a_decomposition_gives(
    seed: int, shape: tuple[int, int, int, int]
) -> None:
    stack = maps(seed, shape)
    before = joint_pca(stack)
    decompose = torch.linalg.svd
    signs = torch.randint(0, 2, (64,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1

    def other_signs(matrix: Tensor, *, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
        left, values, right = decompose(matrix, full_matrices=full_matrices)
        own = signs[: len(values)].to(right.dtype)
        return left * own, values, right * own[:, None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "svd", other_signs)
        after = joint_pca(stack)
    assert torch.equal(before.components, after.components)
    assert torch.equal(before.coordinates, after.coordinates)


@given(seeds)
def test_turning_the_features_turns_the_axes_and_moves_no_coordinate(seed: int) -> None:
    stack = maps(seed).double()
    basis = turned(seed + 1, stack.shape[1]).double()
    before = joint_pca(stack)
    after = joint_pca(torch.einsum("dc,mchw->mdhw", basis, stack))
    assert torch.allclose(before.explained, after.explained)
    for axis in range(3):
        mine, other = before.coordinates[:, axis], after.coordinates[:, axis]
        assert min((mine - other).abs().max(), (mine + other).abs().max()) < 1e-6


@given(seeds, st.floats(-100, 100))
def test_moving_the_features_moves_no_coordinate(seed: int, by: float) -> None:
    stack = maps(seed).double()
    before, after = joint_pca(stack), joint_pca(stack + by)
    assert torch.allclose(before.coordinates, after.coordinates, atol=1e-6)
    assert torch.allclose(after.mean - before.mean, torch.full_like(before.mean, by))


@given(seeds)
def test_equal_features_get_equal_colours_in_whichever_model(seed: int) -> None:
    stack = maps(seed)
    found = joint_pca(torch.cat([stack, stack[:1]])).coordinates
    assert torch.equal(found[0], found[-1])
    shown = unit_range(found)
    assert torch.equal(shown[0], shown[-1])


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (1, 7, 1, 1), (2, 2, 3, 3)])
def test_axes_that_are_not_there_are_zero(shape: tuple[int, int, int, int]) -> None:
    found = joint_pca(maps(3, shape))
    there = min(shape[1], shape[0] * shape[2] * shape[3] - 1)
    assert found.components.norm(dim=1)[there:].eq(0).all()
    assert found.explained[there:].eq(0).all()
    assert torch.isfinite(found.coordinates).all()


def test_where_nothing_varies_all_is_grey() -> None:
    found = joint_pca(torch.full((2, 4, 3, 3), 7.0))
    assert not found.explained.any()
    assert unit_range(found.coordinates).eq(0.5).all()


@given(st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_a_vector_and_its_opposite_have_one_sign(rows: list[list[int]]) -> None:
    vectors = torch.tensor(rows, dtype=torch.float32)
    chosen = fixed_signs(vectors)
    assert torch.equal(chosen + 0, fixed_signs(-vectors) + 0)
    for mine, row in zip(chosen, vectors, strict=True):
        assert torch.equal(mine, row) or torch.equal(mine, -row)
        assert mine.max() == row.abs().max() or mine.min() == -row.abs().max()
    assert torch.equal(chosen.gather(1, vectors.abs().argmax(1, keepdim=True)).squeeze(1),
                       vectors.abs().max(1).values)  # fmt: skip


@given(seeds)
def test_the_range_is_that_of_the_percentiles_of_all_maps(seed: int) -> None:
    stack = maps(seed, (3, 3, 7, 9))
    found = unit_range(stack)
    for axis in range(3):
        low, high = np.percentile(stack[:, axis].double().numpy(), [1, 99])
        expected = ((stack[:, axis].double() - low) / (high - low)).clamp(0, 1)
        assert torch.allclose(found[:, axis].double(), expected, atol=1e-6)


def by_loop(a: Tensor, b: Tensor) -> float:
    total = 0.0
    for y in range(a.shape[1]):
        for x in range(a.shape[2]):
            one, two = a[:, y, x].tolist(), b[:, y, x].tolist()
            total += sum(p * q for p, q in zip(one, two, strict=True)) / (
                math.hypot(*one) * math.hypot(*two)
            )
    return total / (a.shape[1] * a.shape[2])


@given(seeds)
def test_cosines_are_what_loops_say(seed: int) -> None:
    a, b = maps(seed)
    assert cosine_by_position(a, b) == pytest.approx(by_loop(a, b), abs=1e-9)
    one, two = a.flatten().tolist(), b.flatten().tolist()
    whole = sum(p * q for p, q in zip(one, two, strict=True))
    assert cosine_flat(a, b) == pytest.approx(whole / math.hypot(*one) / math.hypot(*two), abs=1e-9)


@given(seeds, shapes, st.floats(1e-20, 1e20))
def test_equal_maps_are_exactly_alike_at_any_size(
    seed: int, shape: tuple[int, int, int, int], size: float
) -> None:
    one = maps(seed, shape)[0] * size
    assert cosine_by_position(one, one.clone()) == 1
    assert cosine_flat(one, one.clone()) == 1


@given(seeds)
def test_length_is_nothing_to_a_cosine_and_a_turn_of_both_changes_none(seed: int) -> None:
    a, b = maps(seed).double()
    basis = turned(seed, a.shape[0]).double()
    for cosine in (cosine_by_position, cosine_flat):
        assert cosine(3 * a, 0.5 * b) == pytest.approx(cosine(a, b))
        assert cosine(a, -b) == pytest.approx(-cosine(a, b))
        both = (torch.einsum("dc,chw->dhw", basis, one) for one in (a, b))
        assert cosine(*both) == pytest.approx(cosine(a, b), abs=1e-6)


def test_nothing_is_like_nothing_and_unlike_anything() -> None:
    nothing, something = torch.zeros(2, 1, 2), torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    assert cosine_by_position(nothing, nothing) == 1
    assert cosine_flat(nothing, nothing) == 1
    assert cosine_by_position(nothing, something) == 0.5
    assert cosine_flat(nothing, something) == 0
