"""A phrase's share of attention: the full softmax's, gradients too, without the full matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylecli.backbone.probe.slices import (
    Way,
    chunked,
    fused_way,
    indicator,
    shares,
    width_for,
)
from tests.small import noise, relative

CPU = torch.device("cpu")
WAYS: tuple[Way, ...] = get_args(Way)
# Two rows of two phrases, one of them of a single token; keys 0 to 6 are the text.
PHRASES = [[[1, 2, 3], [5]], [[0], [4, 6]]]
HEADS, CELLS, KEYS, WIDTH = 3, 20, 47, 16


def queries_and_keys(*, size: float = 1.5) -> tuple[Tensor, Tensor]:
    query, key = noise(2, HEADS, CELLS, WIDTH), noise(2, HEADS, KEYS, WIDTH, seed=1)
    return (query * size).requires_grad_(True), (key * size).requires_grad_(True)


def explicit(query: Tensor, key: Tensor, phrases: Sequence[Any] = PHRASES) -> Tensor:
    """Equation 1 as it stands: all of the matrix, then some of its columns."""
    weights = (query.double() @ key.double().mT / WIDTH**0.5).softmax(dim=-1)
    rows = [
        torch.stack([row[:, :, one].sum(-1).mean(0) for one in asked], dim=-1)
        for row, asked in zip(weights, phrases, strict=True)
    ]
    return torch.stack(rows)


def sliced(query: Tensor, key: Tensor, way: Way, phrases: Any = PHRASES) -> Tensor:
    most = max(map(len, phrases))
    way, width = width_for(way, most, WIDTH)
    values = indicator(phrases, key.shape[2], width, device=CPU, dtype=query.dtype)
    return shares(query, key, values, way, most)


@pytest.mark.parametrize("way", WAYS)
def test_a_share_is_the_full_softmaxs_with_its_gradients(way: Way) -> None:
    query, key = queries_and_keys()
    upstream = noise(2, CELLS, 2, seed=2)
    found = []
    for share in (explicit(query, key).float(), sliced(query, key, way)):
        slopes = torch.autograd.grad((share * upstream).sum(), (query, key))
        found.append((share.detach(), *slopes))
    (wanted, *wanted_slopes), (share, *slopes) = found
    assert share.dtype == torch.float32
    assert (share - wanted).abs().max() < 1e-5
    for own, other in zip(slopes, wanted_slopes, strict=True):
        assert other.abs().max() > 1e-3
        assert (own - other).abs().max() < 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_in_bfloat16_a_share_is_two_per_cent_off_at_most(way: Way) -> None:
    query, key = (tensor.detach().bfloat16() for tensor in queries_and_keys())
    assert relative(sliced(query, key, way), explicit(query, key)) < 0.02


@pytest.mark.parametrize("way", WAYS)
def test_a_phrase_and_all_other_keys_share_the_whole(way: Way) -> None:
    """A softmax over the phrase's keys alone gives the phrase everything."""
    query, key = queries_and_keys()
    others = [[[k for k in range(KEYS) if k not in row[0]]] for row in PHRASES]
    phrase = sliced(query, key, way, [row[:1] for row in PHRASES])
    assert (phrase + sliced(query, key, way, others) - 1).abs().max() < 1e-5
    assert phrase.max() < 0.99
    everything = [[list(range(KEYS))]] * 2
    assert (sliced(query, key, way, everything) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_a_key_that_draws_all_lights_its_own_phrase_alone(way: Way) -> None:
    query = noise(2, HEADS, CELLS, WIDTH).abs()
    key = noise(2, HEADS, KEYS, WIDTH, seed=1) * 0.1
    before = sliced(query, key, way)
    text, reference = key.clone(), key.clone()
    text[0, :, 5] = 10
    reference[:, :, KEYS - 1] = 10
    lit = sliced(query, text, way)
    assert lit[0, :, 1].min() > 0.9
    assert lit[0, :, 0].max() < 0.1 * before[0, :, 0].min()
    assert torch.equal(lit[1], before[1])
    assert (sliced(query, reference, way) < 0.1 * before).all()


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any result held."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for result in found if isinstance(found, tuple) else (found,):
            if isinstance(result, Tensor):
                self.numbers = max(self.numbers, result.numel())
        return found


def test_the_matrix_is_never_there_on_either_way() -> None:
    """Nor is it where this machine's fused kernel decides."""
    cells, keys, width = 256, 2048, 16
    query = noise(1, 2, cells, width).requires_grad_(True)
    key = noise(1, 2, keys, width, seed=1).requires_grad_(True)
    phrases = [[[3, 4]]]

    def largest(way: Way) -> int:
        way, wide = width_for(way, 1, width)
        values = indicator(phrases, keys, wide, device=CPU, dtype=torch.float32)
        with Largest() as seen:
            if way == "chunked":
                chunked(query, key, values, chunk=128).sum().backward()
            else:
                shares(query, key, values, way, 1).sum().backward()
        return seen.numbers

    whole = 2 * cells * keys
    # A slice for each head is the most that chunks need, and no more than keys themselves.
    assert largest("chunked") <= max(2 * cells * 128, key.numel())
    assert largest(fused_way(width, CPU, torch.float32)) < whole / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_kernel_is_found_on_every_cpu(dtype: torch.dtype) -> None:
    assert fused_way(128, CPU, dtype) in ("narrow", "padded")


def test_the_kernel_is_found_while_sampling_too() -> None:
    fused_way.cache_clear()
    with torch.inference_mode():
        found = fused_way(64, CPU, torch.float32)
    fused_way.cache_clear()
    assert found == fused_way(64, CPU, torch.float32) != "chunked"


def test_in_autocast_chunks_are_as_exact_as_without() -> None:
    query, key = queries_and_keys(size=6.0)
    values = indicator(PHRASES, KEYS, 2, device=CPU, dtype=torch.float32)
    exact = chunked(query, key, values, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(chunked(query, key, values, 8), exact)


def test_places_beyond_the_keys_are_an_error() -> None:
    with pytest.raises(IndexError):
        indicator([[[9]]], 9, 8, device=CPU, dtype=torch.float32)
