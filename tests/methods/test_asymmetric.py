"""Guidance between two looks: the negative prompt is seen under LoRAs of its own (i2L, eq. 9)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory, invert, null_prediction
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import Step
from stylecli.methods.diffstyler import Look, Region, Version, generate, paint_versions
from stylecli.methods.diffstyler.looks import Asked, Predictor
from stylecli.recipe.schema import Injection
from tests import tiny
from tests.small import as_file, base_unet, folder, lora, noise, relative

STEPS = 4
STYLE = {"style": 0.8}
NEUTRAL = {"neutral": 0.6, "fast": 1.0}
EQ_9 = Look(
    weights={**STYLE, "fast": 1.0},
    prompt="a cat",
    negative="the dog",
    guidance=4.0,
    negative_weights=NEUTRAL,
)
PLAIN = replace(EQ_9, negative_weights=None)
MODES = ("passes", "fused", "rows")


@cache
def model(mode: str) -> tuple[Backbone, Adapters]:
    backbone = tiny.backbone(folder())
    adapters = Adapters(backbone.unet, fused=mode == "fused")
    for seed, name in enumerate(("style", "neutral", "fast"), start=1):
        adapters.add(name, as_file(lora(base_unet(), seed=seed)))
    return backbone, adapters


def explicit(latents: Tensor, look: Look) -> Tensor:
    """Eq. 9 as it stands: a pass with each set of LoRAs, then v_neg + s (v_pos - v_neg)."""
    backbone, adapters = model("passes")
    one_side = []
    negative = look.weights if look.negative_weights is None else look.negative_weights
    for weights, prompt in ((negative, look.negative), (look.weights, look.prompt)):
        embeds = backbone.encode_prompt([prompt]).expand(len(latents), -1, -1)
        with torch.inference_mode(), adapters.use(weights):
            one_side.append(backbone.predict(latents, 500, embeds))
    below, above = one_side
    return below + look.guidance * (above - below)


def predicted(mode: str, latents: Tensor, looks: list[Look], max_rows: int | None) -> list[Tensor]:
    backbone, adapters = model(mode)
    predict = Predictor(backbone, adapters, looks, len(latents), in_rows=mode == "rows")
    step = Step(index=0, level=1, timestep=500)
    backbone.max_rows = max_rows
    try:
        with torch.inference_mode():
            return predict([Asked(latents, look) for look in looks], step, nullcontext)
    finally:
        backbone.max_rows = None


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "max_rows", [None, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (1, 3))]
)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_two_explicit_passes_in_every_mode(mode: str, max_rows: int | None) -> None:
    latents = noise(2, 4, 8, 8)
    beside = Look(weights={"neutral": 1.0}, prompt="a", guidance=1.0)
    bare = replace(EQ_9, negative_weights={})
    looks = [EQ_9, PLAIN, beside, bare]
    found = predicted(mode, latents, looks, max_rows)
    for look, one in zip([EQ_9, PLAIN, bare], [found[0], found[1], found[3]], strict=True):
        assert relative(one, explicit(latents, look)) < 1e-5
    swapped = replace(EQ_9, weights=NEUTRAL, negative_weights=EQ_9.weights)
    assert relative(found[0], explicit(latents, swapped)) > 1e-2
    assert relative(found[0], found[1]) > 1e-2
    assert relative(found[3], found[1]) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_the_same_loras_on_both_sides_are_guidance_as_ever_bit_for_bit(mode: str) -> None:
    latents = noise(1, 4, 8, 8)
    same = replace(PLAIN, negative_weights=dict(PLAIN.weights))
    one, other = predicted(mode, latents, [same, PLAIN], None)
    assert torch.equal(one, other)


def test_one_prompt_under_two_loras_is_still_a_difference_to_amplify() -> None:
    latents = noise(1, 4, 8, 8)
    look = replace(EQ_9, negative=EQ_9.prompt)
    assert look.prompts == (EQ_9.prompt, EQ_9.prompt)
    (found,) = predicted("passes", latents, [look], None)
    assert relative(found, explicit(latents, look)) < 1e-5


def test_without_guidance_nobody_sees_the_negative_loras() -> None:
    look = replace(EQ_9, guidance=1.0, negative_weights={"nobody": 1.0})
    assert look.prompts == (EQ_9.prompt,)
    (found,) = predicted("passes", noise(1, 4, 8, 8), [look], None)
    (usual,) = predicted("passes", noise(1, 4, 8, 8), [replace(PLAIN, guidance=1.0)], None)
    assert torch.equal(found, usual)


def trajectory(backbone: Backbone, contents: int) -> Trajectory:
    schedule = backbone.schedule
    predict = null_prediction(backbone, contents)
    return invert(noise(contents, 4, 8, 12), predict, schedule, schedule.levels(STEPS))


@pytest.mark.slow
def test_whole_pictures_agree_in_every_mode_and_cost_the_same_rows() -> None:
    pictures, drawn, rows = [], [], []
    for mode in MODES:
        backbone, adapters = model(mode)
        path = trajectory(backbone, 2)
        seen: list[int] = []
        hook = backbone.unet.register_forward_pre_hook(
            lambda _module, inputs, seen=seen: seen.append(len(inputs[0]))
        )
        everywhere = [Version(regions=[Region(looks=[look] * STEPS)]) for look in (EQ_9, PLAIN)]
        injection = Injection(feature_steps=2, attn_steps=1)
        in_rows = mode == "rows"
        pictures.append(
            paint_versions(backbone, adapters, path, everywhere, injection, in_rows=in_rows)
        )
        rows.append(sum(seen))
        hook.remove()
        drawn.append(
            generate(
                backbone,
                adapters,
                noise(1, 4, 8, 8),
                backbone.schedule.levels(STEPS),
                [Region(looks=[EQ_9] * STEPS)],
                in_rows=in_rows,
            )
        )
    for one, picture in zip(pictures[1:], drawn[1:], strict=True):
        assert relative(one[0], pictures[0][0]) < 1e-4
        assert relative(one[1], pictures[0][1]) < 1e-4
        assert relative(picture, drawn[0]) < 1e-4
    assert relative(pictures[0][0], pictures[0][1]) > 1e-2
    # Two sides of two contents in two looks, and the contents' own passes.
    assert len(set(rows)) == 1
    assert rows[0] >= STEPS * 2 * 2 * 2
