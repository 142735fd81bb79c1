"""What the walk sees, against graphs counted by hand, a slow simulation, and the real allocator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stylecli.backbone.model import Backbone
from stylecli.engine.planner.clock import flops
from stylecli.engine.planner.walk import walked
from tests import small

FLOAT = 4


def meta(*sides: int) -> Tensor:
    return torch.empty(*sides, device="meta")


def test_views_share_a_storage_and_tensors_that_are_gone_leave() -> None:
    x = meta(10)
    with walked() as seen:
        first = x + 1
        view = first[2:4].view(1, 2)
        del first
        second = x * 2
        del view
        third = x - 1
    assert seen.timeline == [40, 80, 80]
    assert seen.peak == 80
    assert second.shape == third.shape


def test_operations_in_place_make_nothing_and_what_was_there_before_is_not_counted() -> None:
    x, weight = meta(10), meta(10, 10)
    with walked() as seen:
        x.add_(1)
        weight.t().view(10, 10)
        torch.mul(x, 2, out=x)
    assert seen.peak == 0
    assert {call.name for call in seen.calls} == {"add_", "mul"}


def test_operations_of_one_shape_are_one_call() -> None:
    layer = nn.Linear(4, 3, device="meta")
    with walked() as seen, torch.no_grad():
        for _ in range(3):
            layer(meta(2, 4))
        layer(meta(5, 4))
    products = {c.tensors()[1].size: n for c, n in seen.calls.items() if c.name == "addmm"}
    assert products == {(2, 4): 3, (5, 4): 1}
    assert seen.modules == 4


@pytest.mark.parametrize("inference", [False, True])
def test_attention_forms_no_matrix(inference: bool) -> None:
    query = meta(2, 3, 1000, 8)
    with walked() as seen, torch.inference_mode(inference):
        output = F.scaled_dot_product_attention(query, query, query)
    assert output.shape == query.shape
    assert seen.peak == query.numel() * FLOAT
    assert [(c.name, n) for c, n in seen.calls.items() if c.name == "attention"] == [
        ("attention", 1)
    ]


def test_attention_is_itself_again_afterwards() -> None:
    before = F.scaled_dot_product_attention
    with pytest.raises(ValueError, match="left early"), walked():
        raise ValueError("left early")
    assert F.scaled_dot_product_attention is before


def test_what_the_way_back_needs_stays_until_then() -> None:
    x = meta(10).requires_grad_()
    with walked() as seen:
        y = x
        for _ in range(5):
            y = y.sin()
        forward = list(seen.timeline)
        torch.autograd.backward(y.sum())
    assert forward == [40, 80, 120, 160, 200]  # sine keeps its input
    del y
    ended = [number for number, size in seen.events if not size]
    began = [number for number, size in seen.events if size]
    assert set(began) - set(ended) == {began[-1]}, "the gradient of x alone"


def test_checkpointing_keeps_less_and_computes_more() -> None:
    from torch.utils.checkpoint import checkpoint

    def train(checkpointing: bool) -> Any:
        block = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(6)])
        block.to("meta")
        with walked() as seen:
            x = meta(32, 8)
            for one in (block[:3], block[3:]):
                x = checkpoint(one, x, use_reentrant=False) if checkpointing else one(x)
            torch.autograd.backward(x.sum())
        return seen

    plain, saving = train(False), train(True)
    assert saving.peak < plain.peak
    count = {"plain": plain, "saving": saving}
    runs = {k: sum(n for c, n in v.calls.items() if c.name == "silu") for k, v in count.items()}
    assert runs["saving"] > runs["plain"] == 6


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["make", "view", "write", "drop"]), st.integers(0, 4), st.integers(0, 4)
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_live_bytes_are_those_of_a_slow_simulation(steps: list[Step]) -> None:
    names: dict[int, Tensor] = {}
    # The same without tensors: name -> storage, storage -> bytes.
    held: dict[int, int] = {}
    sizes: dict[int, int] = {}
    wanted = []

    def alive() -> int:
        return sum(sizes[storage] for storage in set(held.values()))

    with walked() as seen:
        for what, one, other in steps:
            if what == "make":
                before = alive()
                sizes[len(sizes)] = (one + 1) * 3 * FLOAT
                wanted.append(before + sizes[len(sizes) - 1])
                names[one] = meta(one + 1, 3)
                held[one] = len(sizes) - 1
            elif what == "view" and other in names:
                names[one] = names[other].t()
                held[one] = held[other]
            elif what == "write" and one in names:
                names[one].add_(1)
                wanted.append(alive())
            elif what == "drop" and one in names:
                del names[one], held[one]
    assert seen.timeline == wanted


@pytest.mark.slow
def test_arithmetic_is_counted_as_torch_counts_it(shared: Backbone) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    unet = small_meta(shared)
    inputs = meta(2, 4, 16, 16), torch.ones(2, device="meta"), meta(2, 5, 32)
    with walked() as seen, torch.no_grad():
        unet(*inputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(*inputs)
    assert sum(flops(call) * n for call, n in seen.calls.items()) == counter.get_total_flops()


def test_its_peak_is_the_real_allocators(shared: Backbone) -> None:
    from torch.profiler import ProfilerActivity, profile

    unet = small_meta(shared)
    with walked() as seen, torch.inference_mode():
        unet(meta(2, 4, 32, 32), torch.ones(1, device="meta"), meta(2, 5, 32))
    real = small.base_unet()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        inputs = torch.ones(2, 4, 32, 32), torch.ones(1), torch.ones(2, 5, 32)
        given = sum(one.nbytes for one in inputs)
        with torch.inference_mode():
            real(*inputs)
    live = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert seen.peak == pytest.approx(peak - given, rel=0.03)


def small_meta(backbone: Backbone) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(backbone.unet.config).eval()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_types_are_those_of_autocast(kind: str) -> None:
    block = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 8))
    block.to("meta", torch.bfloat16)

    def types(device: str) -> list[torch.dtype]:
        found, x = [], torch.ones(4, 8, device=device, dtype=torch.bfloat16)
        for layer in block:
            x = layer(x)
            found.append(x.dtype)
        return found

    with walked(torch.bfloat16, kind) as seen:
        walk = types("meta")
    products = {spec.dtype for c in seen.calls if c.name == "addmm" for spec in c.tensors()}
    assert products == {torch.bfloat16}
    if kind == "cuda":  # whose lists raise norms, and what follows is as it comes
        assert walk == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
        return
    block.to_empty(device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert types("cpu") == walk
