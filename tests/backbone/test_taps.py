"""What is tapped is what the layer computes, and nothing is left behind, nor computed behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.layers import decoder_layers
from stylecli.backbone.model import Backbone
from stylecli.backbone.taps import Tap, tapped
from tests.small import noise, outputs

NUMBERS = (0, 2, 4, 7, 11)


def features(backbone: Backbone, tap: Tap, numbers: tuple[int, ...] = NUMBERS) -> dict[int, Tensor]:
    layers = decoder_layers(backbone.unet)
    prompt = backbone.encode_prompt(["a cat"]).expand(2, -1, -1)
    with tapped(backbone.unet, [layers[n] for n in numbers], tap) as found, torch.inference_mode():
        backbone.predict(noise(2, 4, 8, 8), 500, prompt)
    return found


def hooks(unet: Any) -> int:
    return sum(len(module._forward_hooks) for module in unet.modules())


def whole_pass(backbone: Backbone) -> dict[str, tuple[Any, Any, Any]]:
    """Arguments and output of every module, from a pass that ran to its end."""
    seen: dict[str, tuple[Any, Any, Any]] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, a, k, o, name=name: seen.update({name: (a, k, o)}), with_kwargs=True
        )
        for name, module in backbone.unet.named_modules()
    ]
    prompt = backbone.encode_prompt(["a cat"]).expand(2, -1, -1)
    with torch.inference_mode():
        backbone.predict(noise(2, 4, 8, 8), 500, prompt)
    for handle in handles:
        handle.remove()
    return seen


def test_taps_are_the_branch_the_sum_and_what_attention_makes_of_it(shared: Backbone) -> None:
    taps: dict[Tap, dict[int, Tensor]] = {
        "residual": features(shared, "residual"),
        "output": features(shared, "output"),
        "layer": features(shared, "layer"),
    }
    seen = whole_pass(shared)
    layers = decoder_layers(shared.unet)
    for number in NUMBERS:
        layer = layers[number]
        stem = f"up_blocks.{layer.block}.resnets.{layer.index}"
        resnet = shared.unet.get_submodule(stem)
        (given, *_), _, whole = seen[stem]
        with torch.inference_mode():
            shortcut = resnet.conv_shortcut(given)
        residual, output = taps["residual"][number], taps["output"][number]
        assert torch.allclose((shortcut + residual) / resnet.output_scale_factor, output, atol=1e-6)
        assert torch.equal(output, whole)
        assert not torch.allclose(residual, output, atol=1e-2)
        if not layer.self_attention:
            assert torch.equal(taps["layer"][number], output)
            continue
        attended = seen[f"up_blocks.{layer.block}.attentions.{layer.index}"][2][0]
        assert torch.equal(taps["layer"][number], attended)
        assert not torch.allclose(attended, output, atol=1e-4)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("tap", ["residual", "output", "layer"])
def test_nothing_behind_the_last_layer_is_computed(shared: Backbone, tap: Tap) -> None:
    layers = decoder_layers(shared.unet)
    ran: list[int] = []
    handles = [
        shared.unet.up_blocks[one.block]
        .resnets[one.index]
        .register_forward_pre_hook(lambda *_, n=one.number: ran.append(n))
        for one in layers
    ]
    try:
        found = features(shared, tap, (2, 5))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1, 2, 3, 4, 5]
    assert sorted(found) == [2, 5]


def test_a_tapped_model_is_the_same_afterwards(shared: Backbone) -> None:
    before, count = outputs(shared), hooks(shared.unet)
    features(shared, "layer")
    assert hooks(shared.unet) == count
    assert torch.equal(outputs(shared), before)


def test_hooks_go_when_the_block_fails(shared: Backbone) -> None:
    count = hooks(shared.unet)
    with (
        pytest.raises(ZeroDivisionError),
        tapped(shared.unet, decoder_layers(shared.unet)[:1], "output"),
    ):
        raise ZeroDivisionError
    assert hooks(shared.unet) == count
