"""Regions do not depend on how they are numbered, and numbers come out as the formulas say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors import clustering

seeds = st.integers(0, 10_000)


def label_map(seed: int, *, height: int = 9, width: int = 11, count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, count, (height, width), generator=random)


def blobs(seed: int, centres: int = 3) -> Tensor:
    """Stripes of clearly different features, a little noise on each."""
    random = torch.Generator().manual_seed(seed)
    stripes = torch.arange(12).repeat_interleave(8).view(12, 8) * centres // 12
    means = torch.eye(5)[:centres] * 10
    return means[stripes].permute(2, 0, 1) + 0.1 * torch.randn(5, 12, 8, generator=random)


def pieces_by_flood(labels: Tensor) -> list[set[tuple[int, int]]]:
    """4-connected regions of equal labels, by walking from cell to cell."""
    height, width = labels.shape
    left = set(itertools.product(range(height), range(width)))
    found = []
    while left:
        walk, piece = [min(left)], set()
        left.discard(walk[0])
        while walk:
            row, column = walk.pop()
            piece.add((row, column))
            for near in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                if near in left and labels[near] == labels[row, column]:
                    left.discard(near)
                    walk.append(near)
        found.append(piece)
    return found


def as_sets(labels: Tensor) -> set[frozenset[tuple[int, int]]]:
    return {
        frozenset(map(tuple, (labels == number).nonzero().tolist())) for number in labels.unique()
    }


def test_channels_become_unit_and_flat_ones_vanish() -> None:
    features = torch.cat(
        [
            torch.randn(3, 6, 7, generator=torch.Generator().manual_seed(0)) * 5 + 2,
            torch.full((1, 6, 7), 3.0),
        ]
    )
    points = clustering.standardise(features)
    assert points.shape == (42, 3)
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(points.std(dim=0), torch.ones(3))


def test_a_picture_of_one_colour_is_one_region() -> None:
    flat = torch.full((4, 6, 6), 0.25)
    labels, _ = clustering.cluster(flat, seed=0)
    assert len(labels.unique()) == 1


@given(seeds)
def test_principal_coordinates_keep_distances(seed: int) -> None:
    points = torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
    turned = clustering.principal(points)
    torch.testing.assert_close(
        torch.cdist(turned, turned), torch.cdist(points, points), atol=1e-4, rtol=1e-4
    )


def test_the_first_coordinates_hold_the_most_variance() -> None:
    from sklearn.decomposition import PCA

    random = torch.Generator().manual_seed(0)
    points = torch.randn(50, 8, generator=random) @ torch.randn(8, 8, generator=random)
    kept = clustering.principal(points, most=3)
    expected = PCA(3).fit_transform(points.numpy())
    np.testing.assert_allclose(kept.abs().numpy(), np.abs(expected), atol=1e-3)


@given(seeds, st.integers(2, 6))
def test_a_silhouette_is_that_of_every_point(seed: int, count: int) -> None:
    """a: mean distance to one's own, b: to the nearest others; 0 for a point alone."""
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(17, 3, generator=random)
    labels = torch.randint(0, count, (17,), generator=random)
    expected = []
    for i, point in enumerate(points):
        apart = (points - point).norm(dim=1)
        own = [float(apart[j]) for j in range(17) if j != i and labels[j] == labels[i]]
        others = [
            float(apart[labels == other].mean()) for other in labels.unique() if other != labels[i]
        ]
        if not others:
            assert clustering.silhouettes(points, [labels], seed=0) == [-1.0]
            return
        a, b = sum(own) / max(1, len(own)), min(others)
        expected.append((b - a) / max(a, b) if own else 0.0)
    (found,) = clustering.silhouettes(points, [labels], seed=0)
    assert found == pytest.approx(sum(expected) / 17, abs=1e-4)


def test_many_points_are_judged_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clustering.standardise(blobs(0))
    labels = (torch.arange(12).repeat_interleave(8) * 3 // 12).long()
    (exact,) = clustering.silhouettes(points, [labels], seed=0)
    monkeypatch.setattr(clustering, "SILHOUETTE_POINTS", 40)
    (drawn,) = clustering.silhouettes(points, [labels], seed=0)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.05)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("centres", [2, 3, 4])
def test_the_number_of_clusters_is_found(centres: int) -> None:
    labels, scores = clustering.cluster(blobs(1, centres), seed=0)
    assert max(scores, key=lambda k: scores[k]) == centres
    assert len(as_sets(labels)) == centres
    assert len(labels[0].unique()) == 1


def test_of_equal_silhouettes_the_fewest_clusters_win() -> None:
    rows = torch.tensor([[0.0], [0.0], [5.0], [5.0]])
    labels, scores = clustering.cluster_points(
        rows, seed=0, ks=(2, 3), find=lambda _rows, _k, _seed: torch.tensor([0, 0, 1, 1])
    )
    assert scores[2] == scores[3]
    picked, _ = clustering.cluster_points(
        rows, seed=0, ks=(2, 3), find=lambda _rows, k, _seed: torch.tensor([0, 0, 1, 1]) * k
    )
    assert labels.tolist() == [0, 0, 1, 1]
    assert picked.max() == 2


@pytest.mark.slow
def test_equal_seeds_give_equal_labels() -> None:
    features = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
    first, _ = clustering.cluster(features, seed=5)
    again, _ = clustering.cluster(features, seed=5)
    assert torch.equal(first, again)


def test_neighbours_in_a_row_pair_up_and_do_not_chain() -> None:
    labels = torch.arange(4).view(1, 4)
    values = torch.tensor([0.0, 0.8, 1.6, 2.4]).view(1, 1, 4)
    assert clustering.merge(labels, values, 0.85).tolist() == [[1, 1, 2, 2]]


def test_what_lies_at_the_threshold_stays_apart() -> None:
    labels = torch.arange(3).view(1, 3)
    values = torch.tensor([0.0, 1.0, 1.75]).view(1, 1, 3)
    assert clustering.merge(labels, values, 0.75).tolist() == [[1, 2, 3]]
    assert clustering.merge(labels, values, 0.76).tolist() == [[2, 1, 1]]


@given(seeds, st.permutations(range(4)))
def test_merging_does_not_depend_on_numbers(seed: int, order: list[int]) -> None:
    labels = label_map(seed)
    values = torch.randn(3, 9, 11, generator=torch.Generator().manual_seed(seed))
    renamed = torch.tensor(order)[labels]
    assert torch.equal(
        clustering.merge(labels, values, 0.2), clustering.merge(renamed, values, 0.2)
    )


@given(seeds, st.floats(0.01, 1.0))
def test_what_merging_leaves_apart_is_apart(seed: int, threshold: float) -> None:
    labels = label_map(seed, count=6)
    values = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(seed))
    merged = clustering.merge(labels, values, threshold)
    means = [values[:, merged == number].mean(dim=1) for number in merged.unique()]
    for one, other in itertools.combinations(means, 2):
        assert float((one - other).norm()) >= threshold - 1e-5
    for cells in as_sets(labels):
        assert any(cells <= union for union in as_sets(merged))


@given(seeds)
def test_no_distance_unites_nothing(seed: int) -> None:
    labels = label_map(seed)
    merged = clustering.merge(labels, torch.zeros(1, 9, 11), 0.0)
    assert as_sets(merged) == as_sets(labels)


def test_halves_that_lie_apart_in_depth_stay_apart() -> None:
    labels = torch.arange(3).view(1, 3)
    values, depth = torch.zeros(1, 1, 3), torch.tensor([[0.0, 0.25, 0.75]])
    assert clustering.merge(labels, values, 0.35, depth=depth, depth_gap=0.25).tolist() == [
        [1, 2, 3]
    ]
    assert clustering.merge(labels, values, 0.35, depth=depth, depth_gap=0.3).tolist() == [
        [1, 1, 2]
    ]
    assert clustering.merge(labels, values, 0.35).tolist() == [[1, 1, 1]]


def test_a_union_has_the_mean_depth_of_its_cells() -> None:
    """Near to each other in a row, and yet the last is too far from the first two together."""
    labels, values = torch.arange(3).view(1, 3), torch.tensor([0.0, 0.1, 0.3]).view(1, 1, 3)
    depth = torch.tensor([[0.0, 0.2, 0.4]])
    merged = clustering.merge(labels, values, 1.0, depth=depth, depth_gap=0.25)
    assert merged.tolist() == [[1, 1, 2]]


@pytest.mark.slow
@given(seeds, st.permutations(range(4)))
def test_merging_with_depth_does_not_depend_on_numbers(seed: int, order: list[int]) -> None:
    labels, random = label_map(seed), torch.Generator().manual_seed(seed)
    values = torch.randn(3, 9, 11, generator=random)
    depth = torch.rand(9, 11, generator=random)
    one, other = (
        clustering.merge(numbers, values, 0.5, depth=depth, depth_gap=0.05)
        for numbers in (labels, torch.tensor(order)[labels])
    )
    assert torch.equal(one, other)


@given(seeds, st.floats(0.0, 0.5), st.floats(0.0, 0.2))
def test_what_merging_leaves_apart_is_apart_in_values_or_depth(
    seed: int, threshold: float, gap: float
) -> None:
    labels, random = label_map(seed, count=6), torch.Generator().manual_seed(seed)
    values = torch.randn(2, 9, 11, generator=random)
    depth = torch.rand(9, 11, generator=random)
    merged = clustering.merge(labels, values, threshold, depth=depth, depth_gap=gap)
    for one, other in itertools.combinations(merged.unique().tolist(), 2):
        apart = values[:, merged == one].mean(dim=1) - values[:, merged == other].mean(dim=1)
        deep = depth[merged == one].mean() - depth[merged == other].mean()
        assert float(apart.norm()) >= threshold - 1e-5 or float(deep.abs()) >= gap - 1e-5


@given(seeds)
def test_components_are_what_a_walk_reaches(seed: int) -> None:
    labels = label_map(seed, count=3)
    found = clustering.components(labels)
    assert as_sets(found) == {frozenset(piece) for piece in pieces_by_flood(labels)}
    assert sorted(found.unique().tolist()) == list(range(1, int(found.max()) + 1))


@pytest.mark.slow
@given(seeds, st.integers(2, 12))
def test_nothing_small_is_left(seed: int, smallest: int) -> None:
    swept = clustering.sweep(label_map(seed), smallest=smallest)
    sizes = [len(piece) for piece in pieces_by_flood(swept)]
    assert len(sizes) == 1 or min(sizes) >= smallest


@given(seeds)
def test_sweeping_moves_no_large_piece(seed: int) -> None:
    labels = label_map(seed, count=2)
    swept = clustering.sweep(labels, smallest=6)
    for piece in pieces_by_flood(labels):
        if len(piece) >= 6:
            assert all(swept[cell] == labels[cell] for cell in piece)


def test_fragments_that_touch_do_not_swap() -> None:
    labels = torch.zeros(5, 6, dtype=torch.long)
    labels[2, 2], labels[2, 3] = 1, 2
    assert not clustering.sweep(labels, smallest=3).any()


def test_of_equals_around_a_piece_the_larger_wins() -> None:
    labels = torch.tensor([[1, 1, 5, 2, 2, 2, 2]])
    assert clustering.sweep(labels, smallest=2).tolist() == [[1, 1, 2, 2, 2, 2, 2]]


def test_drawn_cells_stay_from_four_on() -> None:
    labels = torch.zeros(8, 8, dtype=torch.long)
    labels[1:3, 1:3], labels[5, 5:8] = 1, 2
    hand = labels > 0
    swept = clustering.sweep(labels, smallest=20, protected=hand)
    assert (swept[1:3, 1:3] == 1).all()
    assert not (swept == 2).any()


def test_drawn_cells_are_never_held_to_more_than_the_others() -> None:
    labels = torch.zeros(6, 6, dtype=torch.long)
    labels[2, 2:4] = 1
    assert torch.equal(clustering.sweep(labels, smallest=2, protected=labels > 0), labels)


def test_a_picture_smaller_than_the_smallest_piece_stays() -> None:
    labels = torch.full((2, 2), 7)
    assert torch.equal(clustering.sweep(labels), labels)


@given(seeds)
def test_numbers_go_by_area_then_by_place(seed: int) -> None:
    labels = label_map(seed)
    numbered = clustering.by_area(labels)
    assert as_sets(numbered) == as_sets(labels)
    keys = [
        (-int((numbered == n).sum()), int((numbered.flatten() == n).nonzero()[0]))
        for n in range(1, int(numbered.max()) + 1)
    ]
    assert keys == sorted(keys)
