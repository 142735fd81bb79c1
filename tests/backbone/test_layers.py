"""Which module is layer n (point 1 of the method's test list)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stylecli.backbone.layers import DecoderLayer, anchor, decoder_layers, select
from stylecli.backbone.model import Backbone
from stylecli.errors import RecipeError
from tests.small import noise

SD15 = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21 = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def on_paper(config: dict[str, Any]) -> Any:
    """The real architecture without its gigabytes."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def names(stem: str, kind: str, depth: int) -> tuple[str, ...]:
    return tuple(f"{stem}.transformer_blocks.{d}.{kind}.processor" for d in range(depth))


def expected(blocks: list[int], resnets: int = 3) -> list[DecoderLayer]:
    """Layers of blocks given by their number of transformer blocks."""
    found = []
    for block, depth in enumerate(blocks):
        for index in range(resnets):
            stem = f"up_blocks.{block}.attentions.{index}"
            attentions = (names(stem, "attn1", depth), names(stem, "attn2", depth))
            found.append(
                DecoderLayer(
                    number=len(found),
                    block=block,
                    index=index,
                    self_attention=attentions[0],
                    cross_attention=attentions[1],
                )
            )
    return found


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("config", "depths", "first", "attention"),
    [
        pytest.param(SD15, [0, 1, 1, 1], 4, range(4, 12), id="sd15"),
        pytest.param(SD21, [0, 1, 1, 1], 4, range(4, 12), id="sd21"),
        pytest.param(SDXL, [10, 2, 0], 1, range(1, 6), id="sdxl"),
    ],
)
def test_layers_are_counted_through_the_decoder_of_real_models(
    config: dict[str, Any], depths: list[int], first: int, attention: range
) -> None:
    """Point 1."""
    unet = on_paper(config)
    layers = decoder_layers(unet)
    assert layers == expected(depths)
    assert anchor(layers) == first
    assert {n for layer in layers for n in (*layer.self_attention, *layer.cross_attention)} == {
        name for name in unet.attn_processors if name.startswith("up_blocks.")
    }

    def numbers(which: Any, *, with_attention: bool) -> list[int]:
        chosen = select(layers, which, anchor, key="k", with_attention=with_attention)
        return [layer.number for layer in chosen]

    assert numbers("anchor", with_attention=False) == [first]
    assert numbers("from_anchor", with_attention=True) == list(attention)
    assert numbers("from_anchor", with_attention=False) == list(range(first, len(layers)))
    owners = [number for number in range(len(layers)) if depths[number // 3]]
    assert numbers("all", with_attention=True) == owners
    assert numbers("all", with_attention=False) == list(range(len(layers)))
    assert numbers("none", with_attention=True) == []


@pytest.mark.parametrize(("config", "first", "width"), [(SD15, 2560, 1280), (SD21, 2560, 1280)])
def test_layer_four_is_the_resnet_of_the_papers(
    config: dict[str, Any], first: int, width: int
) -> None:
    unet = on_paper(config)
    layer = decoder_layers(unet)[4]
    resnet = unet.up_blocks[layer.block].resnets[layer.index]
    assert resnet is unet.get_submodule("up_blocks.1.resnets.1")
    assert (resnet.conv1.in_channels, resnet.conv2.out_channels) == (first, width)


def test_layers_are_numbered_in_the_order_they_run(shared: Backbone) -> None:
    seen: list[int] = []
    hooks = []
    for layer in decoder_layers(shared.unet):
        resnet = shared.unet.up_blocks[layer.block].resnets[layer.index]
        hooks.append(
            resnet.register_forward_hook(lambda *_, number=layer.number: seen.append(number))
        )
    try:
        with torch.inference_mode():
            shared.predict(noise(1, 4, 8, 8), 1, shared.encode_prompt([""]))
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == list(range(12))


@pytest.mark.parametrize(
    ("which", "with_attention", "words"),
    [
        ((4, 12), False, "injection.feature_layers: layer 12 does not exist"),
        ((2,), True, "injection.feature_layers: layer 2 has no attention"),
    ],
)
def test_a_layer_that_is_not_there_is_named_with_those_that_are(
    shared: Backbone, which: tuple[int, ...], with_attention: bool, words: str
) -> None:
    layers = decoder_layers(shared.unet)
    with pytest.raises(RecipeError, match=words) as caught:
        select(layers, which, anchor, key="feature_layers", with_attention=with_attention)
    assert caught.value.fix.startswith("allowed: 3, 4" if with_attention else "allowed: 0, 1")


def test_numbers_are_taken_once_and_in_order(shared: Backbone) -> None:
    chosen = select(decoder_layers(shared.unet), (7, 4, 7), anchor, key="k", with_attention=True)
    assert [layer.number for layer in chosen] == [4, 7]


def test_attention_of_another_kind_is_refused_by_name() -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
    )
    with pytest.raises(RecipeError, match=r"up_blocks\.0\.attentions\.0 is a Attention"):
        decoder_layers(unet)


def test_a_decoder_without_attention_has_no_anchor() -> None:
    layers = expected([0, 0])
    with pytest.raises(RecipeError, match="no attention to anchor on"):
        anchor(layers)
