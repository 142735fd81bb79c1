"""DiffStyler against the slow reference, and the laws its settings obey."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.inversion import Trajectory, invert, null_prediction, reconstruct
from stylecli.backbone.layers import anchor, decoder_layers, select
from stylecli.backbone.model import Backbone
from stylecli.backbone.sampling import denoise
from stylecli.errors import ItemError, RecipeError
from stylecli.methods.diffstyler import Look, kappa, transfer
from stylecli.recipe.schema import Injection
from stylecli.tensors.channels import adain
from tests import tiny
from tests.reference import ddim
from tests.reference import diffstyler as reference
from tests.small import base_unet, folder, lora, noise, outputs, relative, with_loras

STEPS, FEATURE_STEPS, ATTN_STEPS = 5, 3, 2
PROMPT, NEGATIVE = "a cat in sss style", "the dog"
PRESETS = {
    "aaai26": {"feature_layers": "anchor", "attn_layers": "from_anchor", "attn_cross": "none"},
    "v1": {"feature_layers": "from_anchor", "attn_layers": "all", "attn_cross": "all"},
}
REFERENCE_LAYERS: dict[str, dict[str, Any]] = {
    "aaai26": {"feature_layers": [4], "self_layers": range(4, 12), "cross_layers": []},
    "v1": {
        "feature_layers": range(4, 12),
        "self_layers": range(3, 12),
        "cross_layers": range(3, 12),
    },
}
TAILS = get_args(Injection.model_fields["attn_tail"].annotation)
NOTHING = Injection(
    feature_layers="none", attn_layers="none", feature_steps=0, attn_steps=0, attn_tail="hard"
)


def injection(preset: str = "aaai26", **changes: Any) -> Injection:
    """A preset shortened to a few steps."""
    steps = {"feature_steps": FEATURE_STEPS, "attn_steps": ATTN_STEPS}
    return Injection(**{**PRESETS[preset], **steps, **changes})


def look(guidance: float = 3.0, weight: float = 0.8, **changes: Any) -> Look:
    named: dict[str, Any] = {"prompt": PROMPT, "negative": NEGATIVE} | changes
    return Look(weights={"style": weight}, guidance=guidance, **named)


@pytest.fixture(scope="module")
def style() -> dict[str, Tensor]:
    return lora(base_unet())


class Styled:
    """A tiny model with a LoRA and the trajectory of one content."""

    def __init__(self, prediction: str, style: dict[str, Tensor], steps: int = STEPS) -> None:
        self.prediction = prediction
        self.backbone = tiny.backbone(folder(prediction))
        self.adapters = with_loras(self.backbone, style=style)
        self.trajectory = self.inverted(noise(1, 4, 8, 8), steps)

    def inverted(self, clean: Tensor, steps: int = STEPS) -> Trajectory:
        schedule = self.backbone.schedule
        predict = null_prediction(self.backbone, len(clean))
        return invert(clean, predict, schedule, schedule.levels(steps))

    def transfer(
        self, look: Look, injection: Injection, path: Trajectory | None = None, **given: Any
    ) -> Tensor:
        return transfer(
            self.backbone, self.adapters, path or self.trajectory, look, injection, **given
        )

    def embedded(self, prompt: str) -> Tensor:
        return self.backbone.encode_prompt([prompt]).clone()


@pytest.fixture(scope="module")
def epsilon(style: dict[str, Tensor]) -> Styled:
    return Styled("epsilon", style)


@pytest.fixture(scope="module")
def velocity(style: dict[str, Tensor]) -> Styled:
    return Styled("v_prediction", style)


def written_out(
    styled: Styled,
    style: dict[str, Tensor],
    preset: str,
    *,
    guidance: float,
    tail: str,
    **kinds: Any,
) -> Tensor:
    """The reference's answer; LoRAs in these tests have alpha = rank."""
    unet = base_unet(styled.prediction)
    timesteps = ddim.leading_grid(STEPS)
    return reference.transfer(
        unet,
        reference.merged(unet, style, 0.8),
        list(styled.trajectory.latents.clone()),
        timesteps,
        ddim.level_alphas(timesteps),
        prediction=styled.prediction,
        null=styled.embedded(""),
        uncond=styled.embedded(NEGATIVE),
        cond=styled.embedded(PROMPT),
        guidance=guidance,
        settings=reference.Settings(
            **REFERENCE_LAYERS[preset],
            feature_steps=FEATURE_STEPS,
            kappas=reference.kappas(tail, STEPS, ATTN_STEPS, timesteps),
            **kinds,
        ),
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("preset", "tail", "mix", "guidance"),
    [
        *((preset, tail, "probs", 3.0) for preset in PRESETS for tail in TAILS),
        *((preset, "adaptive", "qk", 3.0) for preset in PRESETS),
        ("v1", "printed", "qk", 1.0),
        ("aaai26", "time", "probs", 1.0),
    ],
)
def test_every_preset_and_tail_equals_the_reference(
    epsilon: Styled,
    style: dict[str, Tensor],
    preset: str,
    tail: str,
    mix: str,
    guidance: float,
) -> None:
    ours = epsilon.transfer(look(guidance), injection(preset, attn_tail=tail, attn_mix=mix))
    theirs = written_out(epsilon, style, preset, guidance=guidance, tail=tail, mix=mix)
    assert relative(ours, theirs) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("tap", "source"), [("residual", "replay"), ("output", "denoise")])
def test_v_models_taps_and_sources_equal_the_reference(
    velocity: Styled, style: dict[str, Tensor], preset: str, tap: str, source: str
) -> None:
    ours = velocity.transfer(look(), injection(preset, feature_tap=tap, source=source))
    theirs = written_out(
        velocity, style, preset, guidance=3.0, tail="adaptive", tap=tap, source=source
    )
    assert relative(ours, theirs) < 1e-5


@pytest.mark.slow
def test_every_setting_of_the_comparison_changes_the_result(epsilon: Styled) -> None:
    """Else the comparisons above would prove less than they say."""
    results = {
        "aaai26": epsilon.transfer(look(), injection()),
        "v1": epsilon.transfer(look(), injection("v1")),
        "qk": epsilon.transfer(look(), injection(attn_mix="qk")),
        "output": epsilon.transfer(look(), injection(feature_tap="output")),
        "denoise": epsilon.transfer(look(), injection(source="denoise")),
        "guidance 1": epsilon.transfer(look(1.0), injection()),
    }
    # `time` is `adaptive` within 0.002 on this grid; the law of kappa below tells them apart.
    for tail in ("printed", "hard", "full"):
        results[tail] = epsilon.transfer(look(), injection(attn_tail=tail))
    found = list(results.items())
    for i, (name, result) in enumerate(found):
        for other, another in found[:i]:
            assert relative(result, another) > 1e-4, (name, other)


@pytest.mark.slow
def test_one_thing_in_charge_of_the_layout_and_another_of_the_look(epsilon: Styled) -> None:
    """Point 10: with queries and keys all the source's, their LoRA is idle and that of V is not."""
    locked = injection(feature_steps=0, attn_steps=STEPS)
    inside = r"^up_blocks\.(1\..*\.[12]|[23]\..*)\.transformer_blocks.*attn1\.to_"
    parts = {
        "layout": lora(base_unet(), only=inside + "[qk]$"),
        "look": lora(base_unet(), only=inside + "v$"),
    }
    backbone = tiny.backbone(folder())
    adapters = with_loras(backbone, **parts)

    def result(**weights: float) -> Tensor:
        wanted = Look(weights=weights, prompt=PROMPT, guidance=1.0)
        return transfer(backbone, adapters, epsilon.trajectory, wanted, locked)

    assert torch.equal(result(layout=1.0), result())
    assert relative(result(look=1.0), result()) > 1e-3


# Laws


def plain_sampling(styled: Styled, guidance: float) -> Tensor:
    """The LoRA model under diffusers' own pipeline, from the content's noise."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder(), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet = reference.merged(pipe.unet, lora(base_unet()), 0.8)
    found: Tensor = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        latents=styled.trajectory.latents[-1].clone(),
        output_type="latent",
        height=16,
        width=16,
    ).images
    return found


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_thresholds_of_zero_are_plain_lora_sampling(epsilon: Styled, guidance: float) -> None:
    """Point 7: bit for bit as with no layer at all, and diffusers' own pipeline."""
    off = injection(feature_steps=0, attn_steps=0, attn_tail="hard")
    ours = epsilon.transfer(look(guidance), off)
    assert torch.equal(ours, epsilon.transfer(look(guidance), NOTHING))
    assert relative(ours, plain_sampling(epsilon, guidance)) < 2e-5
    ramp = injection(feature_steps=0, attn_steps=0)
    assert relative(epsilon.transfer(look(guidance), ramp), ours) > 1e-3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("preset", PRESETS)
def test_no_lora_and_full_injection_reproduce_the_reconstruction(
    epsilon: Styled, preset: str
) -> None:
    """Point 6: a source that looks at itself, on its own path or a replay of it."""
    plain = look(1.0, weight=0.0, prompt="")
    everything = injection(preset, feature_steps=STEPS, attn_steps=STEPS, source="denoise")
    predict = null_prediction(epsilon.backbone, 1)
    wanted = reconstruct(epsilon.trajectory, predict, epsilon.backbone.schedule)
    assert relative(epsilon.transfer(plain, everything), wanted) < 1e-6

    levels, start = epsilon.trajectory.levels, epsilon.trajectory.latents[-1]
    path = [start]
    for _, latents in denoise(
        start, lambda z, step: predict(z, step.timestep), epsilon.backbone.schedule, levels
    ):
        path.insert(0, latents)
    retraced = Trajectory(levels, torch.stack(path))
    replayed = injection(preset, feature_steps=STEPS, attn_steps=STEPS)
    assert relative(epsilon.transfer(plain, replayed, retraced), wanted) < 1e-6


@pytest.mark.slow
def test_full_is_a_threshold_at_the_end_and_hard_is_no_tail(epsilon: Styled) -> None:
    """Point 8."""

    def result(**changes: Any) -> Tensor:
        return epsilon.transfer(look(), injection(**changes))

    full = result(attn_tail="full")
    for tail in ("adaptive", "printed"):
        assert torch.equal(result(attn_tail=tail, attn_steps=STEPS), full)
    assert relative(result(attn_tail="hard"), full) > 1e-3


@pytest.mark.slow
def test_several_contents_at_once_equal_each_alone(epsilon: Styled) -> None:
    """Point 12: one picture is a batch of one."""
    contents = noise(2, 4, 8, 8, seed=5)
    together = epsilon.transfer(look(), injection("v1"), epsilon.inverted(contents))
    for row in range(2):
        path = epsilon.inverted(contents[row : row + 1])
        alone = epsilon.transfer(look(), injection("v1"), path)
        assert relative(together[row : row + 1], alone) < 1e-5


@pytest.mark.slow
def test_pictures_need_not_be_square(epsilon: Styled) -> None:
    path = epsilon.inverted(noise(1, 4, 8, 16))
    assert epsilon.transfer(look(), injection(), path).shape == (1, 4, 8, 16)


def smallest_unet() -> Any:
    """Decoder layers 0 to 3, of which 2 and 3 own attention: enough to count passes."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


@contextmanager
def counting(unet: Any) -> Iterator[list[int]]:
    """Rows of every pass through the UNet, also of one that ends early."""
    rows: list[int] = []
    hook = unet.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        hook.remove()


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("guidance", "changes", "source", "target", "total"),
    [
        pytest.param(3.0, {}, 49, 100, 199, id="adaptive"),
        pytest.param(3.0, {"attn_tail": "hard"}, 30, 100, 180, id="hard"),
        pytest.param(1.0, {}, 49, 50, 149, id="guidance 1"),
        pytest.param(3.0, NOTHING.model_dump(), 0, 100, 150, id="plain LoRA"),
    ],
)
def test_rows_are_the_papers_count(
    shared: Backbone,
    guidance: float,
    changes: dict[str, Any],
    source: int,
    target: int,
    total: int,
) -> None:
    """Point 15, at 50 steps."""
    backbone = replace(shared, unet=smallest_unet())
    schedule, predict = backbone.schedule, null_prediction(backbone, 1)
    with counting(backbone.unet) as rows:
        path = invert(noise(1, 4, 8, 8), predict, schedule, schedule.levels(50))
        assert rows == [1] * 50
        wanted = Look(weights={}, prompt=PROMPT, negative=NEGATIVE, guidance=guidance)
        transfer(backbone, Adapters(backbone.unet), path, wanted, Injection(**changes))
    assert sum(rows) == 50 + source + target == total
    assert len(rows) == 50 + source + 50, "one pass of each kind a step, or none"


@pytest.mark.slow
def test_equal_prompts_cost_one_row(epsilon: Styled) -> None:
    with counting(epsilon.backbone.unet) as rows:
        same = epsilon.transfer(look(negative=PROMPT), NOTHING)
    assert rows == [1] * STEPS
    assert torch.equal(same, epsilon.transfer(look(1.0), NOTHING))


@pytest.mark.slow
def test_afterwards_the_model_is_the_base_model(epsilon: Styled) -> None:
    """Point 19: after success, and after an interruption in the middle."""
    unet = epsilon.backbone.unet
    processors, before = unet.attn_processors, outputs(epsilon.backbone)
    calls: list[int] = []

    def on_step() -> None:
        calls.append(len(calls))
        if len(calls) == STEPS + 3:
            raise KeyboardInterrupt

    arguments = (epsilon.backbone, epsilon.adapters, epsilon.trajectory, look(), injection("v1"))
    transfer(*arguments, on_step=on_step)
    assert len(calls) == STEPS
    assert torch.equal(outputs(epsilon.backbone), before)
    with pytest.raises(KeyboardInterrupt):
        transfer(*arguments, on_step=on_step)
    assert torch.equal(outputs(epsilon.backbone), before)
    assert unet.attn_processors == processors
    assert not [name for name, p in unet.named_parameters() if p.requires_grad]


@pytest.mark.slow
def test_the_source_never_sees_the_lora(epsilon: Styled) -> None:
    """Point 11: every source pass answers as the base model, while the LoRA is on for the rest."""
    backbone, trajectory = epsilon.backbone, epsilon.trajectory
    answers: dict[int, Tensor] = {}

    def keep(_module: Any, inputs: Any, output: Any) -> None:
        if len(inputs[0]) == 1:  # targets come in twos
            answers[int(inputs[1])] = output[0]

    hook = backbone.unet.register_forward_hook(keep)
    epsilon.transfer(look(), injection(source="denoise"))
    hook.remove()
    latents, predict = trajectory.latents[-1], null_prediction(backbone, 1)
    levels = trajectory.levels
    assert len(answers) == STEPS - 1
    for level in range(STEPS, 1, -1):
        wanted = predict(latents, levels.timesteps[level - 1])
        assert relative(answers[levels.timesteps[level - 1]], wanted) < 1e-6
        latents = backbone.schedule.step(
            latents, wanted, levels.alphas[level], levels.alphas[level - 1]
        )


# Equation 5


@given(
    tail=st.sampled_from(TAILS),
    grid=st.sampled_from([1, 6, 30, 50, 999]).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n))
    ),
)
def test_kappa_equals_the_reference_and_stays_between_0_and_1(
    tail: str, grid: tuple[int, int]
) -> None:
    """Point 22: no threshold, from the first step to the last, divides by zero."""
    steps, threshold = grid
    timesteps = ddim.leading_grid(steps)
    chosen = Injection(attn_tail=tail, attn_steps=threshold)
    ours = [
        kappa(
            step,
            steps=steps,
            injection=chosen,
            timestep=timesteps[steps - 1 - step],
            num_train_timesteps=1000,
        )
        for step in range(steps)
    ]
    assert ours == pytest.approx(reference.kappas(tail, steps, threshold, timesteps))
    assert all(0 <= share <= 1 for share in ours)
    assert ours == sorted(ours)


def test_adaptive_is_the_released_codes_ramp_at_its_default() -> None:
    """Point 22: ``1 - min(1, 2t / 1000)`` within 0.0025 at 25 of 50."""
    for step in range(50):
        timestep = 981 - 20 * step
        share = kappa(
            step, steps=50, injection=Injection(), timestep=timestep, num_train_timesteps=1000
        )
        assert share == pytest.approx(1 - min(1, 2 * timestep / 1000), abs=0.0025)


# What it is given


@pytest.mark.slow
def test_adain_gives_channels_the_styles_statistics(epsilon: Styled) -> None:
    content, style = noise(2, 4, 8, 8), 3 * noise(1, 4, 8, 16, seed=1) + 1
    given_style = adain(content, style)
    for row in given_style:
        torch.testing.assert_close(row.mean(dim=(1, 2)), style[0].mean(dim=(1, 2)))
        torch.testing.assert_close(row.std(dim=(1, 2)), style[0].std(dim=(1, 2)))
    assert relative(adain(content, content[:1])[:1], content[:1]) < 1e-6
    plain = epsilon.transfer(look(), injection())
    own = epsilon.trajectory.latents[-1]
    styled = adain(own, noise(1, 4, 8, 8, seed=1) * 3)
    assert relative(epsilon.transfer(look(), injection(), start=styled), plain) > 1e-3
    assert torch.equal(epsilon.transfer(look(), injection(), start=own), plain)


def test_a_layer_that_is_not_there_is_refused(epsilon: Styled) -> None:
    with pytest.raises(RecipeError, match="layer 12 does not exist"):
        epsilon.transfer(look(), injection(feature_layers=(12,)))


@pytest.mark.slow
def test_a_result_that_is_not_a_number_is_an_error(epsilon: Styled) -> None:
    broken = Trajectory(epsilon.trajectory.levels, epsilon.trajectory.latents * float("nan"))
    with pytest.raises(ItemError, match="NaN or infinity"):
        epsilon.transfer(look(), injection(), broken)


def test_presets_mean_the_papers_layers(shared: Backbone) -> None:
    layers = decoder_layers(shared.unet)
    for preset, settings in PRESETS.items():
        named = injection(preset)
        for key, wanted in zip(settings, REFERENCE_LAYERS[preset].values(), strict=True):
            chosen = select(
                layers, getattr(named, key), anchor, key=key, with_attention=key != "feature_layers"
            )
            assert [layer.number for layer in chosen] == list(wanted)
