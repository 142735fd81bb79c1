"""Levels of a flow: where they lie, and that steps along them lose nothing of a straight line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone import flow_model
from stylecli.backbone.flow_schedule import FlowSchedule
from stylecli.backbone.inversion import invert, reconstruct
from stylecli.backbone.registry import find
from stylecli.errors import RecipeError, WeightsError
from tests import flows
from tests.small import noise, relative


def schedule(answers: int = 1, shift: float = 3.0) -> FlowSchedule:
    def sigmas(steps: int) -> list[float]:
        even = torch.linspace(1, 0, steps + 1)
        return (shift * even / (1 + (shift - 1) * even)).tolist()

    return FlowSchedule(sigmas=sigmas, answers=answers, shift=shift, config={})


@pytest.mark.parametrize("kind", flows.KINDS)
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_levels_are_those_of_the_stock_sampler_in_thousandths(kind: str, steps: int) -> None:
    source = find(str(flows.folder(kind)))
    model = flows.backbone(kind)
    found = flow_model.schedule(source, flows.folder(kind), flows.SIZE_PX)
    square = model.flow.latent_shape((flows.SIZE_PX, flows.SIZE_PX))
    theirs = model.flow.sigmas(steps, torch.empty(1, *square))
    levels = found.levels(steps)
    assert len(theirs) == steps + 1
    for own, other in zip(levels.timesteps, reversed(theirs[:-1]), strict=True):
        assert own / 1000 == pytest.approx(other, abs=5.01e-4)
    assert levels == model.schedule.levels(steps)
    assert levels.timesteps[-1] == 1000
    assert levels.alphas[0] == 1
    assert levels.alphas[-1] == 0


def test_larger_pictures_have_more_time_near_noise() -> None:
    folder = flows.folder("flux2")
    small, large = (flow_model.schedule(find(str(folder)), folder, side) for side in (64, 256))
    assert small.levels(4).timesteps < large.levels(4).timesteps
    assert small.config != large.config


@given(st.integers(2, 60), st.sampled_from([1, -1]), st.integers(0, 99))
def test_a_straight_line_is_walked_to_noise_and_back(steps: int, answers: int, seed: int) -> None:
    clean, eps = (noise(1, 2, 3, 3, seed=seed + add).double() for add in (0, 100))
    own = schedule(answers)
    levels = own.levels(steps)

    def predict(_latents: Tensor, _timestep: int) -> Tensor:
        return answers * (eps - clean)

    path = invert(clean, predict, own, levels)
    assert relative(path.latents[-1], eps) < 1e-6
    assert relative(reconstruct(path, predict, own), clean) < 1e-6


@pytest.mark.parametrize("answers", [1, -1])
def test_a_step_is_the_stock_schedulers(answers: int) -> None:
    own = schedule(answers)
    levels = own.levels(5)
    stock: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    sigmas = [t / 1000 for t in reversed(levels.timesteps)]
    stock.set_timesteps(sigmas=sigmas)
    latents, output = noise(1, 4, 3, 3, seed=1), noise(1, 4, 3, 3, seed=2)
    for i, timestep in enumerate(stock.timesteps):
        theirs = stock.step(answers * output, timestep, latents).prev_sample
        ours = own.step(latents, output, levels.alphas[5 - i], levels.alphas[4 - i])
        assert relative(ours, theirs) < 1e-6
        latents = theirs


class Bent:
    """The velocity of a Gaussian law, exact: a path that Euler's method cannot follow."""

    spread = 0.3

    def __call__(self, latents: Tensor, timestep: int) -> Tensor:
        sigma = timestep / 1000
        variance = (1 - sigma) ** 2 * self.spread**2 + sigma**2
        return (sigma - (1 - sigma) * self.spread**2) / variance * latents


def test_refinement_makes_the_way_back_more_exact() -> None:
    clean = noise(1, 4, 8, 8).double() * Bent.spread
    own, predict = schedule(), Bent()
    errors = {}
    for refine in (0, 1, 3):
        path = invert(clean, predict, own, own.levels(50), refine_iters=refine)
        back = reconstruct(path, predict, own)
        errors[refine] = relative(back, clean)
    assert errors[3] < errors[1] / 3 < errors[0] / 9


def test_times_of_training_are_shifted_towards_noise_and_never_clean() -> None:
    own = schedule(shift=3.0)
    taught = [own.taught(place) for place in range(own.total)]
    assert taught == sorted(taught)
    assert (taught[0], taught[499], taught[-1]) == (3, 750, 1000)
    assert schedule(shift=1.0).taught(0) == 1


@pytest.mark.parametrize("answers", [1, -1])
def test_what_is_shown_and_asked_in_training(answers: int) -> None:
    clean, eps = noise(2, 4, 3, 3, seed=1), noise(2, 4, 3, 3, seed=2)
    shown, wanted = schedule(answers).noised(clean, eps, torch.tensor([250, 1000]))
    assert relative(shown[0], 0.75 * clean[0] + 0.25 * eps[0]) < 1e-6
    assert torch.equal(shown[1], eps[1])
    assert relative(wanted, answers * (eps - clean)) < 1e-6


@pytest.mark.parametrize(
    ("steps", "timesteps", "words"),
    [
        (4, "trailing", "sampling.timesteps trailing is for models that count timesteps"),
        (900, None, "900 steps do not fit between sigma 0.001 and 1"),
        (2, [0, 500], "2 steps do not fit"),
        (2, [500, 500], "2 steps do not fit"),
        (2, [500, 1001], "2 steps do not fit"),
    ],
)
def test_levels_that_a_flow_has_not(steps: int, timesteps: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        schedule().levels(steps, timesteps)


def test_a_list_of_levels_is_taken_in_any_order() -> None:
    assert schedule().levels(3, [900, 100, 500]).timesteps == (100, 500, 900)


def test_inversion_walks_the_levels_that_are_sampled() -> None:
    own = schedule()
    levels = own.levels(4)
    assert own.around(levels, 4) is levels
    with pytest.raises(RecipeError, match=r"inversion\.steps 8: a flow is inverted"):
        own.around(levels, 8)


def test_a_folder_without_an_autoencoders_config(tmp_path: Any) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ZImagePipeline"}))
    with pytest.raises(WeightsError, match=r"vae/config\.json cannot be read"):
        flow_model.schedule(find(str(tmp_path)), tmp_path, 512)
