"""Losses on attention teach a small FLUX where to look, and without them it does not learn that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from stylecli.backbone.editors.base import Text
from stylecli.backbone.editors.flux_kontext import FluxKontext
from stylecli.methods.regionroute.losses import Forms, attention
from stylecli.methods.regionroute.measures import inside_mass
from tests import tiny_kontext
from tests.small import noise

SIDE, SAMPLES, STEPS = 8, 4, 70
STYLE = (5, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_kontext.save_folder(
        tmp_path_factory.mktemp("learns"), double=1, single=1, head_dim=32
    )


def masks() -> Tensor:
    """Squares of 4 x 4 tokens, each elsewhere: ``(b, cells, 1)``."""
    found = torch.zeros(SAMPLES, SIDE, SIDE)
    for row, (top, left) in enumerate([(0, 0), (4, 0), (1, 4), (4, 3)]):
        found[row, top : top + 4, left : left + 4] = 1
    return found.flatten(1)[..., None]


def trained(folder: Any, focus: float, cover: float) -> tuple[float, float]:
    """The share of attention that is inside the masks, before and after."""
    from peft import LoraConfig

    editor: FluxKontext = tiny_kontext.editor(folder, text_length=16)
    model: Any = editor.model
    torch.manual_seed(0)
    model.add_adapter(
        LoraConfig(
            r=4,
            lora_alpha=4,
            init_lora_weights="gaussian",
            target_modules=list(editor.layers("attn")),
        )
    )
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=3e-3)
    inside = masks()
    # The object is what the reference shows there, so there is something to find.
    pattern = inside.view(SAMPLES, 1, SIDE, SIDE).repeat_interleave(2, 2).repeat_interleave(2, 3)
    reference = noise(SAMPLES, 4, 2 * SIDE, 2 * SIDE) * 0.5 + 2 * pattern
    clean = reference * (1 - pattern) - pattern
    text = Text(noise(1, 16, 24, seed=5).expand(SAMPLES, -1, -1), noise(SAMPLES, 32, seed=6))
    valid = torch.ones(SAMPLES, 1, dtype=torch.bool)
    generator = Generator().manual_seed(1)
    seen = []
    with editor.probing() as probe:
        probe.watch([[STYLE]] * SAMPLES, (SIDE, SIDE))
        for _ in range(STEPS):
            times = editor.sample_times(SAMPLES, clean, generator)
            eps = torch.randn(clean.shape, generator=generator)
            answer = editor.predict(editor.noised(clean, eps, times), times, text, reference)
            loss = (answer - editor.target(clean, eps, times)).square().mean()
            maps = probe.maps()
            found = attention(maps, inside, valid, Forms())
            loss = loss + focus * found.focus + cover * found.cover
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            seen.append(float(inside_mass(maps[..., 0].detach(), inside[..., 0]).mean()))
    return seen[0], sum(seen[-5:]) / 5


@pytest.mark.slow
def test_with_losses_on_attention_the_style_words_find_the_object(folder: Any) -> None:
    before, after = trained(folder, 0.1, 0.2)
    assert before < 0.3
    assert after >= max(0.5, 2 * before)


@pytest.mark.slow
def test_without_them_they_do_not(folder: Any) -> None:
    before, after = trained(folder, 0.0, 0.0)
    assert before < 0.3
    assert after <= 0.35
