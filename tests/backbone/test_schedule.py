"""Noise levels and the move between them (points 2, 3 and 5 of the method's test list)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.schedule import NoiseSchedule, move
from stylecli.errors import RecipeError, WeightsError
from tests.reference import ddim
from tests.small import noise

SD = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
Alphas = st.floats(1e-3, 1 - 1e-6)


def schedule(**changes: Any) -> NoiseSchedule:
    return NoiseSchedule.from_config(SD | changes)


def pictures(seed: int) -> Tensor:
    return noise(2, 4, 3, 5, seed=seed).double()


def test_fifty_steps_visit_981_down_to_1_and_999_steps_visit_all_but_zero() -> None:
    """Point 2."""
    assert schedule().levels(50).timesteps == tuple(range(1, 982, 20))
    assert schedule().levels(999).timesteps == tuple(range(1, 1000))
    assert schedule().levels(30).timesteps == tuple(range(1, 959, 33))


def test_a_thousand_steps_that_start_at_one_are_refused_with_the_largest_number_allowed() -> None:
    """Point 2."""
    with pytest.raises(RecipeError, match="end at timestep 1000; the last one is 999") as caught:
        schedule().levels(1000)
    assert "999" in caught.value.fix
    with pytest.raises(RecipeError, match="1001 steps; the model knows 1000"):
        schedule().levels(1001)
    assert schedule(steps_offset=0).levels(1000).timesteps == tuple(range(1000))


@pytest.mark.parametrize("steps", [7, 30, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_neighbours_are_neighbours_on_the_grid_for_every_spacing(spacing: str, steps: int) -> None:
    """Point 2; diffusers steps to ``t - T // N``, which is not on these grids."""
    grid = getattr(ddim, f"{spacing}_grid")(steps)
    levels = schedule(timestep_spacing=spacing).levels(steps)
    assert list(levels.timesteps) == grid
    assert levels.alphas == pytest.approx(ddim.level_alphas(grid), abs=1e-6)


def test_alphas_are_the_published_constants() -> None:
    alphas = schedule().alphas_cumprod
    assert alphas[0] == pytest.approx(0.99915, abs=5e-6)
    assert alphas[1] == pytest.approx(0.99830, abs=5e-6)
    assert alphas[981] == pytest.approx(0.005775, abs=5e-7)


@pytest.mark.parametrize(("to_one", "level_zero"), [(True, 1.0), (False, 0.99915)])
def test_level_zero_is_what_set_alpha_to_one_says(to_one: bool, level_zero: float) -> None:
    levels = schedule(set_alpha_to_one=to_one).levels(10)
    assert levels.alphas[0] == pytest.approx(level_zero, abs=5e-6)


@settings(deadline=None)  # the machine may be busy with something else
@given(steps=st.integers(1, 999), spacing=st.sampled_from(["leading", "trailing", "linspace"]))
def test_levels_rise_in_noise_without_repeats(steps: int, spacing: str) -> None:
    levels = schedule(timestep_spacing=spacing).levels(steps)
    assert len(levels) == len(levels.timesteps) == len(levels.alphas) - 1 == steps
    assert all(a < b for a, b in zip(levels.timesteps, levels.timesteps[1:], strict=False))
    assert all(a > b for a, b in zip(levels.alphas[1:], levels.alphas[2:], strict=False))
    assert levels.alphas[0] >= levels.alphas[1]


def test_a_trailing_grid_ends_at_timestep_zero_or_above() -> None:
    """The library's own grid has 104 entries for 103 steps, the last of them -1."""
    levels = schedule(timestep_spacing="trailing").levels(103)
    assert levels.timesteps[:2] == (9, 18)
    assert len(levels) == 103


FEW = (1, 2, 4, 8, 28)


def theirs(name: str, steps: int, **config: Any) -> tuple[int, ...]:
    """The list of one of the library's schedulers, rising."""
    import diffusers

    scheduler = getattr(diffusers, name).from_config(SD | config)
    scheduler.set_timesteps(steps)
    return tuple(sorted(scheduler.timesteps.tolist()))


@pytest.mark.parametrize("steps", FEW)
@pytest.mark.parametrize("scheduler", ["LCMScheduler", "TCDScheduler"])
def test_lcm_is_the_list_of_the_distilled_models_schedulers(scheduler: str, steps: int) -> None:
    assert schedule().levels(steps, "lcm").timesteps == theirs(scheduler, steps)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("steps", FEW)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_spacing_is_ddims_whatever_the_model_says(spacing: str, steps: int) -> None:
    wanted = theirs("DDIMScheduler", steps, timestep_spacing=spacing)
    assert schedule().levels(steps, spacing).timesteps == wanted
    assert schedule(timestep_spacing=spacing).levels(steps).timesteps == wanted


def test_the_published_lists_begin_and_end_as_they_should() -> None:
    lcm = schedule().levels(28, "lcm").timesteps[::-1]
    assert (lcm[:4], lcm[-2:]) == ((999, 979, 939, 899), (79, 39))
    assert schedule().levels(4, "trailing").timesteps == (249, 499, 749, 999)
    assert [schedule().levels(1, way).timesteps for way in ("leading", "trailing", "lcm")] == [
        *((1,), (999,), (999,))
    ]


def test_lcm_has_as_many_timesteps_as_it_was_distilled_with() -> None:
    assert len(schedule().levels(50, "lcm")) == 50
    with pytest.raises(RecipeError, match="lcm has 50 timesteps, and 51 steps need more") as caught:
        schedule().levels(51, "lcm")
    assert "sampling.timesteps=trailing" in caught.value.fix
    with pytest.raises(RecipeError, match=r"^gallery\.timesteps lcm") as caught:
        schedule().levels(51, "lcm", section="gallery")
    assert "gallery.timesteps=trailing" in caught.value.fix


@pytest.mark.slow
@given(
    timesteps=st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True),
    data=st.data(),
)
def test_a_list_is_visited_as_it_stands_in_whatever_order_it_comes(
    timesteps: list[int], data: st.DataObject
) -> None:
    levels = schedule().levels(len(timesteps), data.draw(st.permutations(timesteps)))
    assert levels.timesteps == tuple(sorted(timesteps))
    assert levels.alphas[1:] == tuple(schedule().alphas_cumprod[t] for t in sorted(timesteps))


def test_a_list_beyond_the_models_timesteps_is_refused() -> None:
    with pytest.raises(RecipeError, match="end at timestep 100; the last one is 99") as caught:
        schedule(num_train_timesteps=100).levels(2, (100, 50))
    assert caught.value.fix == "name timesteps that the model knows"


@pytest.mark.parametrize("timesteps", [None, "leading", "trailing", "lcm", (900, 700, 3, 1)])
@pytest.mark.parametrize("steps", [4, 999, 1000])
def test_an_inversion_walks_what_is_sampled_or_a_grid_around_it(steps: int, timesteps: Any) -> None:
    noises = schedule()
    coarse = noises.levels(4, timesteps)
    is_trailing = timesteps in ("trailing", "lcm")
    if steps == (999 if is_trailing else 1000):
        with pytest.raises(RecipeError):
            noises.around(coarse, steps, timesteps)
        return
    dense = noises.around(coarse, steps, timesteps)
    rows = dense.restricted_to(coarse)
    assert len(dense) == steps
    assert [dense.alphas[row] for row in rows] == list(coarse.alphas)
    assert dense == coarse or steps != 4


@pytest.mark.parametrize("timesteps", [None, "trailing", "lcm", (800,), (800, 5)])
def test_one_or_two_steps_come_back_exactly_too(timesteps: Any) -> None:
    count = len(timesteps) if isinstance(timesteps, tuple) else 2
    levels = schedule().levels(count, timesteps)
    clean, eps = pictures(1), pictures(2)
    latents = clean
    for start, end in zip(levels.alphas, levels.alphas[1:], strict=False):
        latents = move(latents, eps, start, end)
    for k in range(count, 0, -1):
        latents = move(latents, eps, levels.alphas[k], levels.alphas[k - 1])
    assert float((latents - clean).abs().max()) < 1e-10


def test_a_dense_grid_holds_a_coarse_one_or_says_what_it_lacks() -> None:
    dense, coarse = schedule().levels(999), schedule().levels(50)
    rows = dense.restricted_to(coarse)
    assert rows == [0, *coarse.timesteps]
    assert [dense.alphas[row] for row in rows] == list(coarse.alphas)
    with pytest.raises(RecipeError, match=r"inversion\.steps 30 skips timestep 21"):
        schedule().levels(30).restricted_to(coarse)


@pytest.mark.parametrize("config", ["PNDMScheduler", "EulerDiscreteScheduler"])
def test_the_schedulers_that_models_ship_read_as_ddim(config: str) -> None:
    shipped = {key: value for key, value in SD.items() if key != "clip_sample"}
    if config == "EulerDiscreteScheduler":
        shipped["interpolation_type"] = "linear"
    read = NoiseSchedule.from_config(shipped | {"_class_name": config, "skip_prk_steps": True})
    assert read.levels(50) == schedule().levels(50)


def test_a_config_without_a_word_on_clipping_is_not_clipped() -> None:
    """Both class defaults clip, which moves latents by up to 2.1."""
    config = {key: value for key, value in SD.items() if key != "clip_sample"}
    levels = NoiseSchedule.from_config(config).levels(5)
    large = 100 * pictures(0)
    stepped = NoiseSchedule.from_config(config).step(large, 0 * large, levels.alphas[5], 0.9)
    assert float(stepped.abs().max()) > float(large.abs().max())


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"prediction_type": "sample"}, "'sample'"), ({"thresholding": True}, "thresholding")],
)
def test_what_ddim_cannot_invert_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        schedule(**changes)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [7, 30, 50])
def test_a_constant_noise_comes_back_exactly(steps: int, spacing: str) -> None:
    """Point 3, epsilon: up and down again, 1e-10 in float64."""
    levels = schedule(timestep_spacing=spacing).levels(steps)
    clean, eps = pictures(1), pictures(2)
    latents = clean
    for start, end in zip(levels.alphas, levels.alphas[1:], strict=False):
        latents = move(latents, eps, start, end)
    for k in range(steps, 0, -1):
        latents = move(latents, eps, levels.alphas[k], levels.alphas[k - 1])
    assert float((latents - clean).abs().max()) < 1e-10


@pytest.mark.parametrize("steps", [7, 50])
def test_the_velocity_that_says_a_constant_noise_gives_the_epsilon_models_numbers(
    steps: int,
) -> None:
    """Point 3, v: both directions level by level, the velocity encoded at the level told."""
    as_eps, as_v = schedule(), schedule(prediction_type="v_prediction")
    levels = as_v.levels(steps)
    clean, eps = pictures(1), pictures(2)

    def velocity(seen: Tensor, alpha: float) -> Tensor:
        return (eps - math.sqrt(1 - alpha) * seen) / math.sqrt(alpha)

    ours = theirs = clean
    for start, end in zip(levels.alphas, levels.alphas[1:], strict=False):
        found = as_v.direction(velocity(ours, end), ours, end)
        assert float((found - eps).abs().max()) < 1e-10
        ours, theirs = move(ours, found, start, end), move(theirs, eps, start, end)
        assert float((ours - theirs).abs().max()) < 1e-10
    for k in range(steps, 0, -1):
        start, end = levels.alphas[k], levels.alphas[k - 1]
        ours = as_v.step(ours, velocity(ours, start), start, end)
        theirs = as_eps.step(theirs, eps, start, end)
        assert float((ours - theirs).abs().max()) < 1e-10
    assert float((ours - clean).abs().max()) < 1e-10


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [5, 50])
def test_a_step_is_the_library_schedulers_step(prediction: str, steps: int) -> None:
    """Point 5, sampling."""
    from diffusers import DDIMScheduler

    ours = schedule(prediction_type=prediction)
    theirs = DDIMScheduler.from_config(SD | {"prediction_type": prediction})
    theirs.set_timesteps(steps)
    levels = ours.levels(steps)
    latents, output = pictures(3), pictures(4)
    for k in range(steps, 0, -1):
        stepped = ours.step(latents, output, levels.alphas[k], levels.alphas[k - 1])
        wanted = theirs.step(output, levels.timesteps[k - 1], latents).prev_sample
        torch.testing.assert_close(stepped, wanted, rtol=1e-6, atol=1e-6)


def inverse_steps(prediction: str) -> list[tuple[Tensor, Tensor]]:
    """Ours and the library's latent after entering each level."""
    from diffusers import DDIMInverseScheduler

    ours = schedule(prediction_type=prediction)
    theirs = DDIMInverseScheduler.from_config(SD | {"prediction_type": prediction})
    theirs.set_timesteps(50)
    levels = ours.levels(50)
    latents, output = pictures(3), pictures(4)
    pairs = []
    for k in range(1, 51):
        start, end = levels.alphas[k - 1], levels.alphas[k]
        eps = ours.direction(output, latents, end)
        wanted = theirs.step(output, levels.timesteps[k - 1], latents).prev_sample
        pairs.append((move(latents, eps, start, end), wanted))
    return pairs


def test_entering_a_level_is_the_library_inverse_schedulers_step() -> None:
    """Point 5, inversion."""
    for ours, wanted in inverse_steps("epsilon"):
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)


def test_velocities_are_read_at_the_level_told_and_not_where_the_library_reads_them() -> None:
    """Point 5: its inverse scheduler converts one level lower, which doubles the error."""
    gaps = [float((ours - wanted).abs().max()) for ours, wanted in inverse_steps("v_prediction")]
    assert min(gaps) > 1e-4


def test_a_level_without_any_signal_can_be_left() -> None:
    """Zero terminal SNR: ``alpha = 0`` at the first step of a v-model."""
    latents, velocity = pictures(5), pictures(6)
    stepped = schedule(prediction_type="v_prediction").step(latents, velocity, 0.0, 0.25)
    torch.testing.assert_close(stepped, -0.5 * velocity + math.sqrt(0.75) * latents)


@settings(deadline=None)
@given(start=Alphas, end=Alphas)
def test_a_move_is_the_clean_image_renoised(start: float, end: float) -> None:
    latents, eps = pictures(7), pictures(8)
    wanted = ddim.renoise(latents, eps, start, end)
    torch.testing.assert_close(move(latents, eps, start, end), wanted)


@pytest.mark.slow
@settings(deadline=None)
@given(start=Alphas, end=Alphas)
def test_a_move_there_and_back_is_no_move(start: float, end: float) -> None:
    latents, eps = pictures(7), pictures(8)
    there = move(latents, eps, start, end)
    torch.testing.assert_close(move(there, eps, end, start), latents, rtol=1e-8, atol=1e-8)


@settings(deadline=None)
@given(start=Alphas, between=Alphas, end=Alphas)
def test_two_moves_along_one_noise_are_one_move(start: float, between: float, end: float) -> None:
    latents, eps = pictures(7), pictures(8)
    stopping = move(move(latents, eps, start, between), eps, between, end)
    torch.testing.assert_close(stopping, move(latents, eps, start, end), rtol=1e-8, atol=1e-8)


@settings(deadline=None)
@given(start=Alphas, end=Alphas, share=st.floats(0, 1))
def test_blending_noises_is_blending_moves(start: float, end: float, share: float) -> None:
    """`move` is affine in the noise, which region masks rely on."""
    latents, one, other = pictures(7), pictures(8), pictures(9)
    blended = move(latents, share * one + (1 - share) * other, start, end)
    moves = [move(latents, eps, start, end) for eps in (one, other)]
    wanted = share * moves[0] + (1 - share) * moves[1]
    torch.testing.assert_close(blended, wanted, rtol=1e-8, atol=1e-8)
