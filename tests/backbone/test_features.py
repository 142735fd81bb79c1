"""Features of the inversion: which levels, which weights, which block, and nothing left behind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from stylecli.backbone.features import decoder_features, step_weights
from stylecli.backbone.model import Backbone
from stylecli.errors import RecipeError
from tests.small import noise


def walked_by_diffusers(
    backbone: Backbone, clean: Tensor, steps: int, block: int = 2
) -> tuple[Tensor, list[Tensor], list[int]]:
    """The last latents, the block's maps and the timesteps of diffusers' own inversion."""
    from diffusers import DDIMInverseScheduler

    maps: list[Tensor] = []
    handle = backbone.unet.up_blocks[block].register_forward_hook(
        lambda _module, _inputs, output: maps.append(output)
    )
    scheduler = DDIMInverseScheduler.from_config(dict(backbone.schedule.config), clip_sample=False)
    scheduler.set_timesteps(steps)
    latents = clean
    empty = backbone.encode_prompt([""]).expand(len(clean), -1, -1)
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            output = backbone.predict(latents, int(timestep), empty)
            latents = scheduler.step(output, timestep, latents).prev_sample
    handle.remove()
    return latents, maps, scheduler.timesteps.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 15])
def test_the_inversion_is_that_of_diffusers_and_no_hook_stays(shared: Backbone, steps: int) -> None:
    clean = noise(1, 4, 8, 8)
    found = decoder_features(shared, clean, steps)
    assert not shared.unet.up_blocks[2]._forward_hooks
    end, maps, _ = walked_by_diffusers(shared, clean, steps)
    torch.testing.assert_close(found.noise, end, atol=1e-5, rtol=1e-5)
    expected = sum(w * m for w, m in zip(step_weights(steps), maps, strict=True))
    torch.testing.assert_close(found.maps, expected, atol=1e-4, rtol=1e-4)
    assert found.maps.shape[2:] == (8, 8)


@pytest.mark.slow
def test_the_cleanest_level_weighs_most(shared: Backbone) -> None:
    """In the other order the result is clearly another one."""
    clean = noise(1, 4, 8, 8)
    _, maps, timesteps = walked_by_diffusers(shared, clean, 4)
    assert timesteps[0] == 1
    backwards = sum(w * m for w, m in zip(step_weights(4)[::-1], maps, strict=True))
    assert not torch.allclose(decoder_features(shared, clean, 4).maps, backwards, atol=1e-2)


@pytest.mark.slow
def test_fifteen_levels_are_those_of_the_paper(shared: Backbone) -> None:
    timesteps = shared.schedule.levels(15).timesteps
    assert list(timesteps) == list(range(1, 926, 66))
    assert walked_by_diffusers(shared, noise(1, 4, 8, 8), 15)[2] == list(timesteps)


def test_weights_fall_and_sum_to_one() -> None:
    weights = step_weights(15)
    assert math.fsum(weights) == pytest.approx(1)
    assert all(later < earlier for earlier, later in itertools.pairwise(weights))
    assert weights[0] == pytest.approx(0.09355, abs=5e-6)
    assert weights[10] == pytest.approx(0.0522, abs=5e-5)
    assert weights[14] == pytest.approx(0.02289, abs=5e-6)


@pytest.mark.slow
def test_pictures_in_one_batch_do_not_see_each_other(shared: Backbone) -> None:
    clean = noise(3, 4, 8, 8)
    together = decoder_features(shared, clean, 3)
    for row in range(3):
        alone = decoder_features(shared, clean[row : row + 1], 3)
        torch.testing.assert_close(together.maps[row : row + 1], alone.maps, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.noise[row : row + 1], alone.noise, atol=1e-5, rtol=1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_that_passes_in_parts_gives_the_same(fresh: Backbone, rows: int) -> None:
    clean = noise(3, 4, 8, 8)
    whole = decoder_features(fresh, clean, 3)
    fresh.max_rows = rows
    parts = decoder_features(fresh, clean, 3)
    torch.testing.assert_close(parts.maps, whole.maps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts.noise, whole.noise, atol=1e-5, rtol=1e-5)


def test_no_level_leaves_the_latents_as_they_are(shared: Backbone) -> None:
    clean = noise(2, 4, 8, 8)
    found = decoder_features(shared, clean, 0)
    assert torch.equal(found.maps, clean)
    assert torch.equal(found.noise, clean)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("block", "cells"), [(0, 2), (1, 4), (2, 8), (3, 8)])
def test_each_block_is_twice_as_fine_until_it_is_as_fine_as_latents(
    shared: Backbone, block: int, cells: int
) -> None:
    found = decoder_features(shared, noise(1, 4, 8, 8), 2, block)
    assert found.maps.shape[2:] == (cells, cells)
    _, maps, _ = walked_by_diffusers(shared, noise(1, 4, 8, 8), 2, block)
    expected = sum(w * m for w, m in zip(step_weights(2), maps, strict=True))
    torch.testing.assert_close(found.maps, expected, atol=1e-4, rtol=1e-4)


def test_a_block_the_model_lacks_is_refused_before_anything_passes(shared: Backbone) -> None:
    levels: list[int] = []
    with pytest.raises(RecipeError, match="block 4 of the decoder") as caught:
        decoder_features(shared, noise(1, 4, 8, 8), 2, 4, on_step=lambda: levels.append(1))
    assert caught.value.fix == "allowed 0 to 3"
    assert not levels


@pytest.mark.slow
def test_a_pass_that_fails_leaves_no_hook(fresh: Backbone) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    handle = fresh.unet.conv_out.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="luck"):
        decoder_features(fresh, noise(1, 4, 8, 8), 2)
    handle.remove()
    assert not fresh.unet.up_blocks[2]._forward_hooks


def test_every_level_is_reported(shared: Backbone) -> None:
    levels: list[int] = []
    decoder_features(shared, noise(1, 4, 8, 8), 5, on_step=lambda: levels.append(1))
    assert len(levels) == 5


@pytest.mark.mostly_slow
@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
def test_the_block_of_stable_diffusion_has_640_channels_at_latent_size(
    size: tuple[int, int],
) -> None:
    """On the meta device: the shapes of the real config, without its weights."""
    from diffusers import UNet2DConditionModel

    shapes: list[torch.Size] = []
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        unet.up_blocks[2].register_forward_hook(lambda _m, _i, output: shapes.append(output.shape))
        unet(torch.empty(1, 4, *size), torch.empty(1), torch.empty(1, 77, 768))
    assert shapes == [torch.Size((1, 640, *size))]
