"""Costs of a tiny model's work: what they are made of, and how settings move them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from stylecli.engine.planner import memory
from stylecli.engine.planner.clock import Clock
from stylecli.engine.planner.costs import Cost, Planner
from stylecli.engine.planner.memory import LARGE, Alive, alive, kept, with_holes
from stylecli.engine.planner.passes import Handed, Pass, Passes
from stylecli.engine.planner.walk import Walked
from stylecli.engine.planner.work import Work, handed
from stylecli.recipe.schema import Device, Injection, Lora, Recipe
from tests import small

RECIPE = Recipe.model_validate(
    {
        "sampling": {"size": 64, "steps": 6, "guidance": 3},
        "inversion": {"steps": 6},
        "injection": {"feature_steps": 4, "attn_steps": 3},
        "lora": {"resolution": 64, "crop": "random", "crop_px": 32, "rank": 4},
    }
)
WORK = Work(
    rows={"inversion": 6, "source, at most": 6, "stylised": 12},
    items=4,
    contents=4,
    loras=0,
    looks=1,
    height=64,
    width=64,
    train_px=(32, 32),
    picture_px=64 * 64,
)
CPU = torch.device("cpu")


@cache
def passes() -> Passes:
    return Passes(small.folder(), torch.float32, RECIPE.injection, RECIPE.lora)


def planner(work: Work = WORK, recipe: Recipe = RECIPE, device: str = "cpu") -> Planner:
    clock = Clock(torch.device(device))
    clock.layer_seconds = 1e-5
    return Planner(passes(), recipe, work, clock, libraries=10**9)


def cost(
    work: Work = WORK, device: str = "cpu", *, checkpointing: bool = False, **settings: Any
) -> Cost:
    return planner(work, device=device).cost(Device(**settings), checkpointing=checkpointing)


def part(cost: Cost, name: str) -> Any:
    (found,) = [one for one in cost.parts if one.name == name]
    return found


@pytest.mark.slow
@pytest.mark.slow
def test_parts_add_up_and_count_the_rows() -> None:
    found = cost()
    assert found.seconds == pytest.approx(sum(one.seconds for one in found.parts))
    assert found.memory_bytes >= max(one.memory_bytes for one in found.parts)
    # κ is 1 at the last of six steps, and features end before it: it takes nothing.
    assert part(found, "source").rows == 4 * 5
    assert part(found, "stylised").rows == 4 * 12
    assert part(found, "inversion").rows == 4 * 6
    assert part(found, "encode").rows == part(found, "decode").rows == 4


@pytest.mark.slow
@pytest.mark.slow
def test_batches_are_filled_up() -> None:
    assert part(cost(batch=3), "stylised").rows == 6 * 12


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_settings_for_less_memory_take_less(device: str) -> None:
    full = cost(WORK, device, batch=4)
    assert cost(WORK, device, batch=1).memory_bytes < full.memory_bytes
    assert cost(WORK, device, batch=4, max_rows=1).memory_bytes < full.memory_bytes
    tiled, whole = cost(WORK, device, batch=1, tiling=True), cost(WORK, device, batch=1)
    assert part(tiled, "decode").memory_bytes < part(whole, "decode").memory_bytes
    assert part(tiled, "decode").seconds > part(whole, "decode").seconds


@pytest.mark.slow
def test_offload_leaves_on_a_gpu_what_is_at_work() -> None:
    parts = [cost(device="cuda", offload=kind) for kind in ("none", "parts", "blocks")]
    peaks = [one.memory_bytes for one in parts]
    assert peaks[0] > peaks[1] > peaks[2] or peaks[0] > peaks[1] == peaks[2]
    assert parts[0].seconds < parts[1].seconds < parts[2].seconds
    assert cost(offload="blocks").memory_bytes == cost().memory_bytes


@pytest.mark.slow
def test_checkpointing_saves_memory_and_costs_time() -> None:
    work = replace(WORK, rows={"training": 10}, loras=2, items=2, contents=2)
    plain, saving = cost(work), cost(work, checkpointing=True)
    assert part(saving, "training").memory_bytes < part(plain, "training").memory_bytes
    assert part(saving, "training").seconds > part(plain, "training").seconds
    assert part(plain, "training").rows == 2 * (10 + 32)


@pytest.mark.slow
def test_references_of_a_gallery_pass_once_for_a_batch() -> None:
    rows = {"inversion": 30, "content": 5, "references": 20, "updated": 10, "gradients": 10}
    work = replace(WORK, rows=rows, looks=0)
    alone, together = cost(work, batch=1), cost(work, batch=4)
    assert part(alone, "references").rows == 4 * part(together, "references").rows == 80
    # Forwards and back is one walk, and nothing of it is guided.
    assert [one.name for one in alone.parts if one.name == "updated"] == []
    assert part(alone, "gradients").rows == part(together, "gradients").rows == 40
    saving = cost(work, batch=4, checkpointing=True)
    assert part(saving, "gradients").memory_bytes < part(together, "gradients").memory_bytes
    assert part(saving, "gradients").seconds > part(together, "gradients").seconds
    recipe = RECIPE.model_copy(update={"lora": Lora(gradient_checkpointing=True)})
    assert work.is_gallery
    assert not work.is_saving(recipe)
    assert WORK.is_saving(recipe)


def test_a_style_is_learned_once_for_all_contents() -> None:
    rows = {"training": 10, **WORK.rows}
    few, many = (cost(replace(WORK, rows=rows, loras=1, items=n, contents=n)) for n in (1, 40))
    assert part(few, "training").rows == part(many, "training").rows


def test_looks_of_one_content_share_its_rows() -> None:
    alone = cost(replace(WORK, items=4, contents=4))
    shared = cost(replace(WORK, items=4, contents=1))
    assert part(shared, "inversion").rows * 4 == part(alone, "inversion").rows
    assert part(shared, "source").rows * 4 == part(alone, "source").rows
    assert part(shared, "stylised").rows == part(alone, "stylised").rows


def test_source_rows_stop_early_and_injected_rows_skip_what_they_are_given() -> None:
    def flops(one: Pass) -> float:
        from stylecli.engine.planner.clock import flops as of

        return sum(of(call) * n for call, n in one.walk.calls.items()) / one.rows

    own = passes().styled(64, 64)
    whole, half = Handed(True, 0.0), Handed(True, 0.5)
    assert flops(passes().source(whole, 64, 64)) < flops(passes().plain(64, 64))
    assert flops(passes().target(whole, 64, 64, 1)) < flops(own)
    assert flops(passes().target(whole, 64, 64, 1)) < flops(passes().target(half, 64, 64, 1))
    assert flops(passes().target(Handed(False, 0.5), 64, 64, 1)) > flops(own)


def test_steps_are_told_apart_by_what_they_hand_over() -> None:
    counts = handed(RECIPE)
    assert counts == {Handed(True, 0.0): 3, Handed(True, 0.5): 1, Handed(False, 0.5): 1}
    alone = RECIPE.model_copy(
        update={"injection": Injection(feature_layers="none", attn_layers="none")}
    )
    assert not handed(alone)


def test_weights_are_those_of_the_loaded_model() -> None:
    from stylecli.backbone.loading import load

    real = load("tiny", small.folder(), fingerprint="", device=CPU)
    assert passes().weights == {
        "unet": sum(p.nbytes for p in real.unet.parameters()),
        "vae": sum(p.nbytes for p in real.vae.parameters()),
        "text": sum(p.nbytes for p in real.text_encoder.parameters()),
    }


def walk(*events: tuple[int, int]) -> Pass:
    return Pass(Walked(events=list(events)), 1)


def test_small_blocks_and_large_ones_have_peaks_of_their_own() -> None:
    big = LARGE
    one = walk((1, 10), (2, big), (1, 0), (3, 30), (2, 0), (4, 5))
    assert alive(one, 1) == Alive(small=35, large=big, both=big + 30)
    # Of twice the rows every block is twice as large, and may be a large one.
    half = walk((1, big // 2), (2, 1))
    assert alive(half, 1) == Alive(small=big // 2 + 1, large=0, both=big // 2 + 1)
    assert alive(half, 2) == Alive(small=2, large=big, both=big + 2)
    assert kept([1, big, 2]) == Alive(3, big, big + 3)


def test_holes_are_of_the_heap_alone() -> None:
    assert with_holes(Alive(100, 1000, 1100), 2) == Alive(200, 1000, 1100)


def test_phases_share_a_heap_except_with_those_that_come_after() -> None:
    empty = memory.of_process(0, 0, [])
    before, after = [Alive(100, 0, 0), Alive(10, 1000, 0)], [Alive(50, 30, 0), Alive(20, 0, 0)]
    assert memory.of_process(7, 5, before, after) == empty + 12 + 100 + 50 + 1000


@pytest.mark.slow
def test_a_clock_without_a_budget_scales_and_one_with_times() -> None:
    calls = passes().plain(64, 64).walk.calls
    idle = Clock(CPU, budget=0)
    idle.time(calls)
    assert not idle.timed
    assert idle.seconds(calls) > 0
    clock = Clock(CPU, budget=1)
    clock.time(calls)
    assert clock.timed
    assert clock.timed.keys() <= calls.keys()
    # Twice the rows, of which nothing was timed, take about twice as long.
    large = passes().plain(128, 128).walk.calls
    assert clock.seconds(large) > 2 * clock.seconds(calls)


def test_as_many_loras_stay_loaded_as_a_wardrobe_holds() -> None:
    from stylecli.engine import wardrobe
    from stylecli.engine.planner import costs

    assert costs.LOADED == wardrobe.MAX_LOADED
    peaks = [cost(replace(WORK, looks=n)).memory_bytes for n in (1, 8, 800)]
    assert peaks[0] < peaks[1] == peaks[2]


@pytest.mark.slow
def test_a_gpu_that_a_few_rows_do_not_fill_is_quicker_with_more(monkeypatch: Any) -> None:
    def seconds(self: Clock, calls: Any) -> float:
        rows = [c.tensors()[0].size[0] for c in calls if c.name == "convolution"]
        return 0.75 + 0.25 * rows[0] if rows else 0.0

    monkeypatch.setattr(Clock, "seconds", seconds)
    work = replace(WORK, items=16, contents=16)
    few, many = (cost(work, "cuda", batch=n) for n in (1, 8))
    # A row alone takes 1 s, of eight each takes 0.75 / 8 + 0.25.
    ratio = part(many, "inversion").seconds / part(few, "inversion").seconds
    assert ratio == pytest.approx(0.75 / 8 + 0.25)
    assert part(cost(work, batch=8), "inversion").seconds >= 16 * 6


@pytest.mark.slow
def test_lora_numbers_are_those_of_the_file() -> None:
    from stylecli.engine.training import factors

    shapes = factors.layout(small.base_unet(), Lora(rank=4))
    wanted = sum(s.rank * (s.width_in + s.width_out) for s in shapes)
    assert passes().lora_numbers == wanted
