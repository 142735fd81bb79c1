"""From a clean latent to noise and back (points 4 and 23 of the method's test list, and 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest
import torch
from torch import Tensor

from stylecli.backbone.inversion import Trajectory, invert, null_prediction, reconstruct
from stylecli.backbone.levels import Levels
from stylecli.backbone.model import Backbone
from stylecli.backbone.schedule import NoiseSchedule
from stylecli.errors import RecipeError
from tests.reference import ddim, mixture
from tests.small import base_unet, noise, relative


def schedule(prediction: str = "epsilon") -> NoiseSchedule:
    return NoiseSchedule.from_config(
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "steps_offset": 1,
            "set_alpha_to_one": False,
            "prediction_type": prediction,
        }
    )


def round_trip(steps: int, *, prediction: str = "epsilon", seeds: int = 2, **how: object) -> float:
    """Relative error of ``x0 -> Z[N] -> x0'`` under the exact denoiser of a mixture."""
    noises = schedule(prediction)
    levels = noises.levels(steps)
    errors = []
    for seed in range(seeds):
        model = mixture.Mixture(noises.alphas_cumprod)
        predict = model.noise if prediction == "epsilon" else model.velocity
        clean = model.draw(8, 8, seed)

        def told(latents: Tensor, timestep: int, predict: Callable = predict) -> Tensor:
            return predict(latents, timestep).float()

        trajectory = invert(clean, told, noises, levels, **how)  # type: ignore[arg-type]
        errors.append(relative(reconstruct(trajectory, told, noises), clean))
    return fmean(errors)


def test_the_pairing_of_the_reference_code_loses_less_than_the_other_one() -> None:
    """Point 4."""
    target, matched = round_trip(50), round_trip(50, pairing="matched")
    assert 0.01 < target < 0.1
    assert target < 0.9 * matched


@pytest.mark.slow
def test_one_refinement_pass_gains_a_factor_of_three_at_least() -> None:
    """Point 4."""
    plain, once = round_trip(50), round_trip(50, refine_iters=1)
    assert once < plain / 3
    assert round_trip(50, refine_iters=3) < once / 3


@pytest.mark.slow
def test_three_passes_on_fifty_steps_beat_999_steps() -> None:
    assert round_trip(50, refine_iters=3, seeds=1) < round_trip(999, seeds=1) < 1e-2


def test_a_velocity_model_loses_what_its_epsilon_twin_loses() -> None:
    assert round_trip(20, prediction="v_prediction", seeds=1) == pytest.approx(
        round_trip(20, seeds=1), rel=1e-3
    )


def test_refinement_makes_sampling_retrace_the_trajectory() -> None:
    noises = schedule()
    levels = noises.levels(20)
    model = mixture.Mixture(noises.alphas_cumprod)

    def told(latents: Tensor, timestep: int) -> Tensor:
        return model.noise(latents, timestep).float()

    gaps = []
    for passes in (0, 20):
        path = invert(model.draw(8, 8, 0), told, noises, levels, refine_iters=passes).latents
        gaps.append(
            max(
                relative(
                    noises.step(
                        path[k],
                        told(path[k], levels.timesteps[k - 1]),
                        levels.alphas[k],
                        levels.alphas[k - 1],
                    ),
                    path[k - 1],
                )
                for k in range(1, 21)
            )
        )
    assert gaps[1] < 1e-3 < gaps[0]


def recorded(pairing: str, refine_iters: int = 0) -> tuple[list[tuple[Tensor, int]], Trajectory]:
    """What the model was shown, and at which timestep."""
    shown: list[tuple[Tensor, int]] = []

    def predict(latents: Tensor, timestep: int) -> Tensor:
        shown.append((latents, timestep))
        return torch.tanh(latents) * timestep / 1000

    noises = schedule()
    return shown, invert(
        noise(1, 4, 3, 5),
        predict,
        noises,
        noises.levels(5),
        pairing=pairing,  # type: ignore[arg-type]
        refine_iters=refine_iters,
    )


@pytest.mark.parametrize(
    ("pairing", "timesteps"), [("target", [1, 201, 401, 601, 801]),
                               ("matched", [0, 1, 201, 401, 601])]
)  # fmt: skip
def test_the_model_is_told_the_level_entered_or_the_level_left(
    pairing: str, timesteps: list[int]
) -> None:
    """Both pairings look at the latent being left; they differ in the timestep alone."""
    shown, trajectory = recorded(pairing)
    assert [timestep for _, timestep in shown] == timesteps
    for k, (latents, _) in enumerate(shown):
        assert torch.equal(latents, trajectory.latents[k])


def test_a_refinement_pass_looks_at_the_level_entered() -> None:
    shown, _ = recorded("matched", refine_iters=1)
    assert [timestep for _, timestep in shown] == [0, 1, 1, 201, 201, 401, 401, 601, 601, 801]


def test_every_latent_is_found_by_its_timestep_and_by_no_other() -> None:
    """Point 4: keys are timesteps, never positions."""
    _, trajectory = recorded("target")
    assert len(trajectory.latents) == len(trajectory.levels) + 1
    for k, timestep in enumerate((1, 201, 401, 601, 801), start=1):
        assert torch.equal(trajectory.at(timestep), trajectory.latents[k])
    for absent in (0, 2, 5, 1000):
        with pytest.raises(KeyError):
            trajectory.at(absent)


def test_keeping_a_coarse_grid_keeps_those_levels_of_the_dense_one() -> None:
    """2.5: ``Z`` of a 999-step inversion at the 50 sampling timesteps."""
    noises = schedule()
    dense, coarse = noises.levels(50), noises.levels(10)

    def predict(latents: Tensor, timestep: int) -> Tensor:
        return torch.sin(latents) * (1 + timestep / 1000)

    clean = noise(2, 4, 3, 5)
    whole = invert(clean, predict, noises, dense)
    kept = invert(clean, predict, noises, dense, keep=coarse)
    assert kept.levels == coarse
    assert torch.equal(kept.latents[0], clean)
    for timestep in coarse.timesteps:
        assert torch.equal(kept.at(timestep), whole.at(timestep))


def test_a_grid_without_the_sampling_timesteps_is_refused_before_any_call() -> None:
    """Point 23: missing levels are an error, never a neighbour."""
    noises = schedule()

    def predict(latents: Tensor, timestep: int) -> Tensor:
        raise AssertionError("the model was asked")

    with pytest.raises(RecipeError, match="skips timestep"):
        invert(noise(1, 4, 3, 5), predict, noises, noises.levels(30), keep=noises.levels(50))


def test_refinement_that_diverges_keeps_its_best_pass_and_says_so() -> None:
    noises = schedule()
    warnings: list[str] = []
    levels = Levels((501,), (noises.final_alpha, noises.alphas_cumprod[501]))

    def told(latents: Tensor, timestep: int) -> Tensor:
        return 3 * latents

    refined = invert(
        noise(1, 4, 3, 5), told, noises, levels, refine_iters=6, on_warning=warnings.append
    )
    assert warnings == ["refinement diverges at timestep 501; the best pass is kept"]
    assert torch.isfinite(refined.latents).all()
    assert float(refined.latents[-1].norm()) < 100 * float(refined.latents[0].norm())


@pytest.mark.slow
def test_a_batch_of_two_is_two_batches_of_one(shared: Backbone) -> None:
    clean = noise(2, 4, 8, 16)
    levels = shared.schedule.levels(3)
    together = invert(clean, null_prediction(shared, 2), shared.schedule, levels).latents
    for row in range(2):
        alone = invert(
            clean[row : row + 1], null_prediction(shared, 1), shared.schedule, levels
        ).latents
        torch.testing.assert_close(together[:, row : row + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_inverting_and_reconstructing_a_real_unet_is_the_reference(
    prediction: str, shared: Backbone, shared_velocity: Backbone
) -> None:
    ours = shared if prediction == "epsilon" else shared_velocity
    unet = base_unet(prediction)
    null = ours.encode_prompt([""]).clone()
    timesteps = ddim.leading_grid(5)
    alphas = ddim.level_alphas(timesteps)

    @torch.no_grad()
    def model(latents: Tensor, timestep: int) -> Tensor:
        return unet(latents, timestep, encoder_hidden_states=null).sample

    clean = noise(1, 4, 8, 16)
    trajectory = invert(clean, null_prediction(ours, 1), ours.schedule, ours.schedule.levels(5))
    wanted = ddim.invert(clean, model, timesteps, alphas, prediction)
    for k, latents in enumerate(wanted):
        assert relative(trajectory.latents[k], latents) < 1e-5
    back = reconstruct(trajectory, null_prediction(ours, 1), ours.schedule)
    assert relative(back, ddim.sample(wanted[-1], model, timesteps, alphas, prediction)) < 1e-5


def test_an_inversion_ticks_once_a_level_and_ends_in_float32() -> None:
    ticks: list[None] = []
    noises = schedule()

    def predict(latents: Tensor, timestep: int) -> Tensor:
        assert latents.dtype == torch.float32
        return latents

    trajectory = invert(
        noise(1, 4, 3, 5).half(),
        predict,
        noises,
        noises.levels(5),
        on_step=lambda: ticks.append(None),
    )
    assert len(ticks) == 5
    assert trajectory.latents.dtype == torch.float32
