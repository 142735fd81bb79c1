"""What a model is asked to answer while it trains (1.1, and point 21's velocity)."""

from __future__ import annotations

import pytest
import torch

from stylecli.backbone.model import Backbone
from stylecli.backbone.objective import diffusion_loss
from tests.small import noise

TIMESTEPS = torch.tensor([0, 1, 250, 981, 999])


def scheduler(prediction: str):
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
    )


def test_noisy_latents_and_targets_are_the_library_schedulers(
    shared: Backbone, shared_velocity: Backbone
) -> None:
    """Point 21: the v target equals ``get_velocity``."""
    clean, eps = noise(5, 4, 3, 4, seed=1), noise(5, 4, 3, 4, seed=2)
    for backbone, prediction in ((shared, "epsilon"), (shared_velocity, "v_prediction")):
        theirs = scheduler(prediction)
        latents, target = backbone.schedule.noised(clean, eps, TIMESTEPS)
        torch.testing.assert_close(latents, theirs.add_noise(clean, eps, TIMESTEPS))
        wanted = eps if prediction == "epsilon" else theirs.get_velocity(clean, eps, TIMESTEPS)
        torch.testing.assert_close(target, wanted)
    assert float((target - eps).abs().max()) > 0.1, "a velocity is not the noise"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_squared_error_of_each_row(
    prediction: str, shared: Backbone, shared_velocity: Backbone
) -> None:
    backbone = shared if prediction == "epsilon" else shared_velocity
    clean, eps = noise(2, 4, 8, 8, seed=1), noise(2, 4, 8, 8, seed=2)
    timesteps = torch.tensor([100, 700])
    prompts = backbone.encode_prompt(["a cat", ""])
    theirs = scheduler(prediction)
    with torch.no_grad():
        losses = diffusion_loss(backbone, clean, eps, timesteps, prompts)
        for row, timestep in enumerate(timesteps.tolist()):
            one = torch.tensor([timestep])
            x, e = clean[row : row + 1], eps[row : row + 1]
            answer = backbone.unet(
                theirs.add_noise(x, e, one), timestep, encoder_hidden_states=prompts[row : row + 1]
            ).sample
            wanted = e if prediction == "epsilon" else theirs.get_velocity(x, e, one)
            assert float(losses[row]) == pytest.approx(
                float((answer - wanted).square().mean()), rel=1e-4
            )


@pytest.mark.slow
def test_the_loss_has_a_gradient_at_the_smallest_input(fresh: Backbone) -> None:
    fresh.unet.requires_grad_(True)
    loss = diffusion_loss(
        fresh, noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=3), torch.tensor([500]),
        fresh.encode_prompt([""]).clone(),
    )  # fmt: skip
    loss.sum().backward()
    gradients = [p.grad for p in fresh.unet.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0
