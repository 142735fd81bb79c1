"""Distances of token maps, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylecli.evaluation.layout import content_distance, structure_distance


def maps(*shape: int, seed: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def test_structure_is_the_difference_of_all_cosines() -> None:
    a, b = maps(5, 7, 1, seed=1), maps(5, 7, 1, seed=2)

    def cosine(keys: Tensor, i: int, j: int) -> float:
        x, y = keys[0, :, i, 0].double(), keys[0, :, j, 0].double()
        return float(x @ y / (x.norm() * y.norm()))

    squares = [(cosine(a, i, j) - cosine(b, i, j)) ** 2 for i in range(7) for j in range(7)]
    assert float(structure_distance(a, b)) == pytest.approx(sum(squares) / 49, abs=1e-6)


def test_structure_does_not_see_a_common_turn_of_the_keys_and_sees_where_they_are() -> None:
    a = maps(4, 3, 3, seed=3)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(4))).Q
    turned = torch.einsum("dc,bchw->bdhw", turn, a)
    assert float(structure_distance(a, 3 * turned)) == pytest.approx(0, abs=1e-9)
    assert float(structure_distance(a, a.flip(2))) > 0.01


def test_content_is_the_difference_of_standardised_channels() -> None:
    a, b = maps(3, 4, 4, seed=5), maps(3, 4, 4, seed=6)
    squares = []
    for channel in range(3):
        x, y = a[0, channel].double(), b[0, channel].double()
        x, y = ((v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() for v in (x, y))
        squares += (x - y).square().flatten().tolist()
    assert float(content_distance(a, b)) == pytest.approx(sum(squares) / len(squares), abs=1e-5)


def test_content_does_not_see_what_style_is_told_by() -> None:
    a = maps(3, 6, 6, seed=7)
    gain, offset = torch.tensor([0.5, 2, 7]), torch.tensor([3.0, -1, 0])
    restyled = a * gain[:, None, None] + offset[:, None, None]
    assert float(content_distance(a, restyled)) < 1e-4
    assert float(content_distance(a, -a)) == pytest.approx(4, abs=1e-3)
    assert float(content_distance(a, a.flip(3))) > 0.5


def test_a_channel_without_shape_is_equal_to_another() -> None:
    assert float(content_distance(torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3))) == 0
