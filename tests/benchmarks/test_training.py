"""What training costs beyond the network, and what side by side saves: ratios within one run.

On the shipped model, by the processor's own clock: the share of everything else is what it is for
users, and a busy machine slows nobody's count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from stylecli.backbone import registry
from stylecli.backbone.loading import fingerprint, load
from stylecli.backbone.model import Backbone
from stylecli.backbone.objective import diffusion_loss
from stylecli.engine.runs.processes import ALONE
from stylecli.engine.training import draws
from stylecli.engine.training.together import Material, Pupils
from stylecli.recipe.schema import Lora
from tests.small import noise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROUNDS, STYLES, CAPTION = 12, 4, "a picture in <sss> style"
SETTINGS = Lora(steps=10_000, resolution=128)
CELLS = 32


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    folder = registry.snapshot(registry.find("pocket"), revision=None, allow_download=False)
    return load("pocket", folder, fingerprint=fingerprint(folder), device=torch.device("cpu"))


def pupils(backbone: Backbone, count: int, tmp_path: Path) -> Pupils:
    materials = []
    for style in range(count):
        latents = [(noise(1, 4, CELLS, CELLS, seed=style), torch.full((1, 4, CELLS, CELLS), 0.1))]
        embeds = {CAPTION: backbone.encode_prompt([CAPTION])[0].clone()}
        fixed = draws.Draw.fixed(backbone, latents, 0, None)
        file = tmp_path / f"{count}-{style}.state"
        materials.append(Material(latents, [CAPTION], embeds, fixed, file, "key"))
    return Pupils(backbone, materials, SETTINGS, seed=0, rows=count, team=ALONE)


def bare(backbone: Backbone) -> Callable[[], None]:
    """Forward and backward of one fixed row, with PEFT's pairs, and nothing else."""
    from peft import LoraConfig

    other = load(
        "pocket",
        registry.snapshot(registry.find("pocket"), revision=None, allow_download=False),
        fingerprint="",
        device=torch.device("cpu"),
    )
    targets = list(SETTINGS.targets)
    other.unet.add_adapter(
        LoraConfig(r=SETTINGS.rank, lora_alpha=SETTINGS.rank, target_modules=targets)
    )
    pairs = [p for p in other.unet.parameters() if p.requires_grad]
    clean, eps = (noise(1, 4, CELLS, CELLS, seed=seed) for seed in (0, 1))
    timestep = torch.tensor([500])
    embed = backbone.encode_prompt([CAPTION]).clone()

    def once() -> None:
        diffusion_loss(other, clean, eps, timestep, embed).mean().backward()
        for pair in pairs:
            pair.grad = None

    return once


def ratio(one: Callable[[], Any], other: Callable[[], Any]) -> float:
    """Median of the quotients of pairs, taken in turns."""
    one(), other()
    quotients = []
    for _ in range(ROUNDS):
        started = time.process_time()
        one()
        between = time.process_time()
        other()
        quotients.append((between - started) / (time.process_time() - between))
    return median(quotients)


def test_a_step_costs_little_more_than_forward_and_backward(
    backbone: Backbone, tmp_path: Path, benchmark: Any
) -> None:
    alone = pupils(backbone, 1, tmp_path)
    found = ratio(alone.step, bare(backbone))
    benchmark.extra_info["a step / forward and backward"] = round(found, 3)
    benchmark(alone.step)
    assert found < 1.15


def test_four_styles_together_cost_less_than_four_alone(
    backbone: Backbone, tmp_path: Path, benchmark: Any
) -> None:
    together = pupils(backbone, STYLES, tmp_path)
    alone = pupils(backbone, 1, tmp_path)
    found = ratio(together.step, lambda: [alone.step() for _ in range(STYLES)])
    benchmark.extra_info["four together / four alone"] = round(found, 3)
    benchmark(together.step)
    assert found < 0.9
