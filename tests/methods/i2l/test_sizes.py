"""Sizes and costs at full scale, from configs alone: no weight of these models is anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.denoisers.layer_sets import layers_of
from stylecli.backbone.linears import Layer
from stylecli.backbone.registry import ASSETS
from stylecli.methods.i2l import costs
from stylecli.methods.i2l.encoders.siglip import TOWERS, Tower
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.presets import sizes
from stylecli.methods.i2l.sizes import Shape, parameters, total_width

KINDS = {
    "z-image": "z-image",
    "flux2-klein": "flux2",
    "hidream-o1": "hidream",
    "sd15": "unet",
    "sd21-base": "unet",
    "pocket": "unet",
}
POCKET_WIDTH, POCKET_TOKENS = 510, 16
GIANT, BASE = TOWERS["siglip2-giant-384"], TOWERS["siglip2-base-256"]
M = 1e6


def config(backbone: str) -> Mapping[str, Any]:
    if backbone == "pocket":
        return json.loads((ASSETS / "pocket" / "unet" / "config.json").read_text())
    return CONFIGS[backbone]


@cache
def layers(backbone: str, layer_set: str) -> tuple[Layer, ...]:
    return layers_of(KINDS[backbone], config(backbone), layer_set)


def shape(preset: str, backbone: str, encoder_width: int) -> Shape:
    said = sizes(preset, KINDS[backbone]).to_json()
    return Shape.from_json({**said, "encoder_width": encoder_width})


@pytest.mark.parametrize(
    ("backbone", "layer_set", "count", "total"),
    [
        ("z-image", "full", 238, 2_480_640),
        ("z-image", "layers", 210, 2_188_800),
        ("flux2-klein", "full", 100, 1_505_280),
        ("hidream-o1", "full", 252, 2_727_936),
        ("sd21-base", "attn", 128, 207_488),
        ("sd21-base", "attn+ff", 192, 432_128),
        ("sd15", "attn", 128, 199_296),
        ("pocket", "attn", 128, 19_328),
        ("pocket", "attn+ff", 192, 38_912),
        ("pocket", "attn2", 64, 10_624),
    ],
)
def test_layers_of_each_backbone_and_their_widths(
    backbone: str, layer_set: str, count: int, total: int
) -> None:
    found = layers(backbone, layer_set)
    assert (len(found), total_width(found)) == (count, total)


# Preset, backbone, layers, width of the encoder's tokens; then parameters in millions of trunk,
# heads and all, queries, and megabytes of a LoRA in bfloat16.
TABLE = [
    ("paper", "z-image", "full", 1536, 396, 411, 816, 3808, 39.7),
    ("paper", "flux2-klein", "full", 1536, 396, 348, 749, 1600, 24.1),
    ("paper", "hidream-o1", "full", 1536, 396, 728, 1133, 4032, 43.6),
    ("paper-trainable", "z-image", "full", 1536, 1130, 885, 2026, 3808, 39.7),
    ("paper-trainable", "flux2-klein", "full", 1536, 1387, 490, 1884, 1600, 24.1),
    ("paper-trainable", "hidream-o1", "full", 1536, 1336, 963, 2310, 4032, 43.6),
    ("sd", "sd21-base", "attn", 768, 57, 26, 84, 1024, 1.7),
    ("micro", "pocket", "attn", 768, 3.2, 2.7, 6.4, 1024, 0.2),
    ("nano", "pocket", "attn2", 510, 1.3, 0.8, 2.2, 256, 0.04),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_formula_counts_what_is_built_and_gives_the_published_totals(
    row: tuple[Any, ...],
) -> None:
    preset, backbone, layer_set, width, trunk, heads, total, queries, megabytes = row
    said, own = shape(preset, backbone, width), layers(backbone, layer_set)
    with torch.device("meta"):
        predictor = Predictor(said, own)
    counted = {name: p.numel() for name, p in predictor.named_parameters()}
    assert sum(counted.values()) == parameters(said, own)

    def near(prefix: str) -> float:
        return sum(n for name, n in counted.items() if name.startswith(prefix)) / M

    digits = 1 if total < 10 else 0
    assert round(near("blocks."), digits) == trunk
    assert round(near("heads."), digits) == pytest.approx(heads, abs=0.11)
    assert round(near(""), digits) == pytest.approx(total, abs=0.11)
    assert 2 * said.rank * len(own) == queries
    assert 2 * said.rank * total_width(own) / M == pytest.approx(megabytes, rel=0.1, abs=0.05)


@pytest.mark.parametrize(
    ("backbone", "billions"), [("z-image", 1.95), ("flux2-klein", 1.89), ("hidream-o1", 2.27)]
)
def test_paper_with_its_encoder_is_as_large_as_the_paper_says(
    backbone: str, billions: float
) -> None:
    own = parameters(shape("paper", backbone, GIANT.width), layers(backbone, "full"))
    assert round((own + GIANT.parameters) / 1e9, 2) == pytest.approx(billions, abs=0.011)


def predicting(preset: str, backbone: str, layer_set: str, tower: Tower, references: int) -> float:
    said, own = shape(preset, backbone, tower.width), layers(backbone, layer_set)
    tokens = references * tower.tokens
    return costs.encoding(tower, references) + costs.predicting(said, own, tokens)


@pytest.mark.parametrize(
    ("backbone", "teraflops"), [("z-image", 8.1), ("flux2-klein", 4.4), ("hidream-o1", 8.5)]
)
def test_predicting_costs_what_the_cost_model_says(backbone: str, teraflops: float) -> None:
    said, own = shape("paper", backbone, GIANT.width), layers(backbone, "full")
    assert round(costs.encoding(GIANT, 4) / 1e12, 1) == 5.6
    assert round(costs.predicting(said, own, 4 * GIANT.tokens) / 1e12, 1) == teraflops


def at_least(backbone: str, tokens: int) -> float:
    """FLOPs of a pass of a transformer: of its adapted layers alone, and image tokens alone."""
    return 2.0 * tokens * sum(x.width_in * x.width_out for x in layers(backbone, "full"))


@cache
def of_unet(backbone: str, latents: int) -> float:
    """FLOPs of a pass of a UNet, counted by torch on shapes."""
    from diffusers import UNet2DConditionModel

    said = config(backbone)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(said)
        noised = torch.zeros(1, 4, latents, latents)
        text = torch.zeros(1, TEXT_TOKENS[backbone], said["cross_attention_dim"])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(noised, torch.zeros(1), encoder_hidden_states=text)
    return float(counter.get_total_flops())


TEXT_TOKENS = {"sd15": 77, "sd21-base": 77, "pocket": 32}
IMAGE_TOKENS = 64 * 64
PASSES: Mapping[str, Callable[[], float]] = {
    "z-image": lambda: at_least("z-image", IMAGE_TOKENS),
    "flux2-klein": lambda: at_least("flux2-klein", IMAGE_TOKENS),
    "hidream-o1": lambda: at_least("hidream-o1", IMAGE_TOKENS),
    "sd15": lambda: of_unet("sd15", 64),
    "sd21-base": lambda: of_unet("sd21-base", 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("references", [1, 4, 8])
@pytest.mark.parametrize(
    ("preset", "backbone", "layer_set", "tower"),
    [
        *(
            (preset, backbone, "full", GIANT)
            for preset in ("paper", "paper-trainable")
            for backbone in ("z-image", "flux2-klein", "hidream-o1")
        ),
        ("sd", "sd15", "attn", BASE),
        ("sd", "sd21-base", "attn", BASE),
    ],
)
def test_a_prediction_costs_less_than_a_hundredth_of_a_trained_lora(
    preset: str, backbone: str, layer_set: str, tower: Tower, references: int
) -> None:
    trained = costs.training_a_lora(PASSES[backbone]())
    assert trained >= 100 * predicting(preset, backbone, layer_set, tower, references)


def ratio_on_pocket(preset: str, layer_set: str, latents: int, tokens: int) -> float:
    said, own = shape(preset, "pocket", POCKET_WIDTH), layers("pocket", layer_set)
    predict = costs.predicting(said, own, 4 * tokens)
    return costs.training_a_lora(of_unet("pocket", latents)) / predict


@pytest.mark.slow
def test_on_pocket_nano_keeps_to_the_hundredth_and_micro_does_not() -> None:
    assert of_unet("pocket", 16) == pytest.approx(0.43e9, rel=0.05)
    assert ratio_on_pocket("nano", "attn2", 16, POCKET_TOKENS) == pytest.approx(160, rel=0.05)
    # So small a backbone trains a LoRA for less than a hundred of micro's predictions.
    assert ratio_on_pocket("micro", "attn", 32, 64) == pytest.approx(60, rel=0.05)


@pytest.mark.slow
def test_a_cost_is_what_torch_counts_on_the_predictor_itself() -> None:
    said, own = shape("micro", "pocket", POCKET_WIDTH), layers("pocket", "attn")
    predictor, tokens = Predictor(said, own), torch.zeros(1, 4, POCKET_TOKENS, POCKET_WIDTH)
    # The counter knows products of matrices, and not the CPU's own kernel of attention.
    is_counted = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), is_counted, FlopCounterMode(display=False) as counter:
        predictor(tokens)
    counted = counter.get_total_flops()
    # Ours leaves out the way in, and what the last block saves on image tokens.
    assert costs.predicting(said, own, 4 * POCKET_TOKENS) == pytest.approx(counted, rel=0.05)


def test_a_cost_of_an_encoder_is_what_torch_counts_on_it() -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    with torch.device("meta"):
        model = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=BASE.width,
                intermediate_size=BASE.hidden,
                num_hidden_layers=BASE.depth,
                num_attention_heads=12,
                patch_size=16,
                image_size=256,
                vision_use_head=False,
            )
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(pixel_values=torch.zeros(3, 3, 256, 256))
    assert costs.encoding(BASE, 3) == pytest.approx(counter.get_total_flops(), rel=0.02)
