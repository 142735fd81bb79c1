"""Timesteps of every mode, and the sampling that guided mode corrects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.errors import RecipeError
from stylecli.methods.stylegallery.visits import visits
from stylecli.recipe.gallery import Gallery
from tests.methods.stylegallery.leading import (
    PAIRS,
    Told,
    content,
    led,
    passes,
    picture,
    precise,
    references,
)
from tests.reference import ddim
from tests.reference import stylegallery as reference
from tests.reference.styleid import LAYERS
from tests.small import relative


@pytest.mark.parametrize(
    ("steps", "timesteps", "first", "last"),
    [
        (150, "leading", [895, 889, 883, 877], [7, 1]),
        (28, "lcm", [999, 979, 939, 899], [79, 39]),
        # What Euler's scheduler says in fractions are whole numbers.
        (28, "trailing", [999, 963, 928, 892], [70, 35]),
    ],
)
def test_timesteps_are_those_of_the_presets_schedulers(
    shared: Backbone, steps: int, timesteps: Any, first: list[int], last: list[int]
) -> None:
    found = visits(shared.schedule, Gallery(steps=steps, timesteps=timesteps), None)
    assert len(found) == steps
    assert [one.timestep for one in found[:4]] == first
    assert [one.timestep for one in found[-2:]] == last
    assert all(one.step is None for one in found)


def test_guided_mode_starts_where_the_inversion_ended(shared: Backbone) -> None:
    guided = Gallery(mode="guided", steps=50)
    noise = shared.schedule.levels(15)
    assert noise.timesteps[-1] == 925
    found = [
        (one.step.timestep, one.timestep)
        for one in visits(shared.schedule, guided, noise)
        if one.step
    ]
    assert found[:2] == [(921, 901), (901, 881)]
    assert found[-1] == (1, 0)
    fifteen = visits(shared.schedule, Gallery(mode="guided", steps=15), noise)
    assert [one.step.timestep for one in fifteen if one.step] == list(reversed(noise.timesteps))
    late = Gallery(mode="guided", steps=1, timesteps="trailing")
    with pytest.raises(RecipeError, match="no timestep up to 1"):
        visits(shared.schedule, late, shared.schedule.levels(1))
    with pytest.raises(RecipeError, match=r"dfcc\.steps is 0"):
        visits(shared.schedule, guided, None)


def explicit(backbone: Backbone, steps: int, iterations: int) -> Tensor:
    """Section 3.6 written out: a step, references brought to its noise, a fresh Adam."""
    null = backbone.encode_prompt([""]).clone()
    timesteps = ddim.leading_grid(steps)
    alphas = ddim.level_alphas(timesteps)
    subject, styles = picture(content()), [picture(one) for one in references()]
    end = alphas[-1]
    settings = reference.Settings(mask_mode="exclude", masks="area", scale=1.5)
    plan = {
        name: reference.pairs(subject, styles, PAIRS, reference.span_of(name), "area")
        for name in LAYERS
    }

    def seen(latent: Tensor, t: int) -> dict[str, Any]:
        with reference.noted(backbone.unet, LAYERS) as notes:
            backbone.unet(latent, t, encoder_hidden_states=null)
        return notes

    here = subject.noise
    for k in range(steps, 0, -1):
        lower = timesteps[k - 2] if k > 1 else 0
        with torch.no_grad():
            output = backbone.unet(here, timesteps[k - 1], encoder_hidden_states=null).sample
            here = ddim.renoise(here, output, alphas[k], alphas[k - 1])
            shown = []
            for one in (subject, *styles):
                drawn = (one.noise - end**0.5 * one.clean) / (1 - end) ** 0.5
                noisy = alphas[k - 1] ** 0.5 * one.clean + (1 - alphas[k - 1]) ** 0.5 * drawn
                shown.append(seen(noisy, lower))
        adam = reference.Adam(0.05, torch.zeros_like(here), torch.zeros_like(here))
        for _ in range(iterations):
            leaf = here.clone().requires_grad_()
            style, own = reference.losses(seen(leaf, lower), shown[0], shown[1:], plan, settings)
            (style + 0.26 * own).backward()
            here = adam.step(here, leaf.grad)
    return here[0]


@pytest.mark.slow
def test_guided_latents_are_those_of_the_explicit_code() -> None:
    backbone = precise()
    settings = Gallery(mode="guided", steps=5, iterations=2)
    found = led(backbone, content(), settings, inversion_steps=5)
    # What the model predicts is float32 between steps.
    assert relative(found, explicit(backbone, 5, 2)) < 1e-5


@pytest.mark.slow
def test_guided_mode_costs_a_whole_pass_more_a_timestep(shared: Backbone) -> None:
    with passes(shared) as found:
        led(shared, content(), Gallery(mode="guided", steps=3), inversion_steps=3)
    assert found.ended == [1] * 3
    assert found.led == [1] * 3
    assert sum(found.seen) == 3 * (1 + 3)


@pytest.mark.slow
def test_drawn_noise_is_another_and_depends_on_the_seed_alone(shared: Backbone) -> None:
    def made(noise: str) -> tuple[Tensor, Told]:
        told = Told()
        settings = Gallery.model_validate({"mode": "guided", "steps": 3, "noise": noise})
        return led(shared, content(), settings, watch=told, inversion_steps=3), told

    usual, _ = made("inversion")
    found, told = made("random")
    torch.manual_seed(9)
    assert torch.equal(made("random")[0], found)
    assert relative(found, usual) > 1e-3
    assert told.timesteps == [334, 1, 0]
