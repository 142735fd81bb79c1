"""Things ask for their names: scores beside their definition, and what the loss compares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from stylecli.backbone.probe import unet as probes
from stylecli.pocket.naming import SHARPNESS, NamingProbe, loss
from tests.small import base_unet, noise

ROWS = [0, 1, 1]
NAMES = ["cat", "dog", "cat", "snail"]


def explicit(
    unet: nn.Module, seen: dict[str, Tensor], masks: Tensor, spoken: Tensor, words: Tensor
) -> Tensor:
    """Cell by cell and word by word."""
    total = torch.zeros(len(ROWS), len(ROWS))
    for name, hidden in seen.items():
        layer = unet.get_submodule(name)
        side = math.isqrt(hidden.shape[1])
        for one, row in enumerate(ROWS):
            cells = nn.functional.adaptive_avg_pool2d(masks[one][None], side).flatten()
            for other in range(len(ROWS)):
                found = 0.0
                for cell, share in enumerate(cells / cells.sum()):
                    query = layer.to_q(hidden[row, cell]).view(layer.heads, -1)
                    for word, weight in enumerate(words[other]):
                        key = layer.to_k(spoken[other, word]).view(layer.heads, -1)
                        found += float(share * weight * (query * key).sum() * layer.scale)
                total[one, other] += found / layer.heads
    return total / len(seen)


@torch.no_grad()
def test_scores_are_the_mean_products_of_cells_and_words() -> None:
    unet = base_unet()
    probe = NamingProbe(probes.chosen(unet, "auto")[:2])
    seen: dict[str, Tensor] = {}
    for name in probe.layers:
        unet.get_submodule(name).register_forward_hook(
            lambda _m, inputs, _out, name=name: seen.update({name: inputs[0]})
        )
    masks = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    spoken = noise(3, 4, 32, seed=2)
    words = torch.tensor([[0, 1.0, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0]])
    with probe.installed(unet):
        probe.watch([[()], [()]], (8, 8))
        unet(noise(2, 4, 8, 8), 9, noise(2, 4, 32, seed=3))
        scores = probe.scores(unet, ROWS, masks, spoken, words)
        probe.clear()
        assert not probe._queries
    torch.testing.assert_close(scores, explicit(unet, seen, masks, spoken, words))


def test_the_loss_is_of_each_thing_among_names_and_of_each_name_among_things() -> None:
    scores = noise(4, 4, seed=5)
    total = 0.0
    for table in (scores, scores.T):
        for one in range(4):
            others = [k for k in range(4) if k == one or NAMES[k] != NAMES[one]]
            sharp = [math.exp(SHARPNESS * float(table[one, k])) for k in others]
            total -= math.log(math.exp(SHARPNESS * float(table[one, one])) / sum(sharp)) / 8
    assert float(loss(scores, NAMES)) == pytest.approx(total, rel=1e-5)


def test_who_asks_for_its_own_name_has_nothing_to_learn() -> None:
    assert float(loss(torch.eye(4) * 9, NAMES)) < 1e-6
    assert float(loss(torch.zeros(4, 4), ["a", "b", "c", "d"])) == pytest.approx(math.log(4))
    assert float(loss(torch.zeros(2, 2), ["a", "a"])) == 0
