"""Regions grow, fade, overlap and blend as written down; what they do not touch keeps its bits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts.images import to_pixels
from stylecli.errors import ItemError
from stylecli.tensors.regions import compose, composite, feather, grow, shares, to_latent

Size = tuple[int, int]
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))
seeds = st.integers(0, 999)
HOW = ["area", "threshold", "any", "nearest"]


def uniform(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def soft(*shape: int, seed: int) -> torch.Tensor:
    """A mask of zeros, ones and greys."""
    return (uniform(*shape, seed=seed) * 2 - 0.5).clamp(0, 1)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.int32), other.view(torch.int32))


@given(sizes, st.integers(-8, 8), seeds)
def test_growing_takes_the_extreme_of_a_disc(size: Size, px: int, seed: int) -> None:
    mask = soft(*size, seed=seed)
    extreme = max if px > 0 else min
    expected = [
        [
            extreme(
                mask[y, x].item()
                for y in range(size[0])
                for x in range(size[1])
                if (y - row) ** 2 + (x - column) ** 2 <= px**2
            )
            for column in range(size[1])
        ]
        for row in range(size[0])
    ]
    assert grow(mask, px).tolist() == expected


@pytest.mark.parametrize("px", [3, 20, 61])
def test_a_point_grows_to_a_disc_and_shrinks_to_a_point(px: int) -> None:
    point = torch.zeros(129, 131)
    point[64, 65] = 1
    disc = grow(point, px)
    rows, columns = torch.arange(129)[:, None] - 64, torch.arange(131) - 65
    assert torch.equal(disc, (rows**2 + columns**2 <= px**2).float())
    assert torch.equal(grow(disc, -px), point)


def test_growing_further_than_the_picture_reaches_all_of_it() -> None:
    mask = torch.zeros(20, 30)
    mask[3, 4] = 0.7
    assert bool((grow(mask, 1024) == mask.max()).all())
    assert bool((grow(1 - mask, -1024) == (1 - mask).min()).all())


def test_a_region_does_not_shrink_from_the_edge_of_the_picture() -> None:
    mask = torch.zeros(8, 8)
    mask[:, :4] = 1
    assert grow(mask, -2)[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


@given(sizes, st.floats(0.2, 9), seeds)
def test_feathering_is_a_gaussian_that_sees_the_border_go_on(
    size: Size, deviation: float, seed: int
) -> None:
    mask = soft(*size, seed=seed)
    reach = math.ceil(4 * deviation)
    bell = [math.exp(-(k**2) / (2 * deviation**2)) for k in range(-reach, reach + 1)]

    def along(line: list[float]) -> list[float]:
        found = []
        for at in range(len(line)):
            seen = [line[min(max(at + k, 0), len(line) - 1)] for k in range(-reach, reach + 1)]
            found.append(sum(b * v for b, v in zip(bell, seen, strict=True)) / sum(bell))
        return found

    rows = torch.tensor([along(line) for line in mask.tolist()])
    expected = torch.tensor([along(line) for line in rows.T.tolist()]).T
    torch.testing.assert_close(feather(mask, deviation), expected, atol=1e-6, rtol=0)


@given(sizes, st.floats(0, 40), st.floats(0, 1, width=32))
def test_feathering_leaves_flat_masks_as_they_were(
    size: Size, deviation: float, value: float
) -> None:
    flat = torch.full(size, value)
    assert same_bits(feather(flat, deviation), flat)
    assert torch.equal(feather(flat.double(), deviation), flat.double())


@given(st.floats(0.1, 3))
def test_far_from_an_edge_feathering_changes_no_bit(deviation: float) -> None:
    mask = torch.zeros(40, 40)
    mask[:, 20:] = 1
    soft_edge = feather(mask, deviation)
    reach = math.ceil(4 * deviation)
    assert bool((soft_edge[:, : 20 - reach] == 0).all())
    assert bool((soft_edge[:, 20 + reach :] == 1).all())
    assert 0 < soft_edge[0, 20] < 1 or deviation < 0.3


def test_a_negative_deviation_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        feather(torch.zeros(2, 2), -1)


@given(st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 4)), seeds)
def test_cells_take_what_was_asked_of_their_pixels(cell: int, cells: Size, seed: int) -> None:
    mask = soft(cells[0] * cell, cells[1] * cell, seed=seed)
    for row in range(cells[0]):
        for column in range(cells[1]):
            block = mask[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            mean = sum(block.flatten().tolist()) / cell**2
            expected = {
                "area": mean,
                "any": max(block.flatten().tolist()),
                "nearest": block[cell // 2, cell // 2].item(),
                "threshold": float(mean >= 0.5),
            }
            for how, value in expected.items():
                found = to_latent(mask, cell, how)  # type: ignore[arg-type]
                assert tuple(found.shape) == (1, 1, *cells)
                assert found[0, 0, row, column].item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("cell", [1, 3, 7, 8])
def test_all_and_nothing_stay_so_in_latents(cell: int, how: str) -> None:
    ones = torch.ones(5 * cell, 2 * cell)
    assert torch.equal(to_latent(ones, cell, how), torch.ones(1, 1, 5, 2))  # type: ignore[arg-type]
    zeros = torch.zeros(5 * cell, 2 * cell)
    assert torch.equal(to_latent(zeros, cell, how), torch.zeros(1, 1, 5, 2))  # type: ignore[arg-type]


def test_half_a_cell_is_a_majority() -> None:
    half = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert to_latent(half, 2, "threshold").item() == 1
    assert to_latent(half * 0.99, 2, "threshold").item() == 0


def test_a_mask_that_is_not_made_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="16x12 is not made of cells of 8 px"):
        to_latent(torch.zeros(16, 12), 8, "area")


@given(st.integers(1, 4), seeds)
def test_painting_gives_later_regions_what_they_cover(count: int, seed: int) -> None:
    masks = [soft(1, 1, 3, 4, seed=seed + 7 * index) for index in range(count)]
    found, background = shares(masks, "over")
    for index, share in enumerate(found):
        expected = masks[index]
        for above in masks[index + 1 :]:
            expected = expected * (1 - above)
        torch.testing.assert_close(share, expected)
    behind = torch.ones(1, 1, 3, 4)
    for mask in masks:
        behind = behind * (1 - mask)
    torch.testing.assert_close(background, behind)


@given(st.integers(1, 4), seeds, st.sampled_from(["over", "normalise"]))
def test_shares_are_a_partition_of_unity(count: int, seed: int, overlap: str) -> None:
    masks = [soft(1, 1, 3, 4, seed=seed + 7 * index) for index in range(count)]
    found, background = shares(masks, overlap)  # type: ignore[arg-type]
    torch.testing.assert_close(sum(found, background), torch.ones(1, 1, 3, 4))
    assert min(share.min() for share in [*found, background]) >= 0


@given(seeds)
def test_normalising_scales_down_only_what_sums_to_more_than_one(seed: int) -> None:
    masks = [soft(1, 1, 3, 4, seed=seed), soft(1, 1, 3, 4, seed=seed + 1)]
    (one, other), background = shares(masks, "normalise")
    total = masks[0] + masks[1]
    fits = total <= 1
    assert torch.equal(one[fits], masks[0][fits])
    torch.testing.assert_close(one * masks[1], other * masks[0])
    assert bool((background[~fits] == 0).all())


def test_an_overlap_that_is_not_allowed_is_named() -> None:
    left, right = torch.tensor([[[[1.0, 0.75, 0.0]]]]), torch.tensor([[[[0.0, 0.5, 1.0]]]])
    with pytest.raises(ItemError, match=r"sum to 1\.25") as caught:
        shares([left, right], "error")
    assert "normalise" in caught.value.fix
    (first, second), background = shares([left, right - 0.25 * (right == 0.5)], "error")
    assert torch.equal(first, left)
    assert torch.equal(second, torch.tensor([[[[0.0, 0.25, 1.0]]]]))
    assert bool((background == 0).all())


@pytest.mark.parametrize("overlap", ["over", "normalise", "error"])
def test_a_region_that_covers_all_leaves_nothing(overlap: str) -> None:
    empty, full = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3)
    found, background = shares([empty, full], overlap)  # type: ignore[arg-type]
    assert torch.equal(found[0], empty)
    assert torch.equal(found[1], full)
    assert torch.equal(background, empty)


@given(st.integers(1, 4), seeds)
def test_parts_are_summed_by_weight(count: int, seed: int) -> None:
    parts = [uniform(2, 3, 4, 5, seed=seed + k) for k in range(count)]
    weights = [soft(1, 1, 4, 5, seed=seed + 50 + k) for k in range(count)]
    expected = torch.zeros(2, 3, 4, 5)
    for part, weight in zip(parts, weights, strict=True):
        for y in range(4):
            for x in range(5):
                expected[:, :, y, x] += weight[0, 0, y, x] * part[:, :, y, x]
    torch.testing.assert_close(compose(parts, weights), expected)


@given(st.integers(0, 2), seeds)
def test_a_part_that_has_all_the_weight_keeps_its_bits(place: int, seed: int) -> None:
    chosen = uniform(1, 4, 3, 3, seed=seed) - 0.5
    chosen[0, 0, 0] = torch.tensor([-0.0, 0.0, 1e-42])
    huge = torch.full((1, 4, 3, 3), torch.finfo(torch.float32).max)
    parts, weights = [huge, -huge], [torch.zeros(1, 1, 3, 3)] * 2
    parts.insert(place, chosen)
    weights.insert(place, torch.ones(1, 1, 3, 3))
    assert same_bits(compose(parts, weights), chosen)


def test_half_precision_stays_so() -> None:
    part = uniform(1, 1, 2, 2, seed=1).half()
    found = compose([part, part + 1], [torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)])
    assert found.dtype == torch.float16
    assert torch.equal(found, part)


@given(seeds, st.floats(-2, 2), st.floats(-2, 2), st.sampled_from(["over", "normalise"]))
def test_blending_noise_is_blending_latents(
    seed: int, scale: float, slope: float, overlap: str
) -> None:
    """Eq. 8: a move is affine in the noise, with coefficients that no style changes."""
    latents = uniform(1, 4, 5, 6, seed=seed, dtype=torch.float64)
    noises = [uniform(1, 4, 5, 6, seed=seed + k, dtype=torch.float64) for k in (1, 2, 3)]
    masks = [soft(1, 1, 5, 6, seed=seed + k).double() for k in (4, 5)]
    regions, background = shares(masks, overlap)  # type: ignore[arg-type]
    weights = [*regions, background]

    def move(noise: torch.Tensor) -> torch.Tensor:
        return scale * latents + slope * noise

    before = move(compose(noises, weights))
    after = compose([move(noise) for noise in noises], weights)
    torch.testing.assert_close(before, after, atol=1e-13, rtol=0)


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), seeds)
def test_pixels_are_mixed_and_rounded(size: Size, seed: int) -> None:
    result = uniform(3, *size, seed=seed) * 1.4 - 0.2
    original = (uniform(*size, 3, seed=seed + 1) * 256).byte()
    mask = soft(*size, seed=seed + 2)
    found = composite(result, original, mask)
    for y in range(size[0]):
        for x in range(size[1]):
            share = mask[y, x].item()
            for channel in range(3):
                wanted = 255 * min(max(result[channel, y, x].item(), 0), 1)
                mixed = share * wanted + (1 - share) * original[y, x, channel].item()
                assert abs(found[y, x, channel].item() - mixed) <= 0.5 + 1e-4


def test_outside_the_mask_are_the_originals_bytes_and_inside_the_results() -> None:
    """Law 17: also for a picture whose sides are no multiples of anything."""
    result, original = uniform(3, 77, 101, seed=1), (uniform(77, 101, 3, seed=2) * 256).byte()
    mask = soft(77, 101, seed=3)
    found = composite(result, original, mask)
    assert torch.equal(found[mask == 0], original[mask == 0])
    assert torch.equal(found[mask == 1], to_pixels(result)[mask == 1])
    assert not torch.equal(found[mask > 0], original[mask > 0])


def test_a_broken_pixel_outside_the_mask_is_not_seen() -> None:
    result = torch.full((3, 2, 2), float("nan"))
    original = torch.full((2, 2, 3), 7, dtype=torch.uint8)
    assert torch.equal(composite(result, original, torch.zeros(2, 2)), original)
