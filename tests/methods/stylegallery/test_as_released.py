"""Each switch to the authors' code does what their code does, written out cell by cell."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.methods.stylegallery import as_released, dfcc
from stylecli.methods.stylegallery.dfcc import Regions, Seen, divide
from stylecli.recipe.gallery import Dfcc
from stylecli.tensors import clustering
from tests.methods.stylegallery.pictures import AS_RELEASED, as_sets, picture_of, random_picture
from tests.reference import stylegallery_regions as explicit

seeds = st.integers(0, 10_000)


def shared_draws(seed: int, rows: int) -> Callable[[int], tuple[Any, Any]]:
    """First and new centroids, drawn as the package draws them."""

    def of(k: int) -> tuple[Callable[[], list[int]], Callable[[], int]]:
        generator = torch.Generator().manual_seed(seed)
        return (
            lambda: torch.randperm(rows, generator=generator)[: min(k, rows)].tolist(),
            lambda: int(torch.randint(rows, (), generator=generator)),
        )

    return of


def drawn_matrix(seed: int) -> Callable[[int, int], Tensor]:
    return lambda rows, columns: torch.from_numpy(
        np.random.RandomState(seed).normal(size=(rows, columns))
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_all_of_stage_1_as_released(seed: int) -> None:
    seen = random_picture(seed, (14, 12))
    depth = torch.nn.functional.interpolate(
        torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(seed)), (40, 33)
    )[0, 0]
    settings = Dfcc(k_max=6, min_cells=64 * 64 // 40, **AS_RELEASED)
    found = divide(seen, settings, seed=seed, depth=depth)
    expected = explicit.regions(
        seen.features,
        seen.clean,
        depth,
        ks=range(2, 7),
        drawn=drawn_matrix(seed),
        starts=shared_draws(seed, 168),
        smallest=5,
    )
    # One more number than those of clusters: pieces that are split use the same smallest size.
    assert as_sets(found.labels) == as_sets(expected)


@pytest.mark.slow
@given(seeds, st.integers(1, 7))
def test_random_starts_give_the_labels_of_the_explicit_runs(seed: int, k: int) -> None:
    rows = torch.randn(23, 3, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    found = as_released.k_means(rows, k, seed)
    assert torch.equal(found, explicit.k_means(rows, *shared_draws(seed, 23)(k)))


def test_a_centroid_without_points_goes_on_elsewhere() -> None:
    """Two of three centroids start on equal points again and again."""
    rows = torch.tensor([[0.0]] * 8 + [[10.0], [20.0]])
    for seed in range(5):
        found = as_released.k_means(rows, 3, seed)
        assert torch.equal(found, explicit.k_means(rows, *shared_draws(seed, 10)(3)))
        assert len(found.unique()) == 3


def test_labels_are_older_than_the_last_move() -> None:
    """Stopped after its first look, a run labels by the points it started at."""
    rows = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    generator = torch.Generator().manual_seed(0)
    start = rows[torch.randperm(4, generator=generator)[:2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(as_released, "MAX_ITERATIONS", 1)
        patch.setattr(as_released, "RESTARTS", 1)
        found = as_released.k_means(rows, 2, 0)
    assert torch.equal(found, torch.cdist(rows, start).argmin(dim=1))


@given(seeds)
def test_random_components_are_those_of_the_explicit_iteration(seed: int) -> None:
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(seed)).double()
    rows = rows - rows.mean(dim=0)
    found = as_released.principal(rows.float(), 5, seed).double()
    expected = explicit.low_rank(rows, drawn_matrix(seed)(12, 5))
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-4, rtol=1e-4)


def test_random_components_miss_a_little_of_the_variance() -> None:
    rows = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    exact = float(clustering.principal(rows, 10).square().sum())
    drawn = float(as_released.principal(rows, 10, 0).square().sum())
    assert 0.9 * exact < drawn < exact * (1 - 1e-4)


@pytest.mark.parametrize(
    ("close", "unions"),
    [
        ([(0, 2), (1, 2)], {frozenset({0}), frozenset({1, 2})}),
        ([(0, 1), (1, 2)], {frozenset({0, 1, 2})}),
        ([(0, 3), (1, 3), (2, 3)], {frozenset({0}), frozenset({1}), frozenset({2, 3})}),
    ],
)
def test_ordered_merging_gives_the_unions_that_were_measured(
    close: list[tuple[int, int]], unions: set[frozenset[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1 + max(max(pair) for pair in close)
    gaps = torch.full((count, count), 2.0)
    for one, other in close:
        gaps[one, other] = gaps[other, one] = 0.5
    monkeypatch.setattr(clustering, "distances", lambda _means, _gap: gaps)
    labels = torch.arange(count)[None]
    merged = as_released.merge(labels, torch.zeros(1, 1, count), 0.85)
    assert {frozenset(column for _, column in cells) for cells in as_sets(merged)} == unions


@given(seeds, st.floats(0.0, 1.0), st.floats(0.0, 0.5))
def test_ordered_merging_follows_parents(seed: int, threshold: float, gap: float) -> None:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 6, (6, 7), generator=random) * 3
    values = torch.randn(2, 6, 7, generator=random)
    depth = torch.rand(6, 7, generator=random)
    assert torch.equal(
        as_released.merge(labels, values, threshold), explicit.merge(labels, values, threshold)
    )
    assert torch.equal(
        as_released.merge(labels, values, threshold, depth=depth, depth_gap=gap),
        explicit.merge(labels, values, threshold, depth, gap),
    )


def test_ordered_merging_depends_on_numbers_and_the_other_does_not() -> None:
    values = torch.tensor([0.0, 1.6, 0.8]).view(1, 1, 3)
    orders = [torch.tensor([order]) for order in itertools.permutations(range(3))]
    ordered = {frozenset(as_sets(as_released.merge(order, values, 0.85))) for order in orders}
    closest = {frozenset(as_sets(clustering.merge(order, values, 0.85))) for order in orders}
    assert len(ordered) > 1
    assert len(closest) == 1


@given(seeds, st.integers(1, 9))
def test_a_single_look_is_the_explicit_one(seed: int, smallest: int) -> None:
    labels = torch.randint(0, 4, (7, 8), generator=torch.Generator().manual_seed(seed))
    found = as_released.sweep(labels, smallest=smallest)
    assert torch.equal(found, explicit.sweep(labels, smallest))


def test_fragments_that_touch_vanish_or_swap() -> None:
    labels = torch.zeros(9, 16, dtype=torch.long)
    labels[4, 2:7], labels[4, 7:12] = 1, 2
    labels[3, 2:7], labels[5, 2:7] = 2, 2
    seen = picture_of(labels)
    swept = divide(seen, Dfcc(k=3, min_cells=64 * 64 // 6), seed=0)
    assert (swept.labels == 1).all()
    once = divide(seen, Dfcc(k=3, min_cells=64 * 64 // 6, sweep="once"), seed=0)
    assert int(once.labels.max()) == 2


@given(seeds, st.integers(2, 20), st.integers(2, 20))
def test_nearest_depth_is_min_and_max_of_single_values(seed: int, height: int, width: int) -> None:
    depth = torch.rand(height, width, generator=torch.Generator().manual_seed(seed))
    seen = Seen(*(torch.zeros(1, 4, 5) for _ in range(3)))
    found = divide(seen, Dfcc(depth_resize="nearest", k=1), seed=0, depth=depth)
    expected = explicit.depth_of_cells(depth, (4, 5))
    if found.depth is None:
        assert expected.max() < 1e-3
    else:
        torch.testing.assert_close(found.depth, expected)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("switch", sorted(AS_RELEASED))
def test_each_switch_changes_some_picture(switch: str) -> None:
    """Labels, or the silhouettes beneath them."""
    usual = Dfcc(k_max=6, merge_distance=0.4, depth_span=0.4, min_cells=64 * 64 // 20, components=3)
    other = usual.model_copy(update={switch: AS_RELEASED[switch]})

    def outcome(settings: Dfcc, seed: int) -> Regions:
        depth = torch.rand(60, 50, generator=torch.Generator().manual_seed(seed)) ** 3
        return divide(random_picture(seed), settings, seed=seed, depth=depth)

    pairs = ((outcome(usual, seed), outcome(other, seed)) for seed in range(30))
    assert any(as_sets(a.labels) != as_sets(b.labels) or a.scores != b.scores for a, b in pairs)


def test_thresholds_are_those_of_the_usual_number_of_cells() -> None:
    assert dfcc.USUAL_CELLS == 4096
    assert Dfcc().min_cells == explicit.SMALL == clustering.SMALL_CELLS
