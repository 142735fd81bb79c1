"""What switching and regions cost, as ratios of two things timed side by side in one run.

On a tiny model, where Python's share is largest: a real one hides what shows here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest
import torch

from stylecli.backbone.inversion import invert, null_prediction
from stylecli.methods.diffstyler import Background, Look, Region, paint
from stylecli.recipe.schema import Injection
from stylecli.tensors.regions import shares
from tests import tiny
from tests.small import base_unet, folder, lora, noise, with_loras

pytestmark = pytest.mark.slow
STEPS, ROUNDS = 10, 7
INK = Look(weights={"ink": 0.8}, prompt="a cat in sss style", negative="the dog", guidance=3.0)
OIL = Look(weights={"oil": 0.8}, prompt="a cat in sss style", negative="the dog", guidance=3.0)


@pytest.fixture(scope="module")
def painted() -> Callable[..., torch.Tensor]:
    backbone = tiny.backbone(folder())
    adapters = with_loras(backbone, ink=lora(base_unet()), oil=lora(base_unet(), seed=2))
    schedule = backbone.schedule
    trajectory = invert(
        noise(1, 4, 16, 16), null_prediction(backbone, 1), schedule, schedule.levels(STEPS)
    )
    injection = Injection(feature_steps=6, attn_steps=5)
    return lambda regions, **given: paint(
        backbone, adapters, trajectory, regions, injection, **given
    )


def ratio(one: Callable[[], Any], other: Callable[[], Any]) -> float:
    """Median of the quotients of pairs, taken in turns so that a busy machine slows both."""
    one(), other()
    quotients = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        one()
        between = time.perf_counter()
        other()
        quotients.append((between - started) / (time.perf_counter() - between))
    return median(quotients)


def test_switching_at_every_step_costs_no_more_than_never(
    painted: Callable[..., torch.Tensor], benchmark: Any
) -> None:
    never = [Region(looks=[INK] * STEPS)]
    always = [Region(looks=[INK, OIL] * (STEPS // 2))]
    found = ratio(lambda: painted(always), lambda: painted(never))
    benchmark.extra_info["switching / not switching"] = round(found, 3)
    benchmark(painted, always)
    assert found < 1.2


def test_three_regions_cost_less_than_three_transfers(
    painted: Callable[..., torch.Tensor], benchmark: Any
) -> None:
    """They share the source: 1 + 2 K rows a step against 3 K."""
    grid = torch.zeros(3, 1, 1, 16, 16)
    for number in range(3):
        grid[number, ..., 5 * number : 5 * number + 5] = 1
    own, rest = shares(list(grid), "over")
    regions = [Region(looks=[INK] * STEPS, share=share) for share in own]
    background = Background(share=rest)
    whole = [Region(looks=[INK] * STEPS)]
    found = ratio(
        lambda: painted(regions, background=background), lambda: [painted(whole) for _ in range(3)]
    )
    benchmark.extra_info["three regions / three transfers"] = round(found, 3)
    benchmark(painted, regions, background=background)
    assert found < 1.0
