"""In a world of two linear layers, where the right answer is known, it learns to read styles."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Generator, Tensor, nn

from stylecli.backbone import row_loras
from stylecli.backbone.linears import Layer
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape

WIDTH, STYLES, TOKEN = 16, 3, 24
LAYERS = (Layer("first", WIDTH, WIDTH), Layer("second", WIDTH, WIDTH))
SHAPE = Shape(
    encoder_width=TOKEN, width=32, depth=2, heads=1, hidden=64, bottleneck=16, rank=STYLES
)


class Some(NamedTuple):
    """One thing in each of several styles, and two references of other things in the same."""

    seen: Tensor
    wanted: Tensor
    references: Tensor


class World(nn.Module):
    """A frozen model, and what styles do to its last layer and to pictures."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(WIDTH, WIDTH) for _ in range(2))
        for parameter in self.parameters():
            drawn = torch.randn(parameter.shape, generator=generator) / 4
            parameter.requires_grad_(False).copy_(drawn)
        self.changes = torch.randn(STYLES, WIDTH, WIDTH, generator=generator) / 8
        self.looks = torch.randn(STYLES, TOKEN, generator=generator)
        self.contents = torch.randn(6, TOKEN, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out

    def draw(self, count: int, generator: Generator) -> Some:
        style = torch.randn(count, STYLES, generator=generator)
        seen = torch.randn(count, WIDTH, generator=generator)
        hidden = torch.tanh(self.first(seen))
        changed = torch.einsum("bs,soi,bi->bo", style, self.changes, hidden)
        things = torch.randn(count, 2, 4, 6, generator=generator) @ self.contents
        return Some(seen, self(seen) + changed, (style @ self.looks)[:, None, None] + things)


@pytest.mark.slow
def test_a_hundred_steps_teach_it_to_tell_styles_apart() -> None:
    generator = Generator().manual_seed(0)
    world, predictor = World(generator), Predictor(SHAPE, LAYERS)
    predictor.reset(generator)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=3e-3)

    def error(some: Some, packed: Tensor, slots: list[int | None]) -> Tensor:
        with row_loras.applied(world, predictor.factors(packed), slots):
            return (world(some.seen) - some.wanted).square().mean(1)

    for _ in range(100):
        some = world.draw(32, generator)
        optimizer.zero_grad()
        with row_loras.applied(world, predictor.factors(predictor(some.references)), range(32)):
            (world(some.seen) - some.wanted).square().mean().backward()
        optimizer.step()

    unseen = world.draw(256, Generator().manual_seed(1))
    own = list(range(256))
    with torch.no_grad():
        packed = predictor(unseen.references)
        base = error(unseen, packed, [None] * 256).mean()
        matched = error(unseen, packed, [*own]).mean()
        mismatched = error(unseen, packed, [*own[1:], own[0]]).mean()
        factors = predictor.factors(packed[:32])
    assert matched < 0.85 * base
    assert matched < 0.85 * mismatched
    changes = factors.up["second"] @ factors.down["second"]
    alike = torch.corrcoef(changes.flatten(1)).fill_diagonal_(0).abs().mean()
    assert alike < 0.9
