"""LoRAs by the row: what PEFT makes of each row in a pass of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stylecli.backbone.adapters import Adapters
from stylecli.backbone.model import Backbone
from stylecli.backbone.row_loras import Factors, Pairs, applied, loaded, pairs
from stylecli.errors import UsageError
from tests.small import assert_same_state, lora, noise, outputs, relative, state, with_loras

# The second has fewer layers, the third less rank.
LOOKS = [{"a": 1.0}, {"part": 1.3}, {"small": 0.5}, {"a": 0.7, "small": 0.3}, {"a": -0.4}]


@pytest.fixture(scope="module")
def model(shared: Backbone) -> tuple[Backbone, Adapters, list[Pairs]]:
    unet = shared.unet
    adapters = with_loras(
        shared,
        a=lora(unet, rank=4),
        part=lora(unet, rank=6, seed=2, only=r"^(up_blocks\.3|down_blocks\.0)\..*to_[qv]$"),
        small=lora(unet, rank=1, seed=3),
    )
    return shared, adapters, [loaded(unet, look) for look in LOOKS]


def predict(backbone: Backbone, rows: int) -> Tensor:
    embeds = backbone.encode_prompt(["a cat in sss style", "a dog", ""] * rows)[:rows]
    with torch.inference_mode():
        return backbone.predict(noise(rows, 4, 8, 8), 500, embeds)


def in_passes(backbone: Backbone, adapters: Adapters, slots: Sequence[int | None]) -> Tensor:
    """Slow and plain: all rows with each LoRA, and of each pass the rows that are its own."""
    found = torch.zeros(len(slots), 4, 8, 8)
    for slot in set(slots):
        with adapters.use({} if slot is None else LOOKS[slot]):
            output = predict(backbone, len(slots))
        for row, own in enumerate(slots):
            if own == slot:
                found[row] = output[row]
    return found


@pytest.mark.slow
@given(slots=st.lists(st.none() | st.integers(0, len(LOOKS) - 1), min_size=1, max_size=7))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_what_a_pass_with_its_lora_makes_of_it(
    model: tuple[Backbone, Adapters, list[Pairs]], slots: list[int | None]
) -> None:
    backbone, adapters, looks = model
    factors = Factors.stacked(looks)
    with applied(backbone.unet, factors, slots):
        ours = predict(backbone, len(slots))
    assert relative(ours, in_passes(backbone, adapters, slots)) < 1e-5


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "slots",
    [
        [4, 3, 2, 1, 0],
        [0, 1, 2, 3, 4],
        [2, 2, 2],
        [0, 0, 3, 3],
        [3, 3, 0],
        [None, None, 1, 4, 4],
        [1, None, 0],
        [None, None],
    ],
)
def test_any_order_of_rows(
    model: tuple[Backbone, Adapters, list[Pairs]], slots: list[int | None]
) -> None:
    backbone, adapters, looks = model
    with applied(backbone.unet, Factors.stacked(looks), slots):
        ours = predict(backbone, len(slots))
    assert relative(ours, in_passes(backbone, adapters, slots)) < 1e-5


def test_rows_in_chunks_are_what_they_are_together(
    model: tuple[Backbone, Adapters, list[Pairs]],
) -> None:
    backbone, _, looks = model
    factors, slots = Factors.stacked(looks), [None, 3, 1, 1, 0]
    latents, embeds = noise(5, 4, 8, 8), backbone.encode_prompt(["a cat"] * 5)
    parts = []
    with torch.inference_mode():
        with applied(backbone.unet, factors, slots):
            whole = backbone.predict(latents, 500, embeds)
        for rows in (slice(0, 2), slice(2, 5)):
            with applied(backbone.unet, factors, slots[rows]):
                parts.append(backbone.predict(latents[rows], 500, embeds[rows]))
    assert relative(torch.cat(parts), whole) < 1e-6


@pytest.mark.slow
def test_one_lora_of_the_trained_kind_is_pefts_to_the_bit(fresh: Backbone) -> None:
    """So that a training by rows begins where one by PEFT does."""
    tensors = lora(fresh.unet)
    factors = Factors.stacked([pairs(tensors)])
    with applied(fresh.unet, factors, [0, 0]):
        ours = outputs(fresh)
    with with_loras(fresh, a=tensors).use({"a": 1.0}):
        assert torch.equal(ours, outputs(fresh))


def test_leaving_restores_the_base_model_to_the_bit(fresh: Backbone) -> None:
    weights, before = state(fresh.unet), outputs(fresh)
    factors = Factors.stacked([pairs(lora(fresh.unet)), pairs(lora(fresh.unet, seed=2))])
    with applied(fresh.unet, factors, [1, 0]):
        assert relative(outputs(fresh), before) > 0.01
    with pytest.raises(ZeroDivisionError), applied(fresh.unet, factors, [0, 1]):
        raise ZeroDivisionError
    with pytest.raises(IndexError), applied(fresh.unet, factors, [0, 2]):
        pytest.fail("the block was entered")
    assert torch.equal(outputs(fresh), before)
    with applied(fresh.unet, factors, [None, None]):
        assert torch.equal(outputs(fresh), before)
    assert_same_state(fresh.unet, weights)
    assert not any(module._forward_hooks for module in fresh.unet.modules())


def test_what_peft_has_in_use_acts_beside_it(
    model: tuple[Backbone, Adapters, list[Pairs]],
) -> None:
    backbone, adapters, looks = model
    with adapters.use({"small": 0.3}), applied(backbone.unet, Factors.stacked(looks), [None, 0]):
        ours = predict(backbone, 2)
    with adapters.use({"small": 0.3}):
        assert relative(ours[:1], predict(backbone, 2)[:1]) < 1e-6
    with adapters.use({"small": 0.3, "a": 1.0}):
        assert relative(ours[1:], predict(backbone, 2)[1:]) < 1e-5


@pytest.mark.mostly_slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_row_reach_its_own_factors_alone(
    fresh: Backbone, checkpointing: bool
) -> None:
    """And are those of a pass by itself: two rows of one LoRA, one of the other, one of none."""
    factors = Factors.stacked([pairs(lora(fresh.unet, seed=seed)) for seed in (1, 2)])
    factors.packed.requires_grad_(True)
    latents = noise(4, 4, 8, 8)
    embeds = fresh.encode_prompt(["a cat", "a dog", "", "red"]).clone()
    if checkpointing:
        fresh.unet.enable_gradient_checkpointing()
        fresh.unet.train()

    def gradient(rows: list[int], slots: list[int | None]) -> Tensor:
        factors.packed.grad = None
        with applied(fresh.unet, factors, slots):
            fresh.predict(latents[rows], 500, embeds[rows]).square().sum().backward()
        found: Tensor | None = factors.packed.grad
        assert found is not None
        return found

    together = gradient([0, 1, 2, 3], [1, None, 0, 1])
    alone = gradient([0], [1]) + gradient([2], [0]) + gradient([3], [1])
    assert relative(together, alone) < 1e-5
    assert not gradient([0, 1], [1, None])[0].any()


class Pair(nn.Module):
    """Two layers, of which a checkpoint has one."""

    def __init__(self, *, reentrant: bool, is_first: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.requires_grad_(False)
        self._reentrant, self._is_first = reentrant, is_first

    def forward(self, x: Tensor) -> Tensor:
        if self._is_first:
            return self.b(checkpoint(self.a, x, use_reentrant=self._reentrant)).relu()
        return checkpoint(self.b, self.a(x).relu(), use_reentrant=self._reentrant)


@pytest.mark.parametrize("is_first", [False, True])
def test_a_reentrant_checkpoint_around_a_learning_lora_is_an_error(is_first: bool) -> None:
    """Computed first without gradients, it would leave factors without them and say nothing."""
    factors = Factors.stacked([{path: (torch.ones(1, 3), torch.ones(3, 1)) for path in "ab"}])
    factors.packed.requires_grad_(True)
    x = torch.ones(1, 3, requires_grad=True)
    model = Pair(reentrant=False, is_first=is_first)
    with applied(model, factors, [0]):
        model(x).sum().backward()
    assert factors.packed.grad is not None
    model = Pair(reentrant=True, is_first=is_first)
    # The layer may be one that sees LoRAs without gradients before, or after, others with them.
    with pytest.raises(RuntimeError, match="must not be reentrant"), applied(model, factors, [0]):
        model(x).sum().backward()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_what_it_is_with_peft(fresh: Backbone, autocast: bool) -> None:
    fresh.unet.to(torch.bfloat16)
    fresh.dtype = torch.bfloat16
    one, other = lora(fresh.unet), lora(fresh.unet, seed=2)
    embeds = fresh.encode_prompt(["a cat", "a dog"]).to(torch.bfloat16)

    def predicted() -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return fresh.predict(noise(2, 4, 8, 8), 500, embeds)

    base = predicted()
    with applied(fresh.unet, Factors.stacked([pairs(one), pairs(other)]), [1, 0]):
        ours = predicted()
    adapters = with_loras(fresh, a=one, b=other)
    for module in fresh.unet.modules():
        if hasattr(module, "lora_A"):
            module.lora_A.float(), module.lora_B.float()
    theirs = []
    for row, name in enumerate("ba"):
        with adapters.use({name: 1.0}):
            theirs.append(predicted()[row])
    assert relative(ours, torch.stack(theirs)) < 0.1 * relative(base, torch.stack(theirs))


@pytest.mark.slow
def test_factors_lie_as_the_contract_says(fresh: Backbone) -> None:
    one, other = lora(fresh.unet, rank=2), lora(fresh.unet, rank=3, seed=2)
    factors = Factors.stacked([pairs(one, scale=0.5), pairs(other)])
    for path in factors.down:
        down, up = factors.down[path], factors.up[path]
        assert down.shape[:2] == (2, 3)
        assert torch.equal(down[0, :2], one[f"{path}.lora_A.weight"])
        assert torch.equal(up[1], other[f"{path}.lora_B.weight"])
        assert torch.equal(up[0, :, :2], one[f"{path}.lora_B.weight"] * 0.5)
        assert not down[0, 2:].any()
        assert not up[0, :, 2:].any()


def convolution(unet: Any) -> dict[str, Tensor]:
    path = "down_blocks.0.resnets.0.conv1"
    conv = unet.get_submodule(path)
    return {
        f"{path}.lora_A.weight": torch.ones(2, conv.in_channels, 3, 3),
        f"{path}.lora_B.weight": torch.ones(conv.out_channels, 2, 1, 1),
    }


@pytest.mark.slow
def test_layers_that_rows_cannot_share_are_named(fresh: Backbone) -> None:
    tensors = convolution(fresh.unet)
    with pytest.raises(UsageError, match=r"resnets\.0\.conv1 is not") as caught:
        pairs(tensors)
    assert caught.value.fix == "--set device.adapters=passes"
    with_loras(fresh, conv=lora(fresh.unet) | tensors, plain=lora(fresh.unet))
    assert loaded(fresh.unet, {"plain": 1.0})
    with pytest.raises(UsageError, match=r"resnets\.0\.conv1 is not"):
        loaded(fresh.unet, {"plain": 1.0, "conv": 1.0})
    half = lora(fresh.unet)
    half.pop(next(iter(half)))
    with pytest.raises(UsageError, match="is not one of a linear layer"):
        pairs(half)


def test_only_of_a_unet_passes_are_advised() -> None:
    """No transformer is drawn with in passes."""
    factors = Factors.stacked([{"layers.0.to_q": (torch.ones(1, 3), torch.ones(3, 1))}])
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(4, 3)})])})
    entering = applied(model, factors, [0])
    with pytest.raises(UsageError, match=r"layers\.0\.to_q .* of this model") as caught, entering:
        pytest.fail("the block was entered")
    with pytest.raises(UsageError) as named:
        pairs({"layers.0.to_q.lora_A.weight": torch.ones(1, 3)})
    assert "passes" not in caught.value.fix + named.value.fix


@pytest.mark.slow
def test_factors_of_another_model_are_refused(fresh: Backbone) -> None:
    tensors = lora(fresh.unet)
    wrong = {key.replace("attentions.0", "attentions.9"): value for key, value in tensors.items()}
    wide = {
        key: torch.cat([value, value], dim=1 if "lora_A" in key else 0)
        for key, value in tensors.items()
    }
    for foreign in (wrong, wide):
        factors = Factors.stacked([pairs(foreign)])
        entering = applied(fresh.unet, factors, [0])
        with pytest.raises(UsageError, match="linear layer") as advised, entering:
            pytest.fail("the block was entered")
        assert advised.value.fix == "--set device.adapters=passes"
    assert not any(module._forward_hooks for module in fresh.unet.modules())
    with pytest.raises(UsageError, match="linear layer"):
        Factors.stacked([pairs(tensors), pairs(wide)])
