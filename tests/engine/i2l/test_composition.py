"""A predicted LoRA beside what else people put on a model, inside the pipelines they use.

One step of a sampler is affine in what guidance makes of the two sides. So the law of eq. 9 holds
for whole pipelines: guided = negative + s (positive - negative), each side alone being a run
without guidance, under the LoRA's file as PEFT applies it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylecli.backbone import lora_layouts
from stylecli.backbone.branches import applied, guidance_scale
from stylecli.backbone.denoisers import layers_of
from stylecli.backbone.row_loras import Factors, Pairs
from tests.engine.i2l import stock
from tests.small import noise, relative

S = 4.0
PICTURES = 2
LATENT = stock.PX // 2


@dataclass(frozen=True)
class Setup:
    """A pipeline, how it lays out the sides of guidance, and what it is given besides prompts."""

    pipeline: Any
    kind: str
    layout: Any
    extra: Mapping[str, Any]
    width: int

    @property
    def model(self) -> Any:
        return self.pipeline.unet if self.kind == "unet" else self.pipeline.transformer

    def loras(self, count: int = 3) -> list[Pairs]:
        found = layers_of(self.kind, self.model.config)
        random = torch.Generator().manual_seed(7)
        return [
            {
                layer.path: (
                    torch.randn(2, layer.width_in, generator=random) / layer.width_in**0.5,
                    torch.randn(layer.width_out, 2, generator=random),
                )
                for layer in found
            }
            for _ in range(count)
        ]

    def load(self, **loras: Pairs) -> None:
        """As a user does: the file that we write, through the pipeline's own loader."""
        prefix = "unet" if self.kind == "unet" else "transformer"
        for name, pairs in loras.items():
            state, _ = lora_layouts.write(
                pairs, prefix=prefix, layout="diffusers", dtype=torch.float32
            )
            with warnings.catch_warnings():
                # Several adapters on one model are the point.
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                self.pipeline.load_lora_weights(state, adapter_name=name)

    def one_side(self, *adapters: str, prompt: int, steps: int = 1) -> Tensor:
        """Without guidance, under adapters of PEFT."""
        self.model.set_adapters(list(adapters))
        self.model.enable_lora()
        found = self.run(s=1.0, prompt=prompt, steps=steps)
        self.model.disable_lora()
        return found

    def run(self, *, s: float = S, prompt: int = 1, steps: int = 1, **more: Any) -> Tensor:
        both: dict[str, Any] = {
            "prompt_embeds": stock.prompts(prompt, PICTURES, self.width),
            "negative_prompt_embeds": stock.prompts(2, PICTURES, self.width),
        }
        if self.kind == "z-image":
            both = {name: list(rows) for name, rows in both.items()}
        with torch.no_grad():
            output = self.pipeline(
                **both,
                guidance_scale=guidance_scale(self.layout, s),
                num_inference_steps=steps,
                output_type="latent",
                generator=[torch.Generator().manual_seed(seed) for seed in range(PICTURES)],
                **{**self.extra, **more},
            )
        found: Tensor = output.images
        return found


def sd(name: str, extra: Mapping[str, Any], **parts: Any) -> Setup:
    return Setup(stock.sd(name, **parts), "unet", "neg_pos", extra, 32)


def sd_controlnet() -> Setup:
    made = sd("StableDiffusionPipeline", {})
    control = stock.sd_controlnet(made.model)
    image = noise(PICTURES, 3, stock.PX, stock.PX).sigmoid()
    return sd("StableDiffusionControlNetPipeline", {"image": image}, controlnet=control)


def sd_inpaint() -> Setup:
    image = {"image": [stock.picture(1)] * PICTURES, "mask_image": [stock.half_mask()] * PICTURES}
    size = {"height": stock.PX, "width": stock.PX, "strength": 1.0}
    return sd("StableDiffusionInpaintPipeline", image | size)


def z_image() -> Setup:
    size = {"height": stock.PX, "width": stock.PX}
    return Setup(stock.z_image("ZImagePipeline"), "z-image", "pos_neg", size, stock.WIDTH)


def z_image_controlnet() -> Setup:
    image = {"control_image": noise(PICTURES, 3, stock.PX, stock.PX).sigmoid()}
    size = {"height": stock.PX, "width": stock.PX}
    pipeline = stock.z_image("ZImageControlNetPipeline", controlnet=stock.z_image_controlnet())
    return Setup(pipeline, "z-image", "pos_neg", image | size, stock.WIDTH)


def klein(name: str, extra: Mapping[str, Any]) -> Setup:
    size = {"height": stock.PX, "width": stock.PX}
    return Setup(stock.klein(name), "flux2", "two_calls", {**size, **extra}, stock.WIDTH)


def klein_inpaint() -> Setup:
    image = {"image": stock.picture(1), "mask_image": stock.half_mask(), "strength": 1.0}
    return klein("Flux2KleinInpaintPipeline", image)


MADE: Mapping[str, Callable[[], Setup]] = {
    "sd": lambda: sd("StableDiffusionPipeline", {"height": stock.PX, "width": stock.PX}),
    "sd-controlnet": sd_controlnet,
    "sd-inpaint": sd_inpaint,
    "z-image": z_image,
    "klein": lambda: klein("Flux2KleinPipeline", {}),
    "klein-reference": lambda: klein("Flux2KleinPipeline", {"image": stock.picture(3)}),
    "klein-inpaint": klein_inpaint,
}


@pytest.fixture(params=list(MADE))
def setup(request: pytest.FixtureRequest) -> Setup:
    return MADE[request.param]()


@pytest.mark.slow
def test_sides_of_guidance_have_their_own_lora_in_a_stock_pipeline(setup: Setup) -> None:
    style, neutral, _ = setup.loras()
    sides: dict[str, Any] = {"positive": [0] * PICTURES, "negative": [1] * PICTURES}
    base = setup.run()
    with applied(setup.model, Factors.stacked([style, neutral]), layout=setup.layout, **sides):
        found = setup.run()
        unguided = setup.run(s=1.0)
    assert torch.equal(setup.run(), base)
    setup.load(style=style, neutral=neutral)
    positive = setup.one_side("style", prompt=1)
    negative = setup.one_side("neutral", prompt=2)
    assert relative(found, negative + S * (positive - negative)) < 1e-4
    assert relative(unguided, positive) < 1e-5
    assert relative(found, base) > 1e-2
    swapped = positive + S * (negative - positive)
    assert relative(found, swapped) > 1e-2


@pytest.mark.slow
def test_a_second_lora_of_peft_acts_beside_the_predicted_one(setup: Setup) -> None:
    style, neutral, other = setup.loras()
    setup.load(other=other, style=style, neutral=neutral)
    positive = setup.one_side("style", "other", prompt=1)
    negative = setup.one_side("neutral", "other", prompt=2)
    setup.model.set_adapters(["other"])
    setup.model.enable_lora()
    with applied(
        setup.model,
        Factors.stacked([style, neutral]),
        layout=setup.layout,
        positive=[0] * PICTURES,
        negative=[1] * PICTURES,
    ):
        found = setup.run()
    assert relative(found, negative + S * (positive - negative)) < 1e-4
    assert relative(positive, setup.one_side("style", prompt=1)) > 1e-3
    assert relative(positive, setup.one_side("other", prompt=1)) > 1e-3


def test_pictures_of_one_run_may_have_styles_of_their_own() -> None:
    setup = MADE["z-image"]()
    factors = Factors.stacked(setup.loras())
    runs = [([0, 1], [2, 2]), ([0, 0], [2, 2]), ([1, 1], [2, 2])]
    mixed, first, second = (_under(setup, factors, *slots) for slots in runs)
    assert relative(mixed[:1], first[:1]) < 1e-4
    assert relative(mixed[1:], second[1:]) < 1e-4
    assert relative(mixed[1:], first[1:]) > 1e-3


def test_guidance_that_ends_early_leaves_the_positive_lora() -> None:
    setup = MADE["z-image"]()
    loras = setup.loras()
    rows: list[int] = []
    handle = setup.model.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    factors, sides = Factors.stacked(loras), ([0] * PICTURES, [1] * PICTURES)
    # Guidance ends where progress is above the limit; the first step has made none.
    late, never = (
        _under(setup, factors, *sides, steps=3, cfg_truncation=limit) for limit in (0.0, -1.0)
    )
    handle.remove()
    assert rows == [2 * PICTURES, *[PICTURES] * 5]
    setup.load(style=loras[0])
    assert relative(never, setup.one_side("style", prompt=1, steps=3)) < 1e-4
    assert relative(late, never) > 1e-3


def _under(
    setup: Setup, factors: Factors, positive: list[int], negative: list[int], **more: Any
) -> Tensor:
    with applied(setup.model, factors, layout=setup.layout, positive=positive, negative=negative):
        return setup.run(**more)


@pytest.mark.slow
@pytest.mark.slow
def test_an_sd_controlnet_says_the_same_with_and_without_the_lora() -> None:
    setup = sd_controlnet()
    said = _said(setup.pipeline.controlnet, setup.run)
    style = Factors.stacked(setup.loras(1))
    styled = _said(setup.pipeline.controlnet, lambda: _under(setup, style, [0, 0], [0, 0]))
    assert all(torch.equal(a, b) for a, b in zip(said, styled, strict=True))


def _said(controlnet: nn.Module, run: Callable[[], object]) -> list[Tensor]:
    """Everything a ControlNet adds to the model during a run."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        if isinstance(output, dict):
            found.extend(output.values())
        else:
            found.extend((*output[0], output[1]))

    handle = controlnet.register_forward_hook(keep)
    run()
    handle.remove()
    assert found
    return found


@pytest.mark.slow
def test_a_z_image_controlnet_borrows_the_refiners_and_their_loras_where_it_is_named() -> None:
    setup = z_image_controlnet()
    controlnet = setup.pipeline.controlnet
    full = setup.loras(1)[0]
    kept = {layer.path for layer in layers_of("z-image", setup.model.config, "layers")}
    without = {path: pair for path, pair in full.items() if path in kept}
    assert len(without) < len(full)

    def under(pairs: Pairs, *sharing: nn.Module) -> Tensor:
        with applied(
            setup.model,
            Factors.stacked([pairs]),
            layout="pos_neg",
            positive=[0] * PICTURES,
            negative=[None] * PICTURES,
            sharing=sharing,
        ):
            return setup.run()

    said = _said(controlnet, setup.run)
    alone, shared, spared = (
        _said(controlnet, run)
        for run in (lambda: under(full), lambda: under(full, controlnet), lambda: under(without))
    )
    assert all(torch.equal(a, b) for a, b in zip(said, alone, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(said, spared, strict=True))
    assert all(relative(a, b) > 1e-3 for a, b in zip(said, shared, strict=True))
    # What PEFT does with a file: it changes the layers themselves, whoever calls them.
    both, one, apart = under(full, controlnet), under(without), under(full)
    assert relative(apart, both) > 1e-3
    assert relative(apart, one) > 1e-3
    assert relative(under(without, controlnet), one) < 1e-6
    base = setup.run(s=1.0, prompt=2)
    setup.load(full=full, without=without)
    for found, name in ((both, "full"), (one, "without")):
        positive = setup.one_side(name, prompt=1)
        assert relative(found, base + S * (positive - base)) < 1e-4
    assert relative(both, one) > 1e-3
