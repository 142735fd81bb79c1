"""All of RegionRoute's learning on a small UNet: where a style's words look can be taught."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Generator, Tensor

from stylecli.backbone.experts import Experts
from stylecli.methods.regionroute.grids import on_grid
from stylecli.methods.regionroute.losses import Forms, attention
from stylecli.methods.regionroute.measures import inside_mass
from stylecli.tensors.filters import FILTERS
from tests.tiny_rgb import Example, RgbEditor, example

STYLE = "cyberpunk"
GRID = (16, 16)
BEFORE, STEPS = 60, 70


@cache
def base() -> dict[str, Tensor]:
    """Stage 0: all weights learn to restyle whole pictures, and to leave them alone."""
    editor, chance = RgbEditor(), Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(editor.parameters(), lr=2e-3)
    for _ in range(BEFORE):
        some = [example(STYLE, chance).source for _ in range(6)]
        sources = torch.stack(some + some)
        targets = torch.stack([*map(FILTERS[STYLE], some), *some])
        prompts = [f"make the image into {STYLE} style"] * 6 + ["change nothing"] * 6
        editor.errors(sources, targets, prompts, chance).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return {name: value.clone() for name, value in editor.state_dict().items()}


@dataclass(frozen=True)
class Learned:
    """What four pairs look like to the editor, before and after an expert has learned them."""

    loss: tuple[float, float]
    mass: tuple[float, float]


@cache
def learned(focus_weight: float, cover_weight: float) -> Learned:
    editor = RgbEditor()
    editor.load_state_dict(base())
    editor.requires_grad_(False).eval()
    experts = Experts(editor.unet)
    experts.new(STYLE, editor.layers(), rank=4, generator=Generator().manual_seed(1))
    pairs = [example(STYLE, Generator().manual_seed(seed)) for seed in range(4)]
    probe, installed = editor.probing()
    sources, targets, masks = (
        torch.stack([getattr(pair, name) for pair in pairs])
        for name in ("source", "target", "mask")
    )
    cells = on_grid(masks, GRID)[..., None]
    valid = torch.ones(4, 1, dtype=torch.bool)

    def terms(chance: Generator) -> tuple[Tensor, Tensor]:
        errors = editor.errors(sources, targets, [pair.prompt for pair in pairs], chance)
        maps = probe.maps()
        seen = attention(maps, cells, valid, Forms())
        loss = errors.mean() + 0.1 * seen.focus + 0.2 * seen.cover
        goal = errors.mean() + focus_weight * seen.focus + cover_weight * seen.cover
        masses.append(float(inside_mass(maps[..., 0].detach(), cells[..., 0]).mean()))
        return loss, goal

    masses: list[float] = []
    fixed: list[float] = []
    with installed, experts.learning(STYLE):
        probe.watch([[pair.phrase] for pair in pairs], GRID)
        optimiser = torch.optim.AdamW(experts.parameters(STYLE).values(), lr=5e-3)
        ends = []
        for steps in (0, STEPS):
            for step in range(steps):
                terms(Generator().manual_seed(step))[1].backward()
                optimiser.step()
                optimiser.zero_grad()
            with torch.no_grad():
                fixed.append(float(terms(Generator().manual_seed(99))[0]))
            ends.append(masses[-1])
    return Learned((fixed[0], fixed[1]), (ends[0], ends[1]))


@pytest.mark.slow
def test_four_pairs_are_learned_and_the_words_look_where_they_should() -> None:
    found = learned(0.1, 0.2)
    assert found.loss[1] <= 0.5 * found.loss[0]
    assert found.mass[1] >= 1.5 * found.mass[0]


@pytest.mark.slow
def test_without_losses_on_attention_the_words_look_anywhere() -> None:
    alone, taught = learned(0.0, 0.0), learned(0.1, 0.2)
    assert alone.mass[0] == taught.mass[0]
    assert alone.mass[1] < 0.7 * taught.mass[1]


def test_pairs_differ_inside_the_mask_alone() -> None:
    pair: Example = example("pixel_art", Generator().manual_seed(3))
    outside = pair.mask.expand_as(pair.source) == 0
    assert torch.equal(pair.target[outside], pair.source[outside])
    assert not torch.equal(pair.target, pair.source)
    assert 0.03 < float(pair.mask.mean()) < 0.3
    assert pair.prompt.split()[pair.phrase[0]] == "pixel_art"
