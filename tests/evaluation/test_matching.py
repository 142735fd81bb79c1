"""Block matching: the best of all permutations, blind to where blocks are."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.evaluation.matching import block_descriptors, style_match


def descriptors(seed: int, blocks: int, width: int = 5) -> Tensor:
    drawn = torch.randn(blocks, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


@given(seed=st.integers(0, 10_000), blocks=st.integers(1, 5), more=st.integers(0, 1))
def test_the_matching_is_the_best_of_all(seed: int, blocks: int, more: int) -> None:
    ours, theirs = descriptors(seed, blocks), descriptors(seed + 1, blocks + more)
    cosines = (ours.double() @ theirs.double().T).tolist()
    best = max(
        sum(cosines[row][column] for row, column in enumerate(order)) / blocks
        for order in permutations(range(blocks + more), blocks)
    )
    found = style_match([ours], [theirs])
    assert found.hungarian == pytest.approx(best, abs=1e-9)
    nearest = sum(max(row) for row in cosines) / blocks
    assert found.nearest == pytest.approx(nearest, abs=1e-9)
    assert found.hungarian <= found.nearest + 1e-12


def test_seven_blocks_against_brute_force() -> None:
    ours, theirs = descriptors(1, 7), descriptors(2, 7)
    cosines = (ours.double() @ theirs.double().T).tolist()
    best = max(
        sum(cosines[row][column] for row, column in enumerate(order))
        for order in permutations(range(7))
    )
    assert style_match([ours], [theirs]).hungarian == pytest.approx(best / 7, abs=1e-9)


def test_the_order_of_blocks_does_not_matter_on_either_side() -> None:
    ours, theirs = descriptors(1, 20), descriptors(2, 40)
    wanted = style_match([ours], [theirs]).hungarian
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert style_match([ours[order]], [theirs.flip(0)]).hungarian == pytest.approx(wanted)


def test_a_picture_matches_itself_wholly_and_layers_are_averaged() -> None:
    ours, theirs = descriptors(1, 9), descriptors(2, 9)
    assert style_match([ours], [ours]).hungarian == pytest.approx(1)
    both, other = style_match([ours, ours], [ours, theirs]), style_match([ours], [theirs])
    assert both.hungarian == pytest.approx((1 + other.hungarian) / 2)
    assert both.nearest == pytest.approx((1 + other.nearest) / 2)


def test_descriptors_are_means_and_deviations_of_the_cells() -> None:
    features = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = block_descriptors(features, grid=4)
    assert found.shape == (16, 6)
    for row in range(4):
        for column in range(4):
            cell = features[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten(1)
            raw = torch.cat([cell.mean(1), cell.std(1, correction=0)])
            wanted = raw / raw.norm()
            torch.testing.assert_close(found[4 * row + column], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("height", "width"), [(5, 7), (37, 50), (16, 33)])
def test_cells_of_any_map_end_where_the_grid_says(height: int, width: int) -> None:
    drawn = torch.Generator().manual_seed(1)
    features = torch.rand(1, 3, height, width, generator=drawn)
    found = block_descriptors(features)
    assert found.shape == (256, 6)
    for cell in range(256):
        row, column = divmod(cell, 16)
        top, bottom = row * height // 16, math.ceil((row + 1) * height / 16)
        left, right = column * width // 16, math.ceil((column + 1) * width / 16)
        inside = features[0, :, top:bottom, left:right].double().flatten(1)
        raw = torch.cat([inside.mean(1), inside.std(1, correction=0)])
        torch.testing.assert_close(found[cell], (raw / raw.norm()).float(), atol=1e-3, rtol=0)
