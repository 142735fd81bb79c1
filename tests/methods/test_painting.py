"""Regions and schedules (eq. 7 to 9) against the slow reference, and the laws they obey."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory, invert, null_prediction, reconstruct
from stylecli.backbone.levels import Levels
from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError, UsageError
from stylecli.methods.diffstyler import Background, Look, Region, generate, paint, transfer
from stylecli.recipe.schema import Injection
from stylecli.tensors.regions import shares
from tests import tiny
from tests.reference import ddim
from tests.reference import diffstyler as reference
from tests.small import (
    assert_same_state,
    base_unet,
    folder,
    lora,
    noise,
    outputs,
    relative,
    state,
    with_loras,
)

pytestmark = pytest.mark.slow

STEPS = 5
INK = Look(weights={"ink": 0.8}, prompt="a cat in sss style", negative="the dog", guidance=3.0)
OIL = Look(weights={"oil": 1.1}, prompt="the dog", negative="", guidance=2.0)
BASE = Look(weights={}, prompt="")
INJECTION = Injection(feature_steps=3, attn_steps=2)
LORAS = {"ink": lora(base_unet()), "oil": lora(base_unet(), seed=2)}


class Styled:
    """A tiny model with two LoRAs and the trajectory of one content of 8 by 12 cells."""

    def __init__(self, prediction: str = "epsilon") -> None:
        self.prediction = prediction
        self.backbone = tiny.backbone(folder(prediction))
        self.adapters = with_loras(self.backbone, **LORAS)
        schedule = self.backbone.schedule
        predict = null_prediction(self.backbone, 1)
        clean = noise(1, 4, 8, 12)
        self.trajectory = invert(clean, predict, schedule, schedule.levels(STEPS), refine_iters=4)

    def paint(
        self, regions: Sequence[Region], injection: Injection = INJECTION, **kw: Any
    ) -> Tensor:
        return paint(self.backbone, self.adapters, self.trajectory, regions, injection, **kw)

    def transfer(self, look: Look, injection: Injection = INJECTION) -> Tensor:
        return transfer(self.backbone, self.adapters, self.trajectory, look, injection)

    def layer(self, looks: Sequence[Look], share: Tensor) -> reference.Layer:
        """A region as the reference wants it: a merged UNet and embedded words for each step."""

        def merged(look: Look) -> torch.nn.Module:
            unet = base_unet(self.prediction)
            for name, weight in look.weights.items():
                unet = reference.merged(unet, LORAS[name], weight)
            return unet

        models = {id(look): merged(look) for look in looks}
        return reference.Layer(
            share,
            [models[id(look)] for look in looks],
            [self.backbone.encode_prompt([look.negative]).clone() for look in looks],
            [self.backbone.encode_prompt([look.prompt]).clone() for look in looks],
            looks[0].guidance,
        )

    def written_out(self, layers: Sequence[reference.Layer], rest: Tensor) -> Tensor:
        timesteps = ddim.leading_grid(STEPS)
        return reference.paint(
            base_unet(self.prediction),
            layers,
            rest,
            list(self.trajectory.latents.clone()),
            timesteps,
            ddim.level_alphas(timesteps),
            prediction=self.prediction,
            null=self.backbone.encode_prompt([""]).clone(),
            settings=reference.Settings(
                feature_layers=[4],
                feature_steps=3,
                self_layers=range(4, 12),
                cross_layers=[],
                kappas=reference.kappas("adaptive", STEPS, 2, timesteps),
            ),
        )


@pytest.fixture(scope="module")
def styled() -> Styled:
    return Styled()


def mask(left: int, right: int, value: float = 1.0) -> Tensor:
    """Columns of the latent grid."""
    found = torch.zeros(1, 1, 8, 12)
    found[..., left:right] = value
    return found


def everywhere(look: Look) -> list[Look]:
    return [look] * STEPS


SOFT = [mask(0, 6, 0.7), mask(4, 10)]


@contextmanager
def rows(unet: torch.nn.Module) -> Iterator[list[int]]:
    """Rows of every pass inside the block."""
    seen: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    try:
        yield seen
    finally:
        handle.remove()


# Against the reference


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("background", ["source", "denoise"])
@pytest.mark.parametrize("overlap", ["over", "normalise"])
def test_overlapping_soft_regions_equal_the_reference(
    prediction: str, background: str, overlap: Any
) -> None:
    """Eq. 7 (`source`) and eq. 8 (`denoise`), blended in the reference before the step is taken."""
    styled = Styled(prediction)
    own, rest = shares(SOFT, overlap)
    looks = [everywhere(INK), [OIL, OIL, INK, INK, INK]]
    looks[1] = [replace(look, guidance=2.0) for look in looks[1]]
    regions = [Region(looks=a, share=b) for a, b in zip(looks, own, strict=True)]
    layers = [styled.layer(a, b) for a, b in zip(looks, own, strict=True)]
    behind = everywhere(replace(OIL, weights={}))
    if background == "denoise":
        ours = styled.paint(regions, background=Background(share=rest, looks=behind))
        theirs = styled.written_out([*layers, styled.layer(behind, rest)], torch.zeros_like(rest))
    else:
        ours = styled.paint(regions, background=Background(share=rest))
        theirs = styled.written_out(layers, rest)
    assert relative(ours, theirs) < 1e-5


def test_every_setting_of_the_comparison_changes_the_result(styled: Styled) -> None:
    results = [
        styled.paint(
            [
                Region(looks=everywhere(INK), share=own[0]),
                Region(looks=looks, share=own[1]),
            ],
            background=Background(share=rest, looks=behind),
        )
        for own, rest in (shares(SOFT, "over"), shares(SOFT, "normalise"))
        for looks in (everywhere(OIL), [OIL, OIL, INK, INK, INK])
        for behind in (None, everywhere(replace(OIL, weights={})))
    ]
    for i, one in enumerate(results):
        assert all(relative(one, other) > 1e-4 for other in results[:i])


# Laws of regions


def test_a_mask_of_ones_is_a_global_transfer_bit_for_bit(styled: Styled) -> None:
    own, rest = shares([mask(0, 12)], "over")
    whole = Region(looks=everywhere(INK), share=own[0])
    assert torch.equal(
        styled.paint([whole], background=Background(share=rest)), styled.transfer(INK)
    )


def test_a_region_on_top_of_everything_hides_all_others_and_spares_their_rows(
    styled: Styled,
) -> None:
    own, rest = shares([mask(2, 5), mask(0, 12)], "over")
    regions = [
        Region(looks=everywhere(OIL), share=own[0]),
        Region(looks=everywhere(INK), share=own[1]),
    ]
    with rows(styled.backbone.unet) as seen:
        painted = styled.paint(regions, background=Background(share=rest))
    assert torch.equal(painted, styled.transfer(INK))
    assert sum(seen) == (STEPS - 1) + 2 * STEPS


def test_masks_of_zeros_are_the_content_itself_and_ask_the_model_nothing(styled: Styled) -> None:
    own, rest = shares([mask(0, 0)], "over")
    with rows(styled.backbone.unet) as seen:
        painted = styled.paint(
            [Region(looks=everywhere(INK), share=own[0])], background=Background(share=rest)
        )
    assert torch.equal(painted, styled.trajectory.latents[0])
    assert seen == []


def test_where_no_region_reaches_the_content_stays_at_the_end_and_at_every_level(
    styled: Styled,
) -> None:
    own, rest = shares([mask(0, 4)], "over")
    region = Region(looks=everywhere(INK), share=own[0])
    seen: list[Tensor] = []
    predict = styled.backbone.predict

    def spied(latents: Tensor, timestep: int, embeds: Tensor) -> Tensor:
        if len(latents) == 2:  # the region's rows
            seen.append(latents[0].clone())
        return predict(latents, timestep, embeds)

    styled.backbone.predict = spied  # type: ignore[method-assign]
    try:
        painted = styled.paint([region], background=Background(share=rest))
    finally:
        del styled.backbone.predict
    path = styled.trajectory.latents
    assert torch.equal(painted[..., 4:], path[0][..., 4:])
    assert not torch.equal(painted[..., :4], path[0][..., :4])
    for step, latents in enumerate(seen):
        assert torch.equal(latents[..., 4:], path[STEPS - step][0][..., 4:])


def test_both_backgrounds_agree_where_the_model_retraces_the_content() -> None:
    """Eq. 7 is eq. 8 when the base model's own path is the stored one."""
    styled = Styled()
    predict = null_prediction(styled.backbone, 1)
    levels, path = styled.trajectory.levels, [styled.trajectory.latents[-1]]
    alphas = levels.alphas
    for k in range(STEPS, 0, -1):
        output = predict(path[0], levels.timesteps[k - 1])
        path.insert(0, styled.backbone.schedule.step(path[0], output, alphas[k], alphas[k - 1]))
    styled.trajectory = Trajectory(levels, torch.stack(path))
    _, rest = shares([mask(0, 0), mask(0, 0)], "over")
    nothing = Injection(feature_layers="none", attn_layers="none", feature_steps=0, attn_steps=0)
    painted = styled.paint([], nothing, background=Background(share=rest, looks=everywhere(BASE)))
    assert relative(painted, styled.trajectory.latents[0]) < 1e-6
    own, rest = shares([mask(0, 5)], "over")
    region = Region(looks=everywhere(BASE), share=own[0])
    both = [
        styled.paint([region], nothing, background=Background(share=rest, looks=looks))
        for looks in (None, everywhere(BASE))
    ]
    assert relative(*both) < 1e-6
    other = Background(share=rest, looks=everywhere(replace(OIL, weights={})))
    assert relative(styled.paint([region], nothing, background=other), both[0]) > 1e-4


def test_a_released_background_is_the_models_own_from_then_on(styled: Styled) -> None:
    own, rest = shares([mask(0, 4)], "over")
    region = Region(looks=everywhere(INK), share=own[0])

    def result(pin_until: int | None) -> Tensor:
        return styled.paint([region], background=Background(share=rest, pin_until=pin_until))

    assert torch.equal(result(None), result(STEPS))
    never = styled.paint([region], background=Background(share=rest, looks=everywhere(BASE)))
    assert torch.equal(result(0), never)
    assert relative(result(3), result(None)) > 1e-4
    assert relative(result(3), never) > 1e-4


def test_swapping_two_looks_swaps_what_each_region_shows(styled: Styled) -> None:
    own, rest = shares([mask(0, 6), mask(6, 12)], "over")

    def result(first: Look, second: Look) -> Tensor:
        regions = [
            Region(looks=everywhere(look), share=s)
            for look, s in zip((first, second), own, strict=True)
        ]
        return styled.paint(regions, background=Background(share=rest))

    ink, oil = styled.transfer(INK), styled.transfer(OIL)
    one, other = result(INK, OIL), result(OIL, INK)
    for painted, left, right in ((one, ink, oil), (other, oil, ink)):
        assert relative(painted[..., :4], left[..., :4]) < relative(
            painted[..., :4], right[..., :4]
        )
        assert relative(painted[..., 8:], right[..., 8:]) < relative(
            painted[..., 8:], left[..., 8:]
        )


def test_all_regions_share_one_pass_of_the_source(styled: Styled) -> None:
    """Test 15: 1 + 2 K rows a step, the last step without the source."""
    own, rest = shares([mask(0, 4), mask(4, 8), mask(8, 10)], "over")
    regions = [Region(looks=everywhere(INK), share=share) for share in own]
    with rows(styled.backbone.unet) as seen:
        styled.paint(regions, background=Background(share=rest))
    assert sum(seen) == (STEPS - 1) + 3 * 2 * STEPS
    unguided = [replace(r, looks=everywhere(replace(INK, guidance=1.0))) for r in regions]
    with rows(styled.backbone.unet) as seen:
        styled.paint(unguided, background=Background(share=rest))
    assert sum(seen) == (STEPS - 1) + 3 * STEPS


def test_a_source_with_its_own_path_is_the_background_at_every_step(styled: Styled) -> None:
    """`after` goes on where injection has stopped: the last level is the reconstruction."""
    own, rest = shares([mask(0, 4)], "over")
    early = Injection(feature_steps=1, attn_layers="none", attn_steps=0, source="denoise")
    painted = styled.paint(
        [Region(looks=everywhere(INK), share=own[0])], early, background=Background(share=rest)
    )
    predict = null_prediction(styled.backbone, 1)
    wanted = reconstruct(styled.trajectory, predict, styled.backbone.schedule)
    assert relative(painted[..., 4:], wanted[..., 4:]) < 1e-6


# Laws of schedules


def test_a_schedule_of_one_look_is_a_plain_transfer_bit_for_bit(styled: Styled) -> None:
    schedule = Region(looks=[*[INK] * 2, *[replace(INK)] * (STEPS - 2)])
    assert torch.equal(styled.paint([schedule]), styled.transfer(INK))


def test_one_then_the_other_is_neither_nor_the_other_then_the_one(styled: Styled) -> None:
    results = [
        styled.paint([Region(looks=[*[first] * 3, *[second] * 2])])
        for first, second in ((INK, OIL), (OIL, INK), (INK, INK), (OIL, OIL))
    ]
    for i, one in enumerate(results):
        assert all(relative(one, other) > 1e-3 for other in results[:i])


def test_a_look_of_two_loras_is_the_sum_of_their_weights(styled: Styled) -> None:
    both = Look(weights={"ink": 0.7, "oil": 0.3}, prompt="a", guidance=1.0)
    ours = styled.paint([Region(looks=everywhere(both))])
    layer = styled.layer(everywhere(both), torch.ones(1, 1, 8, 12))
    theirs = styled.written_out([layer], torch.zeros(1, 1, 8, 12))
    assert relative(ours, theirs) < 1e-5


def test_a_stretch_of_base_runs_without_any_lora(styled: Styled) -> None:
    half = styled.paint([Region(looks=[*[INK] * 3, *[replace(BASE, prompt="a")] * 2])])
    zero = replace(INK, weights={"ink": 0.0}, prompt="a", negative="", guidance=1.0)
    assert relative(half, styled.paint([Region(looks=[*[INK] * 3, *[zero] * 2])])) < 1e-6


def test_an_unknown_adapter_is_refused_and_leaves_the_model_as_it_was(styled: Styled) -> None:
    before, said = state(styled.backbone.unet), outputs(styled.backbone)
    with pytest.raises(UsageError, match="no LoRA named 'chalk'"):
        styled.paint([Region(looks=everywhere(replace(INK, weights={"chalk": 1.0})))])
    assert_same_state(styled.backbone.unet, before)
    assert torch.equal(outputs(styled.backbone), said)


# From noise


def levels(backbone: Backbone) -> Levels:
    return backbone.schedule.levels(STEPS)


def test_generating_without_lora_is_diffusers_own_pipeline(styled: Styled) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder(), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    start = noise(1, 4, 8, 8, seed=3)
    wanted = pipe(
        OIL.prompt, negative_prompt="the cat", guidance_scale=3.0, num_inference_steps=STEPS,
        latents=start.clone(), output_type="latent", height=16, width=16,
    ).images  # fmt: skip
    plain = Look(weights={}, prompt=OIL.prompt, negative="the cat", guidance=3.0)
    ours = generate(
        styled.backbone,
        styled.adapters,
        start,
        levels(styled.backbone),
        [Region(looks=everywhere(plain))],
    )
    assert relative(ours, wanted) < 2e-5


def test_generated_regions_are_blended_noise_of_their_looks(styled: Styled) -> None:
    own, rest = shares(SOFT, "over")
    start = noise(1, 4, 8, 12, seed=3)
    looks = [INK, OIL, replace(BASE, prompt="the cat")]
    ours = generate(
        styled.backbone,
        styled.adapters,
        start,
        levels(styled.backbone),
        [Region(looks=everywhere(look), share=s) for look, s in zip(looks, own, strict=False)],
        background=Background(share=rest, looks=everywhere(looks[2])),
    )
    timesteps = ddim.leading_grid(STEPS)
    nothing = reference.Settings([], 0, [], [], [1.0] * STEPS)
    theirs = reference.paint(
        base_unet(),
        [styled.layer(everywhere(a), b) for a, b in zip(looks, [*own, rest], strict=True)],
        torch.zeros_like(rest),
        [start] * (STEPS + 1),
        timesteps,
        ddim.level_alphas(timesteps),
        prediction="epsilon",
        null=styled.backbone.encode_prompt([""]).clone(),
        settings=nothing,
    )
    assert relative(ours, theirs) < 1e-5


def test_nan_of_the_model_is_an_error_and_no_picture(styled: Styled) -> None:
    broken = noise(1, 4, 8, 8) * float("nan")
    with pytest.raises(ItemError, match="NaN or infinity"):
        generate(
            styled.backbone,
            Adapters(styled.backbone.unet),
            broken,
            levels(styled.backbone),
            [Region(looks=everywhere(BASE))],
        )
