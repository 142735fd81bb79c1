"""Weights that wait elsewhere: there whenever they are at work, and away otherwise.

No machine of ours has a second device, so "main memory" here holds every number with its sign
turned: whatever computes with a weight that was not brought along computes something else.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone import offload, tuning
from stylecli.backbone.adapters import Adapters
from stylecli.backbone.attention import UnetExchange
from stylecli.backbone.layers import decoder_layers
from stylecli.backbone.model import Backbone
from stylecli.recipe.schema import Device
from tests import tiny
from tests.small import as_file, folder, lora, noise, outputs, state, with_loras


class Away:
    """Counts what is moved where, and turns signs on the way."""

    def __init__(self) -> None:
        self.copied: list[str] = []
        self.turns = True

    def __call__(self, data: Tensor, device: torch.device) -> Tensor:
        self.copied.append("here" if device.type == "cuda" else "away")
        # Not -data, which forgets how convolutions of one pixel are laid out.
        return data.clone().neg_() if self.turns and data.is_floating_point() else data.clone()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    found = Away()
    monkeypatch.setattr(offload, "moved", found)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda data: data)
    return found


def waiting(backbone: Backbone, kind: str) -> None:
    """As on a GPU; the verbs still compute here."""
    backbone.device = torch.device("cuda")
    tuning.tune(backbone, Device(offload=kind))
    backbone.device = torch.device("cpu")


def is_away(module: Any, before: dict[str, Tensor]) -> set[bool]:
    """Whether its tensors have their signs turned."""
    now = state(module)
    return {
        torch.equal(now[name], -value)
        for name, value in before.items()
        if value.is_floating_point() and value.any()
    }


@pytest.mark.mostly_slow
@pytest.mark.parametrize("kind", ["parts", "blocks"])
def test_every_verb_gives_the_same_bits(away: Away, kind: str) -> None:
    plain, other = tiny.backbone(folder()), tiny.backbone(folder())
    waiting(other, kind)
    pictures, latents = noise(2, 3, 32, 24).sigmoid(), noise(2, 4, 16, 12)
    for _ in range(2):
        assert torch.equal(outputs(plain), outputs(other))
        assert torch.equal(plain.decode(latents), other.decode(latents))
        for ours, theirs in zip(plain.posterior(pictures), other.posterior(pictures), strict=True):
            assert torch.equal(ours, theirs)
    assert away.copied


@pytest.mark.slow
def test_one_part_is_there_at_a_time_and_stays_until_another_is_asked_for(away: Away) -> None:
    backbone = tiny.backbone(folder())
    parts = (backbone.text_encoder, backbone.vae, backbone.unet)
    before = [state(part) for part in parts]
    waiting(backbone, "parts")
    copied_back = away.copied.count("away")

    def here() -> list[int]:
        found = [is_away(part, was) for part, was in zip(parts, before, strict=True)]
        assert all(len(one) == 1 for one in found)
        return [number for number, one in enumerate(found) if one == {False}]

    assert here() == []
    prompt = backbone.encode_prompt(["a cat"])
    assert here() == [0]
    backbone.predict(noise(1, 4, 8, 8), 5, prompt)
    copies = len(away.copied)
    with torch.inference_mode():
        backbone.predict(noise(1, 4, 8, 8), 5, prompt)
    assert len(away.copied) == copies
    backbone.decode(noise(1, 4, 8, 8))
    assert here() == [1]
    # Frozen weights lie in main memory already: nothing is copied back.
    assert away.copied.count("away") == copied_back


@pytest.mark.slow
def test_only_the_block_at_work_is_there(away: Away) -> None:
    backbone = tiny.backbone(folder())
    unet = backbone.unet
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    before = [state(block) for block in blocks]
    waiting(backbone, "blocks")
    seen: list[list[int]] = []

    def look(*_: object) -> None:
        pairs = zip(blocks, before, strict=True)
        seen.append([n for n, (block, was) in enumerate(pairs) if is_away(block, was) == {False}])

    handles = [block.register_forward_hook(look) for block in blocks]
    # Ours come after those that move.
    for block in blocks:
        block._forward_hooks.move_to_end(next(iter(block._forward_hooks)))
    outputs(backbone)
    for handle in handles:
        handle.remove()
    assert seen == [[n] for n in range(len(blocks))]
    assert [is_away(block, was) for block, was in zip(blocks, before, strict=True)] == [
        {True} for _ in blocks
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parts", "blocks"])
@pytest.mark.parametrize("fused", [False, True])
def test_loras_that_are_added_later_and_passes_that_end_early_go_along(
    away: Away, kind: str, fused: bool
) -> None:
    def run(backbone: Backbone) -> list[Tensor]:
        adapters = Adapters(backbone.unet, fused=fused)
        adapters.add("a", as_file(lora(backbone.unet)))
        layers = decoder_layers(backbone.unet)
        exchange = UnetExchange(
            features=[layers[4]],
            attention=[name for layer in layers[4:8] for name in layer.self_attention],
        )
        prompt = backbone.encode_prompt(["a cat"])
        found = []
        with exchange.installed(backbone.unet):
            for step in range(3):
                with (
                    torch.inference_mode(),
                    adapters.use({}),
                    exchange.taking(features=True, attention=True, stop=True),
                ):
                    backbone.predict(noise(1, 4, 8, 8, seed=step), 100, prompt)
                with (
                    torch.inference_mode(),
                    adapters.use({"a": 1.0}),
                    exchange.giving(features=True, kappa=0.5),
                ):
                    found.append(backbone.predict(noise(1, 4, 8, 8, seed=9), 100, prompt))
                if step == 1:
                    # Something else comes between, and with it everything has to move.
                    found.append(backbone.decode(found[-1]))
                    adapters.add("b", as_file(lora(backbone.unet, seed=2)))
        with adapters.use({"b": 1.0}):
            found.append(outputs(backbone))
        return found

    # Copies of weights are also merged where they wait, for which signs matter.
    away.turns = not (fused and kind == "blocks")
    plain, other = tiny.backbone(folder()), tiny.backbone(folder())
    waiting(other, kind)
    for ours, theirs in zip(run(plain), run(other), strict=True):
        assert torch.equal(ours, theirs)
    if kind == "blocks" and away.turns:
        before = state(plain.unet.up_blocks[1])
        assert is_away(other.unet.up_blocks[1], before) == {True}


@pytest.mark.slow
def test_what_a_backward_pass_wants_stays_until_it_is_over(away: Away) -> None:
    def gradient(backbone: Backbone) -> Tensor:
        latents = noise(1, 4, 8, 8).requires_grad_()
        prompt = backbone.encode_prompt(["a cat"]).clone()
        backbone.predict(latents, 100, prompt).square().sum().backward()
        assert latents.grad is not None
        return latents.grad

    plain, other = tiny.backbone(folder()), tiny.backbone(folder())
    waiting(other, "blocks")
    assert torch.equal(gradient(plain), gradient(other))


@pytest.mark.slow
def test_what_was_trained_on_the_device_is_not_lost(away: Away) -> None:
    backbone = tiny.backbone(folder())
    waiting(backbone, "blocks")
    with_loras(backbone, a=lora(backbone.unet))
    trained = [p for n, p in backbone.unet.named_parameters() if ".lora_B." in n]
    prompt = backbone.encode_prompt(["a cat"]).clone()
    for parameter in trained:
        parameter.requires_grad_(True)
    backbone.predict(noise(1, 4, 8, 8), 100, prompt)
    with torch.no_grad():
        for parameter in trained:
            parameter.fill_(0.25)
    outputs(backbone)
    assert {float(value) for p in trained for value in p.detach().flatten()} == {-0.25}


@pytest.mark.slow
def test_a_device_that_is_full_half_way_leaves_everything_as_it_was(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, backbone = tiny.backbone(folder()), tiny.backbone(folder())
    waiting(backbone, "parts")
    room = [5]

    def full(data: Tensor, device: torch.device) -> Tensor:
        room[0] -= 1
        if room[0] < 0:
            raise torch.OutOfMemoryError
        return away(data, device)

    with monkeypatch.context() as patch:
        patch.setattr(offload, "moved", full)
        with pytest.raises(torch.OutOfMemoryError):
            backbone.decode(noise(1, 4, 8, 8))
    assert torch.equal(plain.decode(noise(1, 4, 8, 8)), backbone.decode(noise(1, 4, 8, 8)))


@pytest.mark.slow
def test_on_a_cpu_there_is_nothing_to_spare(fresh: Backbone) -> None:
    tuning.tune(fresh, Device(offload="blocks"))
    assert fresh.offload is None
    assert not fresh.unet.down_blocks[0]._forward_pre_hooks


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["parts", "blocks"])
def test_a_gpu_holds_less_and_computes_the_same(kind: str) -> None:
    from stylecli.backbone.loading import fingerprint, load

    def held(offload: str) -> tuple[int, Tensor]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        backbone = load(
            "tiny",
            folder(),
            fingerprint=fingerprint(folder()),
            device=torch.device("cuda"),
            is_resident=offload == "none",
        )
        tuning.tune(backbone, Device(offload=offload))
        found = outputs(backbone).cpu()
        return torch.cuda.memory_allocated() - before, found

    most, wanted = held("none")
    least, found = held(kind)
    assert torch.equal(found, wanted)
    assert least < most
