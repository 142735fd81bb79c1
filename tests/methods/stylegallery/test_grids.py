"""Regions at the size of a layer, against the same cell by cell."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.capture import Capture
from stylecli.backbone.layers import cells_per_token, self_attention
from stylecli.backbone.model import Backbone
from stylecli.methods.stylegallery import grids
from tests.reference import stylegallery as reference
from tests.small import noise

SIDE, SPAN = st.integers(1, 9), st.sampled_from([1, 2, 4])
HOW: st.SearchStrategy[Literal["area", "nearest"]] = st.sampled_from(["area", "nearest"])


def drawn(height: int, width: int, regions: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(1, regions + 1, (height, width), generator=random)


@given(SIDE, SIDE, st.integers(1, 5), st.integers(0, 999), SPAN, HOW)
def test_every_token_has_the_region_that_covers_most_of_it(
    height: int, width: int, regions: int, seed: int, span: int, how: Literal["area", "nearest"]
) -> None:
    labels = drawn(height, width, regions, seed)
    found = grids.labels_at(labels, span, how)
    assert found.shape == grids.size_at(labels, span)
    assert torch.equal(found.flatten(), reference.token_labels(labels, span, how))


@pytest.mark.slow
@given(SIDE, SIDE, st.integers(1, 5), st.integers(0, 999), SPAN, HOW)
def test_keys_are_those_of_the_explicit_code_and_never_none(
    height: int, width: int, regions: int, seed: int, span: int, how: Literal["area", "nearest"]
) -> None:
    labels = drawn(height, width, regions, seed)
    for number in labels.unique().tolist():
        cells = labels == number
        found = grids.keys_at(cells, span, how)
        assert found.tolist() == reference.key_tokens(cells, span, how).nonzero()[:, 0].tolist()
        assert len(found) >= (
            min(8, math.prod(grids.size_at(labels, span))) if how == "area" else 1
        )


def test_a_stripe_on_an_odd_row_keeps_keys_at_every_size() -> None:
    """Of 64 x 64 cells a layer of half the size sees the even rows alone, if it takes the nearest.

    It is nowhere most of a token either, so those that it covers most take its part.
    """
    labels = torch.ones(64, 64, dtype=torch.int64)
    labels[31, 3:60] = 2
    assert 2 not in grids.labels_at(labels, 2, "nearest")
    for how in ("area", "nearest"):
        found = grids.keys_at(labels == 2, 2, how)
        assert {token // 32 for token in found.tolist()} == {15}
    # Tokens between 3 and 60 are half covered; the ones at the ends are covered by a quarter.
    assert len(grids.keys_at(labels == 2, 2, "area")) == 28


def test_few_keys_are_joined_by_those_around_them_but_not_under_the_authors_masks() -> None:
    cells = torch.zeros(6, 6, dtype=torch.bool)
    cells[0, 0] = True
    assert grids.keys_at(cells, 1, "nearest").tolist() == [0]
    assert grids.keys_at(cells, 1, "area").tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    # A picture of fewer tokens offers all of them.
    assert grids.keys_at(cells[:2, :2], 1, "area").tolist() == [0, 1, 2, 3]


def test_of_two_regions_that_cover_as_much_of_a_token_the_smaller_has_it() -> None:
    """Both offer it as a key, though."""
    labels = torch.ones(16, 16, dtype=torch.int64)
    labels[:, :5] = 2
    assert grids.labels_at(labels, 2, "area").tolist() == [[2] * 3 + [1] * 5] * 8
    assert [len(grids.keys_at(labels == number, 2, "area")) for number in (1, 2)] == [48, 24]


@given(SIDE, SIDE, st.integers(0, 999), SPAN)
def test_tokens_share_cells_evenly_so_a_mirrored_picture_has_mirrored_tokens(
    height: int, width: int, seed: int, span: int
) -> None:
    labels = drawn(height, width, 3, seed)
    found = grids.labels_at(labels, span, "area")
    assert torch.equal(grids.labels_at(labels.flip(0, 1), span, "area"), found.flip(0, 1))


def test_a_region_without_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="without a cell"):
        grids.keys_at(torch.zeros(4, 4, dtype=torch.bool), 2, "area")


@pytest.mark.mostly_slow
@pytest.mark.parametrize("size", [(8, 8), (8, 24), (7, 9), (13, 5)])
def test_grids_have_as_many_tokens_as_the_layers_of_the_model(
    shared: Backbone, size: tuple[int, int]
) -> None:
    """Also where sides are odd and no square has as many."""
    layers = self_attention(shared.unet, "all", section="gallery")
    capture = Capture(layers)
    with (
        torch.no_grad(),
        capture.installed(shared.unet),
        capture.recording("queries") as captured,
    ):
        shared.predict(noise(1, 4, *size), 1, shared.encode_prompt([""]))
    labels = torch.ones(size, dtype=torch.int64)
    spans = {layer: cells_per_token(shared.unet, layer) for layer in layers}
    assert sorted(set(spans.values())) == [1, 2, 4]
    for layer, span in spans.items():
        assert captured.queries[layer].shape[2] == math.prod(grids.size_at(labels, span))
