"""Attention without its matrix is attention with it; latents take over channel statistics."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.tensors.attention import attention
from stylecli.tensors.channels import adain
from tests.reference import attention as reference
from tests.reference import styleid
from tests.small import noise, relative

SIZES = st.integers(1, 5)


@given(SIZES, SIZES, SIZES, st.floats(0.1, 4))
def test_it_is_the_softmax_of_scaled_logits(n: int, m: int, d: int, temperature: float) -> None:
    query, key, value = noise(2, 3, n, d), noise(2, 3, m, d, seed=1), noise(2, 3, m, d, seed=2)
    weights = reference.matrix(temperature * query, key)
    wanted = torch.einsum("rhnm,rhmd->rhnd", weights, value)
    torch.testing.assert_close(attention(query, key, value, temperature), wanted)


def test_one_style_serves_a_batch() -> None:
    query, key, value = noise(3, 2, 4, 5), noise(1, 2, 6, 5, seed=1), noise(1, 2, 6, 5, seed=2)
    alone = [attention(row, key, value) for row in query.split(1)]
    torch.testing.assert_close(attention(query, key, value), torch.cat(alone))


def test_the_hotter_the_fewer_keys_are_looked_at() -> None:
    query, key, value = noise(1, 1, 4, 8), noise(1, 1, 9, 8, seed=1), noise(1, 1, 9, 8, seed=2)

    def nearest() -> Tensor:
        return value[0, 0][(query[0, 0] @ key[0, 0].T).argmax(dim=1)]

    torch.testing.assert_close(attention(query, key, value, 1e4)[0, 0], nearest())
    even = attention(query, key, value, 1e-6)[0, 0]
    torch.testing.assert_close(even, value[0, 0].mean(dim=0).expand(4, -1), atol=1e-4, rtol=0)


def test_channels_take_over_means_and_deviations() -> None:
    content, style = noise(1, 4, 8, 6), noise(1, 4, 5, 7, seed=1) * 3 + 1
    made = adain(content, style)
    for ours, theirs in zip(made[0], style[0], strict=True):
        torch.testing.assert_close(ours.mean(), theirs.mean())
        torch.testing.assert_close(ours.std(), theirs.std())
    assert relative(made, styleid.adain(content, style)) < 1e-6
