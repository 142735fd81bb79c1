"""LoRAs merged into copies of the weights: the same numbers, and a base model that never drifts."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from stylecli.backbone import adapters as adapters_module
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.model import Backbone
from stylecli.errors import UsageError
from tests import tiny
from tests.small import as_file, assert_same_state, folder, lora, outputs, relative, state


def fused(backbone: Backbone, **loras: dict[str, torch.Tensor]) -> Adapters:
    adapters = Adapters(backbone.unet, fused=True)
    for name, tensors in loras.items():
        adapters.add(name, as_file(tensors))
    return adapters


def convolutions(unet: torch.nn.Module, seed: int = 3) -> dict[str, torch.Tensor]:
    """A LoRA of the 3x3 convolutions and of those of one pixel."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for path, module in unet.named_modules():
        if isinstance(module, torch.nn.Conv2d) and ".resnets." in path:
            shape = (4, module.in_channels, *module.kernel_size)
            found[f"{path}.lora_A.weight"] = torch.randn(shape, generator=random) / 8
            b = torch.randn(module.out_channels, 4, 1, 1, generator=random)
            found[f"{path}.lora_B.weight"] = b * 0.3
    assert {t.shape[-1] for t in found.values()} == {1, 3}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", [{"a": 1.0}, {"b": -0.5}, {"a": 0.7, "b": 0.3}, {"b": 1.0, "c": 2.0}]
)
def test_merged_or_beside_the_weights_is_the_same(
    fresh: Backbone, weights: dict[str, float]
) -> None:
    loras = {
        "a": lora(fresh.unet),
        "b": lora(fresh.unet, seed=2, rank=3),
        "c": convolutions(fresh.unet),
    }
    other = tiny.backbone(folder())
    beside = Adapters(other.unet)
    for name, tensors in loras.items():
        beside.add(name, as_file(tensors))
    with beside.use(weights):
        wanted = outputs(other)
    before = outputs(fresh)
    with fused(fresh, **loras).use(weights):
        ours = outputs(fresh)
    assert relative(ours, wanted) < 1e-5
    assert relative(ours, before) > 0.01


@pytest.mark.slow
def test_weight_zero_is_the_base_model_bit_for_bit(fresh: Backbone) -> None:
    before = outputs(fresh)
    adapters = fused(fresh, a=lora(fresh.unet), b=lora(fresh.unet, seed=2))
    with adapters.use({"a": 0.0}):
        assert torch.equal(outputs(fresh), before)
    with adapters.use({"b": 1.0}):
        alone = outputs(fresh)
    with adapters.use({"a": 0.0, "b": 1.0}):
        assert torch.equal(outputs(fresh), alone)


@pytest.mark.slow
def test_blocks_nest_and_a_thousand_switches_leave_no_trace(fresh: Backbone) -> None:
    weights, before = state(fresh.unet), outputs(fresh)
    adapters = fused(fresh, a=lora(fresh.unet), b=lora(fresh.unet, seed=2))
    with adapters.use({"a": 0.5}):
        outer = outputs(fresh)
        with adapters.use({}):
            assert torch.equal(outputs(fresh), before)
            with adapters.use({"b": 2.0}):
                assert relative(outputs(fresh), before) > 0.01
        with pytest.raises(ZeroDivisionError), adapters.use({"b": 1.0}):
            raise ZeroDivisionError
        assert torch.equal(outputs(fresh), outer)
    for step in range(1000):
        with adapters.use({"a": 0.5} if step % 2 else {"b": 1.0}), adapters.use({}):
            pass
    assert torch.equal(outputs(fresh), before)
    with adapters.use({"a": 0.5}):
        assert torch.equal(outputs(fresh), outer)
    assert_same_state(fresh.unet, weights)


@pytest.mark.slow
def test_copies_are_bounded_and_go_with_their_loras(
    fresh: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters_module, "MAX_COPIES", 3)
    made: list[weakref.ref[torch.Tensor]] = []
    adapters = fused(fresh, a=lora(fresh.unet))

    def alive() -> int:
        gc.collect()
        return sum(one() is not None for one in made)

    for turn in range(10):
        with adapters.use({"a": 1.0 + turn}):
            layer = fresh.unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
            made.append(weakref.ref(layer.base_layer.weight))
        assert alive() == min(turn + 1, 3)
    # The last one used is the last to go.
    with adapters.use({"a": 8.0}):
        pass
    with adapters.use({"a": 99.0}):
        assert made[7]() is not None
        assert made[8]() is None
    adapters.add("b", as_file(lora(fresh.unet, seed=2)))
    assert alive() == 0
    with adapters.use({"a": 1.0}):
        changed = outputs(fresh)
    adapters.remove("b")
    adapters.remove("a")
    assert relative(outputs(fresh), changed) > 0.01


@pytest.mark.slow
def test_half_precision_weights_are_added_to_in_float32() -> None:
    half = tiny.backbone(folder(), dtype=torch.bfloat16)
    tensors = lora(half.unet)
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    before = half.unet.get_submodule(name).weight.float()
    a, b = (tensors[f"{name}.lora_{one}.weight"].bfloat16().float() for one in "AB")
    with fused(half, a=tensors).use({"a": 0.3}):
        found = half.unet.get_submodule(name).base_layer.weight
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), before + 0.3 * b @ a, rtol=2**-8, atol=1e-6)


@pytest.mark.slow
def test_a_lora_with_magnitudes_is_refused_and_leaves_no_trace(fresh: Backbone) -> None:
    tensors = lora(fresh.unet)
    for name in [name for name in tensors if name.endswith("lora_B.weight")]:
        height = len(tensors[name])
        tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = torch.ones(height)
    before = outputs(fresh)
    adapters = fused(fresh)
    with pytest.raises(UsageError, match="magnitudes or biases") as caught:
        adapters.add("a", as_file(tensors))
    assert caught.value.fix == "--set device.adapters=passes"
    assert torch.equal(outputs(fresh), before)
