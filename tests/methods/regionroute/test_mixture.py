from __future__ import annotations

import math

import pytest
import torch

from stylecli.methods.regionroute.mixture import mixture

KEYS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])


def test_the_nearest_experts_share_by_the_softmax_of_their_cosines() -> None:
    (first, large), (second, small) = mixture(torch.tensor([5.0, 4.0]), KEYS, top_k=2, tau=0.1)
    length = math.hypot(5, 4)
    cosines = 9 / (length * math.sqrt(2)), 5 / length
    assert (first, second) == (2, 0)
    assert large / small == pytest.approx(math.exp((cosines[0] - cosines[1]) / 0.1), rel=1e-5)
    assert large + small == pytest.approx(1)


def test_how_long_embeddings_are_makes_no_difference() -> None:
    query = torch.tensor([0.3, 0.4])
    once, more = mixture(query, KEYS), mixture(7 * query, KEYS / 5)
    assert [index for index, _ in once] == [index for index, _ in more]
    assert [w for _, w in once] == pytest.approx([w for _, w in more], rel=1e-5)


def test_one_expert_is_taken_whole() -> None:
    assert mixture(torch.tensor([0.0, 1.0]), KEYS, top_k=1) == [(1, 1.0)]
    assert mixture(torch.tensor([0.0, 1.0]), KEYS[:1], top_k=2) == [(0, 1.0)]


def test_a_low_temperature_picks_one() -> None:
    (index, weight), _ = mixture(torch.tensor([0.1, 1.0]), KEYS, tau=1e-3)
    assert (index, weight) == (1, pytest.approx(1.0))


def test_nothing_can_be_mixed_of_nothing() -> None:
    for keys, top_k in ((KEYS[:0], 2), (KEYS, 0)):
        with pytest.raises(ValueError, match="nothing"):
            mixture(torch.ones(2), keys, top_k=top_k)
    with pytest.raises(ValueError, match="not positive"):
        mixture(torch.ones(2), KEYS, tau=0.0)
