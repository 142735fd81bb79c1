"""Pictures fall into the regions that the notes describe, and the switches into the authors'."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError
from stylecli.methods.stylegallery.dfcc import Seen, divide, see
from stylecli.recipe.gallery import Dfcc
from stylecli.tensors import clustering
from tests.methods.stylegallery.pictures import (
    AS_RELEASED,
    as_sets,
    assert_numbered,
    picture_of,
    random_picture,
    thirds,
)
from tests.small import noise

seeds = st.integers(0, 10_000)


# What the model sees.


@pytest.mark.slow
def test_pictures_are_seen_alone_as_in_company(shared: Backbone) -> None:
    pictures = noise(3, 3, 32, 32).sigmoid()
    together = see(shared, pictures, Dfcc(steps=3))
    for row, one in enumerate(together):
        (alone,) = see(shared, pictures[row : row + 1], Dfcc(steps=3))
        torch.testing.assert_close(one.clean, alone.clean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.noise, alone.noise, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.features, alone.features, atol=1e-2, rtol=2e-3)


def test_features_survive_half_precision_unchanged(shared: Backbone) -> None:
    (seen,) = see(shared, noise(1, 3, 32, 32).sigmoid(), Dfcc(steps=2))
    assert torch.equal(seen.features.half().float(), seen.features)
    assert seen.features.dtype == seen.clean.dtype == seen.noise.dtype == torch.float32
    assert seen.clean.shape == seen.noise.shape == (4, 16, 16)


def test_what_is_seen_can_be_trained_on(shared: Backbone) -> None:
    """Nothing keeps the mark of inference mode, which autograd refuses."""
    (seen,) = see(shared, noise(1, 3, 32, 32).sigmoid(), Dfcc(steps=1))
    for one in (seen.clean, seen.noise, seen.features):
        weight = torch.ones((), requires_grad=True)
        (one * weight).sum().backward()
        assert weight.grad is not None


def test_latents_are_the_mean_of_the_posterior(shared: Backbone) -> None:
    pictures = noise(1, 3, 32, 32).sigmoid()
    (seen,) = see(shared, pictures, Dfcc(steps=1))
    assert torch.equal(seen.clean[None], shared.encode_image(pictures))


def test_without_steps_the_latents_are_everything(shared: Backbone) -> None:
    (seen,) = see(shared, noise(1, 3, 32, 32).sigmoid(), Dfcc(steps=0))
    assert torch.equal(seen.noise, seen.clean)
    assert torch.equal(seen.features, seen.clean.half().float())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_features_of_any_block_are_at_latent_size(shared: Backbone, block: int) -> None:
    (seen,) = see(shared, noise(1, 3, 32, 48).sigmoid(), Dfcc(steps=1, block=block))
    assert seen.features.shape[1:] == seen.clean.shape[1:] == (16, 24)


def test_blocks_differ(shared: Backbone) -> None:
    pictures = noise(1, 3, 32, 32).sigmoid()
    two, three = (see(shared, pictures, Dfcc(steps=1, block=block))[0] for block in (2, 3))
    assert two.features.shape != three.features.shape or not torch.equal(
        two.features, three.features
    )


def test_a_picture_of_one_colour_is_one_region_whatever_the_model_makes_of_it(
    shared: Backbone,
) -> None:
    plain = torch.tensor([0.2, 0.9, 0.4])[None, :, None, None].expand(1, 3, 32, 32)
    pictures = torch.cat([plain, noise(1, 3, 32, 32).sigmoid()])
    seen, other = see(shared, pictures, Dfcc(steps=2))
    assert not seen.features.any()
    assert other.features.any()
    flat = torch.full((8, 8), 3.0)
    for how in ({}, AS_RELEASED):
        found = divide(seen, Dfcc(merge_distance=0, **how), seed=0, depth=flat)
        assert (found.labels == 1).all()
        assert found.depth is None


def test_a_model_that_overflows_is_an_error_with_a_way_out(fresh: Backbone) -> None:
    fresh.unet.register_forward_pre_hook(lambda _m, given: (given[0] * torch.inf, *given[1:]))
    with pytest.raises(ItemError, match="NaN") as caught:
        see(fresh, noise(1, 3, 32, 32).sigmoid(), Dfcc(steps=1))
    assert "--dtype float32" in caught.value.fix


@pytest.mark.slow
def test_features_beyond_half_precision_stay_finite(fresh: Backbone) -> None:
    handle = fresh.unet.up_blocks[2].register_forward_hook(lambda _m, _i, output: output * 1e6)
    (seen,) = see(fresh, noise(1, 3, 32, 32).sigmoid(), Dfcc(steps=1))
    handle.remove()
    assert seen.features.isfinite().all()
    assert float(seen.features.abs().max()) == torch.finfo(torch.half).max


# The regions of a picture.


@pytest.mark.slow
def test_regions_are_found_and_numbered_by_area() -> None:
    found = divide(picture_of(thirds()), Dfcc(), seed=0)
    assert torch.equal(found.labels, thirds() + 1)
    assert found.labels.dtype == torch.int64
    assert max(found.scores, key=lambda k: found.scores[k]) == 3
    assert list(found.scores) == list(range(2, 11))
    assert found.moved == 0
    assert found.depth is None
    assert found.painted == ()


@pytest.mark.slow
@given(seeds)
def test_labels_have_no_gaps_and_only_large_pieces(seed: int) -> None:
    found = divide(
        random_picture(seed), Dfcc(k_max=4, merge_distance=0.3, min_cells=64 * 64 // 20), seed=1
    )
    assert_numbered(found.labels)
    pieces = torch.bincount(clustering.components(found.labels).flatten())[1:]
    assert len(pieces) == 1 or int(pieces.min()) >= 6
    assert 0 <= found.moved <= 1


@pytest.mark.mostly_slow
@pytest.mark.parametrize("how", [{}, AS_RELEASED])
def test_equal_arguments_give_equal_labels_whoever_draws_meanwhile(how: dict[str, Any]) -> None:
    """Nothing random is taken from the global generators, nor are they moved on."""
    settings = Dfcc(k_max=5, merge_distance=0.2, **how)
    depth = torch.rand(30, 30, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())  # noqa: NPY002
    first = divide(random_picture(3), settings, seed=7, depth=depth)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    torch.rand(100)
    again = divide(random_picture(3), settings, seed=7, depth=depth)
    assert torch.equal(first.labels, again.labels)
    assert first.scores == again.scores


def test_turned_pictures_have_turned_regions() -> None:
    upright = picture_of(thirds())
    turned = Seen(
        *(one.mT.contiguous() for one in (upright.clean, upright.noise, upright.features))
    )
    one, other = divide(upright, Dfcc(), seed=0), divide(turned, Dfcc(), seed=0)
    assert torch.equal(one.labels.T, other.labels)


def test_the_number_of_clusters_can_be_fixed() -> None:
    found = divide(picture_of(thirds()), Dfcc(k=2, merge_distance=0), seed=0)
    assert int(found.labels.max()) == 2
    assert list(found.scores) == [2]


def test_one_cluster_is_one_region_and_depth_does_not_split_it() -> None:
    depth = torch.linspace(0, 1, 16)[:, None].expand(16, 18)
    found = divide(picture_of(thirds()), Dfcc(k=1), seed=0, depth=depth)
    assert (found.labels == 1).all()
    assert found.scores == {}


def test_numbers_of_clusters_are_tried_from_k_min_to_k_max() -> None:
    found = divide(picture_of(thirds()), Dfcc(k_min=4, k_max=6), seed=0)
    assert list(found.scores) == [4, 5, 6]


@pytest.mark.slow
def test_clusters_of_like_latents_are_one_region_unless_merging_is_off() -> None:
    seen = picture_of(thirds(), far_apart=0.2, rough=0.01)
    assert int(divide(seen, Dfcc(merge_distance=0.5), seed=0).labels.max()) < 3
    assert int(divide(seen, Dfcc(merge_distance=0.1), seed=0).labels.max()) == 3
    assert int(divide(seen, Dfcc(merge_distance=0), seed=0).labels.max()) == 3


@pytest.mark.parametrize("merge", ["closest", "ordered"])
def test_without_a_distance_nothing_is_merged_after_a_split_either(merge: str) -> None:
    seen = picture_of(thirds(), far_apart=0.0, rough=0.001)
    depth = torch.linspace(0, 1, 16)[:, None].expand(16, 18)
    found = divide(seen, Dfcc(merge_distance=0, merge=merge, k=3), seed=0, depth=depth)
    assert int(found.labels.max()) == 6


def test_regions_from_near_to_far_are_split() -> None:
    seen = picture_of(thirds(), rough=0.01)
    depth = torch.zeros(160, 180)
    depth[60:, 150:] = 7.0  # of the last stripe alone
    found = divide(seen, Dfcc(), seed=0, depth=depth)
    assert len(as_sets(found.labels)) == 4
    assert as_sets(thirds()[:, :15]) <= as_sets(found.labels)
    assert found.depth is not None
    assert found.depth.shape == (16, 18)
    assert {round(float(value), 3) for value in found.depth.unique()} == {0.0, 1.0}
    assert len(as_sets(divide(seen, Dfcc(), seed=0).labels)) == 3


def test_halves_of_like_latents_are_united_again_where_depth_allows() -> None:
    seen = picture_of(torch.zeros(16, 16, dtype=torch.long), rough=0.01)
    depth = torch.zeros(16, 16)
    depth[8:] = 1.0
    split = {"merge_distance": 0.9, "k": 2}
    apart = divide(seen, Dfcc(depth_gap=0.3, **split), seed=0, depth=depth)
    assert int(apart.labels.max()) == 2
    united = divide(seen, Dfcc(depth_gap=1.0, **split), seed=0, depth=depth)
    assert int(united.labels.max()) == 1
    far = divide(seen, Dfcc(depth_gap=1.0, depth_distance=0, **split), seed=0, depth=depth)
    assert int(far.labels.max()) == 2


@pytest.mark.parametrize(("width", "regions"), [(1, 2), (2, 3), (4, 3)])
def test_small_clusters_of_small_pictures_are_split_too(width: int, regions: int) -> None:
    """Twenty of 4096 cells are five of 1024."""
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[10:14, 10 : 10 + width] = 1
    settings = Dfcc(k=2, min_cells=0, depth_resize="nearest")
    near = torch.zeros(32, 32).index_fill(0, torch.arange(12, 32), 1.0) * labels
    found = divide(picture_of(labels), settings, seed=0, depth=near)
    assert int(found.labels.max()) == regions


@pytest.mark.parametrize(("cells", "regions"), [(20, 1), (4, 2)])
def test_small_pieces_are_swept_in_proportion_to_the_picture(cells: int, regions: int) -> None:
    """At 32 x 32 cells twenty become five."""
    labels = torch.zeros(32, 32, dtype=torch.long)
    labels[10:12, 10:12] = 1
    seen = picture_of(labels)
    found = divide(seen, Dfcc(k=2, min_cells=cells), seed=0)
    assert int(found.labels.max()) == regions
    assert found.moved == (4 / 1024 if regions == 1 else 0)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (3, 1)])
def test_the_smallest_pictures_have_regions(size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    seen = Seen(*(torch.randn(4, *size, generator=random) for _ in range(3)))
    depth = torch.rand(7, 9, generator=random)
    for how in ({}, AS_RELEASED):
        assert_numbered(divide(seen, Dfcc(**how), seed=0, depth=depth).labels)


# What users paint.


@pytest.mark.slow
def test_painted_regions_lie_on_the_clusters() -> None:
    painted = torch.zeros(160, 180, dtype=torch.long)
    painted[40:100, 20:70], painted[0:50, 150:180] = 9, 4
    seen = picture_of(thirds())
    found = divide(seen, Dfcc(), seed=0, painted=painted)
    assert_numbered(found.labels)
    assert set(found.of_paint) == {4, 9}
    assert found.painted == tuple(sorted(found.of_paint.values()))
    for number, region in found.of_paint.items():
        assert torch.equal(found.labels == region, painted[5::10, 5::10] == number)
    free = painted[5::10, 5::10] == 0
    without = divide(seen, Dfcc(), seed=0).labels
    for cells in as_sets(without):
        left = frozenset(cell for cell in cells if free[cell])
        assert left in as_sets(found.labels)


def test_painted_regions_can_be_all_there_is() -> None:
    painted = torch.zeros(16, 18, dtype=torch.long)
    painted[:, :6], painted[:, 12:15] = 2, 1
    found = divide(picture_of(thirds()), Dfcc(mask_mode="only"), seed=0, painted=painted)
    assert as_sets(found.labels) == as_sets(painted)
    assert found.scores == {}
    assert len(found.painted) == 2


def test_one_painted_region_may_have_parts() -> None:
    painted = torch.zeros(16, 18, dtype=torch.long)
    painted[:6], painted[10:] = 3, 3
    found = divide(picture_of(thirds()), Dfcc(), seed=0, painted=painted)
    assert found.painted == (1,)
    assert torch.equal(found.labels == 1, painted == 3)


def test_what_is_painted_stays_though_it_is_small() -> None:
    painted = torch.zeros(64, 64, dtype=torch.long)
    painted[10, 10:16], painted[40, 40:43] = 1, 2
    for how in ({}, {"sweep": "once"}):
        seen = picture_of(torch.zeros(64, 64, dtype=torch.long))
        found = divide(seen, Dfcc(k=1, **how), seed=0, painted=painted)
        assert set(found.of_paint) == {1}  # three cells are less than four
        assert torch.equal(found.labels == found.of_paint[1], painted == 1)
        assert found.moved == 3 / 4096


def test_what_painting_cuts_off_is_swept_up() -> None:
    painted = torch.zeros(64, 64, dtype=torch.long)
    painted[:, :20] = 1
    painted[30, 5] = 0
    found = divide(
        picture_of(torch.zeros(64, 64, dtype=torch.long)), Dfcc(k=1), seed=0, painted=painted
    )
    assert (found.labels[:, :20] == found.of_paint[1]).all()


@pytest.mark.slow
def test_a_mask_without_paint_changes_nothing() -> None:
    seen = picture_of(thirds())
    found = divide(seen, Dfcc(), seed=0, painted=torch.zeros(5, 5, dtype=torch.long))
    assert torch.equal(found.labels, divide(seen, Dfcc(), seed=0).labels)
    assert found.painted == ()


# Segments in the clusters' place.


def boxes(*sides: tuple[int, int, int, int], size: tuple[int, int] = (16, 18)) -> Tensor:
    """Masks of ten pixels a cell."""
    masks = torch.zeros(len(sides), size[0] * 10, size[1] * 10, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, sides, strict=True):
        mask[top * 10 : bottom * 10, left * 10 : right * 10] = True
    return masks


def test_small_segments_lie_on_large_ones_in_any_order() -> None:
    seen = random_picture(0, (16, 18))
    masks = boxes((4, 4, 8, 9), (0, 0, 16, 18), (2, 2, 12, 14))
    found = divide(seen, Dfcc(segment_distance=0), seed=0, segments=masks)
    expected = torch.zeros(16, 18, dtype=torch.long)
    expected[2:12, 2:14] = 1
    expected[4:8, 4:9] = 2
    assert as_sets(found.labels) == as_sets(expected)
    assert_numbered(found.labels)
    for order in itertools.permutations(range(3)):
        again = divide(seen, Dfcc(segment_distance=0), seed=0, segments=masks[list(order)])
        assert torch.equal(again.labels, found.labels)


def test_cells_in_no_segment_join_the_segment_they_look_like() -> None:
    seen = picture_of(thirds())
    masks = boxes((0, 0, 16, 8), (0, 9, 16, 14), (0, 15, 16, 17))
    found = divide(seen, Dfcc(segment_distance=0), seed=0, segments=masks)
    assert torch.equal(found.labels, thirds() + 1)
    assert found.scores == {}


def test_where_segments_leave_much_open_clusters_fill_it() -> None:
    seen = picture_of(thirds())
    found = divide(seen, Dfcc(segment_distance=0), seed=0, segments=boxes((2, 2, 8, 8)))
    inside = torch.zeros(16, 18, dtype=torch.long)
    inside[2:8, 2:8] = 9
    expected = torch.where(inside > 0, inside, thirds())
    assert as_sets(found.labels) == as_sets(expected)
    assert max(found.scores, key=lambda k: found.scores[k]) == 3


@pytest.mark.slow
def test_without_any_segment_there_are_clusters() -> None:
    seen = picture_of(thirds())
    nothing = torch.zeros(0, 40, 40, dtype=torch.bool)
    found = divide(seen, Dfcc(), seed=0, segments=nothing)
    assert torch.equal(found.labels, divide(seen, Dfcc(), seed=0).labels)


def test_segments_of_like_latents_are_one_region() -> None:
    seen = picture_of(thirds(), far_apart=0.3, rough=0.001)
    masks = boxes((0, 0, 16, 9), (0, 9, 16, 15), (0, 15, 16, 18))
    counts = [
        int(divide(seen, Dfcc(segment_distance=d), seed=0, segments=masks).labels.max())
        for d in (0.5, 0.7, 1.0)
    ]
    assert counts == [3, 2, 1]


def test_depth_splits_no_segment_and_is_kept_for_the_report() -> None:
    masks = boxes((0, 0, 16, 18))
    depth = torch.linspace(0, 1, 16)[:, None].expand(16, 18)
    found = divide(random_picture(0, (16, 18)), Dfcc(), seed=0, depth=depth, segments=masks)
    assert (found.labels == 1).all()
    assert found.depth is not None
