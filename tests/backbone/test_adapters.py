"""LoRAs on one UNet, and the base model that is always there again (point 19)."""

from __future__ import annotations

import pytest
import torch

from stylecli.backbone.model import Backbone
from stylecli.errors import UsageError
from tests.reference import diffstyler as reference
from tests.small import (
    as_file,
    assert_same_state,
    base_unet,
    lora,
    noise,
    outputs,
    relative,
    state,
    with_loras,
)


def merged_outputs(backbone: Backbone, *pairs: tuple[dict[str, torch.Tensor], float]):
    """The same fingerprint from ``W + scale B A``, without PEFT."""
    unet = base_unet()
    for tensors, scale in pairs:
        unet = reference.merged(unet, tensors, scale)
    with torch.no_grad():
        return unet(
            noise(2, 4, 8, 8),
            500,
            encoder_hidden_states=backbone.encode_prompt(["a cat in sss style", ""]).clone(),
        ).sample


def test_switching_loras_leaves_the_base_model_bit_identical(fresh: Backbone) -> None:
    """Point 19: loaded, used, left, raised through: outputs and weights are the first ones."""
    weights, before = state(fresh.unet), outputs(fresh)
    adapters = with_loras(fresh, a=lora(fresh.unet), b=lora(fresh.unet, seed=2))
    assert torch.equal(outputs(fresh), before)
    with adapters.use({"a": 1.0}):
        with_a = outputs(fresh)
    with adapters.use({"b": 0.7, "a": 1.3}):
        outputs(fresh)
    with pytest.raises(ZeroDivisionError), adapters.use({"b": 1.0}):
        raise ZeroDivisionError
    assert torch.equal(outputs(fresh), before)
    with adapters.use({}):
        assert torch.equal(outputs(fresh), before)
    assert relative(with_a, before) > 0.01
    with adapters.use({"a": 1.0}):
        assert torch.equal(outputs(fresh), with_a)
    adapters.remove("a")
    adapters.remove("b")
    assert torch.equal(outputs(fresh), before)
    assert_same_state(fresh.unet, weights)


@pytest.mark.slow
def test_blocks_nest_and_each_puts_back_what_it_found(fresh: Backbone) -> None:
    adapters = with_loras(fresh, a=lora(fresh.unet), b=lora(fresh.unet, seed=2))
    with adapters.use({"a": 0.5}):
        outer = outputs(fresh)
        with adapters.use({}):
            base = outputs(fresh)
        with adapters.use({"a": 2.0, "b": 1.0}):
            outputs(fresh)
        assert torch.equal(outputs(fresh), outer)
    assert torch.equal(outputs(fresh), base)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("weight", [0.4, 1.0, -0.5])
def test_a_lora_is_its_product_added_to_the_weights(fresh: Backbone, weight: float) -> None:
    tensors = lora(fresh.unet)
    with with_loras(fresh, a=tensors).use({"a": weight}):
        ours = outputs(fresh)
    assert relative(ours, merged_outputs(fresh, (tensors, weight))) < 1e-5


@pytest.mark.slow
def test_two_loras_together_are_the_sum_of_their_products(fresh: Backbone) -> None:
    one, other = lora(fresh.unet), lora(fresh.unet, seed=2, rank=3)
    with with_loras(fresh, a=one, b=other).use({"a": 0.7, "b": 0.3}):
        ours = outputs(fresh)
    assert relative(ours, merged_outputs(fresh, (one, 0.7), (other, 0.3))) < 1e-5


@pytest.mark.slow
def test_weight_zero_is_the_base_model(fresh: Backbone) -> None:
    before = outputs(fresh)
    with with_loras(fresh, a=lora(fresh.unet)).use({"a": 0.0}):
        assert torch.equal(outputs(fresh), before)


@pytest.mark.slow
def test_an_unknown_name_is_refused_and_nothing_was_switched(fresh: Backbone) -> None:
    """Point 19: PEFT would silently run the base model."""
    adapters = with_loras(fresh, a=lora(fresh.unet))
    before = outputs(fresh)
    with (
        pytest.raises(UsageError, match="no LoRA named 'ghost' is loaded") as caught,
        adapters.use({"a": 1.0, "ghost": 1.0}),
    ):
        pytest.fail("the block was entered")
    assert caught.value.fix == "loaded: a"
    assert caught.value.exit_status == 2
    assert torch.equal(outputs(fresh), before)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", ["base", "a"])
def test_a_name_that_is_taken_or_reserved_is_refused(fresh: Backbone, name: str) -> None:
    adapters = with_loras(fresh, a=lora(fresh.unet))
    with pytest.raises(UsageError, match=f"'{name}' cannot be added"):
        adapters.add(name, as_file(lora(fresh.unet)))


@pytest.mark.slow
def test_nothing_is_left_trainable(fresh: Backbone) -> None:
    """Point 19."""
    adapters = with_loras(fresh, a=lora(fresh.unet))
    with adapters.use({"a": 1.0}):
        assert not [n for n, p in fresh.unet.named_parameters() if p.requires_grad]
    adapters.add("b", as_file(lora(fresh.unet, seed=2)))
    assert not [n for n, p in fresh.unet.named_parameters() if p.requires_grad]


@pytest.mark.slow
def test_a_lora_for_some_layers_leaves_the_others_alone(fresh: Backbone) -> None:
    only = r"^up_blocks\.3\..*attn1\.to_v$"
    part, whole = lora(fresh.unet, only=only), lora(fresh.unet, seed=2)
    adapters = with_loras(fresh, whole=whole, part=part)
    with adapters.use({"part": 1.0}):
        ours = outputs(fresh)
    assert relative(ours, merged_outputs(fresh, (part, 1.0))) < 1e-5
    with adapters.use({"whole": 1.0}):
        ours = outputs(fresh)
    assert relative(ours, merged_outputs(fresh, (whole, 1.0))) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["foreign", "half", "shape"])
def test_a_lora_that_does_not_fit_whole_is_refused_and_leaves_no_trace(
    fresh: Backbone, broken: str
) -> None:
    tensors = lora(fresh.unet)
    key = next(iter(tensors))
    if broken == "foreign":
        tensors = {name.replace("attentions", "attentionz"): t for name, t in tensors.items()}
    elif broken == "half":
        tensors[key.replace("attentions.0", "attentions.9")] = tensors.pop(key)
    else:
        tensors[key] = tensors[key][:, :-1]
    before = outputs(fresh)
    adapters = with_loras(fresh)
    with pytest.raises(UsageError, match="the LoRA fits"):
        adapters.add("a", as_file(tensors))
    assert torch.equal(outputs(fresh), before)
    with pytest.raises(UsageError), adapters.use({"a": 1.0}):
        pass
    adapters.add("a", as_file(lora(fresh.unet)))
    with adapters.use({"a": 1.0}):
        assert relative(outputs(fresh), before) > 0.01
