"""The instruments of `style bench`, on things whose cost is known."""

from __future__ import annotations

import dataclasses
import json
import mmap
import platform
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stylecli.backbone.hollow import backbone as hollow_backbone
from stylecli.engine.bench import cases, counting, memory, reference, scene, sides, training
from stylecli.engine.bench.report import (
    Ceiling,
    Count,
    Figure,
    Machine,
    Ratio,
    Report,
    Row,
    Side,
)
from stylecli.engine.bench.timing import Spread, Watch, in_turns
from stylecli.engine.bench.workplace import Bench, quotients
from stylecli.engine.session import Session
from stylecli.errors import StyleError, UsageError
from stylecli.recipe.schema import Backbone, Device, Injection, Lora, Recipe, Sampling
from tests import tiny
from tests.conftest import ROOT, Style
from tests.small import folder, relative

pytestmark = pytest.mark.slow

CPU, META = torch.device("cpu"), torch.device("meta")
PIXELS = (16, 16)


class Quiet:
    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Any]:
        yield self

    def advance(self, n: int = 1) -> None: ...


def recipe(**sampling: Any) -> Recipe:
    settings = {"size": 16, "steps": 6, "guidance": 3.0, "prompt": "a cat", "negative": "the dog"}
    return Recipe(
        backbone=Backbone(id=str(folder())),
        device=Device(name="cpu"),
        sampling=Sampling(**{**settings, **sampling}),
        injection=Injection(feature_steps=4, attn_steps=3),
        lora=Lora(resolution=32, crop="random", crop_px=32, rank=4),
    )


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Session.open(recipe(), Quiet()), "tiny", effort="quick", size=PIXELS)


@pytest.fixture
def small() -> scene.Scene:
    return scene.real(tiny.backbone(folder()), recipe(), PIXELS)


# Counting


def test_rows_are_those_of_the_cost_model(bench: Bench) -> None:
    """The three settings of section 9, at 50 steps."""
    bench.amount = dataclasses.replace(bench.amount, counted=())
    found = {
        row.name: (row.rows, row.expected) for row in cases.rows(bench) if isinstance(row, Count)
    }
    assert found == {
        "1 style, adaptive": (199, 199),
        "1 style, hard 30/25": (180, 180),
        "1 style, guidance 1": (149, 149),
    }


def test_several_styles_and_regions_share_one_inversion_and_one_source(small: scene.Scene) -> None:
    """6 steps, the source in 5 of them: 11 + 12 rows a style, and half as many at guidance 1."""

    def rows(run: Callable[[], object]) -> int:
        with counting.passes(small.backbone.unet) as found:
            run()
        return counting.rows(found)

    watch = Watch(CPU)
    for number in (1, 2, 3):
        assert rows(lambda number=number: sides.ours(small, watch, number)) == 11 + 12 * number
        assert rows(lambda number=number: sides.regional(small, watch, number)) == 11 + 12 * number
    assert rows(lambda: sides.ours(small, watch, 3, in_rows=True)) == 11 + 12 * 3
    small.recipe = recipe(guidance=1.0)
    assert rows(lambda: sides.regional(small, watch, 3)) == 11 + 6 * 3


def test_every_pass_counts_with_its_rows_and_no_longer_than_the_block() -> None:
    layer = nn.Linear(2, 2)
    with counting.passes(layer) as found:
        layer(torch.zeros(3, 2))
        layer(torch.zeros(3, 2))
        layer(torch.zeros(1, 2))
    layer(torch.zeros(5, 2))
    assert found == {3: 2, 1: 1}
    assert counting.rows(found) == 7


@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_operations_of_layers_that_can_be_counted_by_hand(device: torch.device) -> None:
    rows = torch.zeros(3, 8, device=device)
    picture = torch.zeros(2, 3, 10, 12, device=device)
    heads = torch.zeros(2, 4, 50, 16, device=device)
    with device:
        linear, conv = nn.Linear(8, 5), nn.Conv2d(3, 7, 3, padding=1)
    assert counting.flops(lambda: linear(rows)) == 2 * 3 * 8 * 5
    assert counting.flops(lambda: conv(picture)) == 2 * 2 * 9 * 3 * 7 * 10 * 12
    with torch.inference_mode():
        attended = counting.flops(lambda: F.scaled_dot_product_attention(heads, heads, heads))
    assert attended == 2 * (2 * 2 * 4 * 50 * 50 * 16)
    assert counting.flops(lambda: torch.zeros(3, device=device) + 1) == 0


def test_the_meta_device_counts_what_really_runs(
    small: scene.Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early exit and skipped convolutions included; prompts are embedded before."""
    small.recipe = scene.shortened(small.recipe, 2)
    embeds = small.backbone.encode_prompt([""])
    monkeypatch.setattr(
        small.backbone, "encode_prompt", lambda prompts: embeds.expand(len(prompts), -1, -1)
    )
    made = hollow_backbone("unet", folder(), dtype=torch.float32, size_px=16)
    hollow = scene.hollow(made, small.recipe, (8, 8))
    real, meta = Watch(CPU), Watch(META)
    ours = counting.flops(lambda: sides.ours(hollow, meta))
    assert ours == counting.flops(lambda: sides.ours(small, real))
    on_paper, written_out = sides.Plain(hollow), sides.Plain(small)
    plain = counting.flops(lambda: on_paper(meta))
    assert plain == counting.flops(lambda: written_out(real))
    assert ours < plain


# Sides


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ours_and_the_plain_reference_make_the_same(dtype: torch.dtype) -> None:
    both = scene.real(tiny.backbone(folder(), dtype), recipe(), PIXELS)
    (ours,) = sides.ours(both, Watch(CPU))
    plain = sides.Plain(both)(Watch(CPU))
    assert torch.isfinite(ours).all()
    assert relative(ours, plain) < (1e-4 if dtype == torch.float32 else 0.1)


def test_the_random_lora_is_no_decoration(small: scene.Scene) -> None:
    (styled,) = sides.ours(small, Watch(CPU))
    small.recipe = recipe(weight=0.0)
    assert relative(sides.ours(small, Watch(CPU))[0], styled) > 1e-3


def test_the_authors_procedure_is_scaled_to_all_of_its_steps(small: scene.Scene) -> None:
    authors = sides.Authors(small, measured=3)
    watch = Watch(CPU)
    with counting.passes(*authors.unets) as found:
        authors(watch)
    assert found == {1: 2 * 3, 3: 2 * 6}
    seconds = {"invert": 1.0, "reconstruct": 2.0, "sample": 4.0}
    assert authors.scaled(seconds, steps=12) == pytest.approx(999 / 3 * 3.0 + 2 * 4.0)


def test_a_size_that_the_model_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError, match="--size 20x16") as caught:
        scene.real(tiny.backbone(folder()), recipe(), (20, 16))
    assert "multiples of 16" in caught.value.fix


STEPS = st.integers(1, 60)


@given(own=STEPS, steps=STEPS, feature=st.integers(0, 60), attn=st.integers(0, 60))
def test_fewer_steps_are_the_same_method(own: int, steps: int, feature: int, attn: int) -> None:
    injection = Injection(feature_steps=min(feature, own), attn_steps=min(attn, own))
    whole = Recipe(sampling=Sampling(steps=own), injection=injection)
    short = scene.shortened(whole, steps)
    assert short.sampling.steps == min(own, steps)
    for key in ("feature_steps", "attn_steps"):
        before, after = getattr(whole.injection, key), getattr(short.injection, key)
        assert 0 <= after <= short.sampling.steps
        if before in (0, own):
            assert after == before * short.sampling.steps // own
        elif steps >= 3:  # room for a beginning and a tail of two
            assert after >= 1
            assert short.sampling.steps - after >= min(2, own - before)


# Time and memory


def test_sides_take_turns_and_each_round_begins_with_another() -> None:
    order: list[str] = []
    work = {name: lambda _, name=name: order.append(name) for name in "abc"}
    shown = in_turns(work, CPU, rounds=2)
    assert "".join(order) == "abcbca"
    assert {name: len(watches) for name, watches in shown.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_watch_adds_up_the_parts_it_is_told_of() -> None:
    watch = Watch(CPU)
    for name in ("a", "b", "a"):
        with watch.part(name):
            sum(range(100_000))
    assert watch.seconds.keys() == {"a", "b"}
    assert watch.seconds["a"] > watch.seconds["b"] > 0
    assert watch.total == pytest.approx(sum(watch.seconds.values()))
    assert watch.cpu_total > 0


def test_quotients_are_taken_round_by_round() -> None:
    found = quotients([2.0, 30.0, 8.0], [1.0, 10.0, 2.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


MEBIBYTE = 2**20


def take(seconds: float = 0.0) -> None:
    """64 MiB straight from the system: what a process has freed before is no part of them."""
    with mmap.mmap(-1, 64 * MEBIBYTE) as block:
        for at in range(0, len(block), mmap.PAGESIZE):
            block[at] = 1
        time.sleep(seconds)


def test_peak_memory_is_what_was_taken_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            take()

    found = memory.above(work, CPU)
    assert found is not None
    assert 60 * MEBIBYTE < found < 90 * MEBIBYTE


def test_a_system_that_keeps_no_mark_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "no" / "such" / "file")

    found = memory.above(lambda: take(20 * memory.SAMPLE_SECONDS), CPU)
    assert found is not None
    assert 60 * MEBIBYTE < found < 90 * MEBIBYTE


def test_memory_that_runs_out_is_no_figure() -> None:
    def greedy() -> None:
        raise MemoryError

    assert memory.above(greedy, CPU) is None


def test_a_process_of_its_own_measures_each_side() -> None:
    """At 32x32 latents, where matrices are what memory goes to."""
    short = scene.shortened(recipe(), 2)
    ours, plain = (memory.peak(short, side, (64, 64)) for side in memory.SIDES)
    assert ours is not None
    assert plain is not None
    assert plain > 2.5 * ours > 0


def test_a_process_that_fails_says_why() -> None:
    lost = recipe().model_copy(update={"backbone": Backbone(id="nowhere")})
    with pytest.raises(StyleError, match=r"measuring the memory of ours failed: .*nowhere"):
        memory.peak(lost, "ours", PIXELS)


def test_training_is_timed_by_its_steps(small: scene.Scene) -> None:
    small.backbone.unet = small.base
    clock = training.fit(small.backbone, small.recipe.lora, steps=5, styles=2)
    assert len(clock.seconds()) == len(clock.cpu_seconds()) == 5 - training.WARM - 1
    assert all(seconds > 0 for seconds in clock.seconds())
    watch = Watch(CPU)
    training.bare(small.backbone, small.recipe.lora, watch, 2, 2)
    assert watch.seconds["pass"] > 0


# What is told

FIGURE = Figure(median=2.0, low=1.5, high=2.5)
ROWS: list[Row] = [
    Ceiling(
        name="matmul",
        flops_per_second=Figure(median=8e10, low=7e10, high=1e11),
        per_cpu_second=5e10,
    ),
    Side(
        case="transfer", name="ours", seconds=FIGURE, rows=199, flops=1e11, utilisation=0.5, how=""
    ),
    Side(case="memory", name="plain", how="it did not fit"),
    Ratio(name="plain / ours", value=FIGURE, at_least=1.5, how=""),
    Ratio(name="ours / least", value=FIGURE, cpu=FIGURE, at_most=1.15, how=""),
    Ratio(name="styles", value=FIGURE, how=""),
    Count(name="1 style", rows=198, expected=199),
]


def test_the_table_says_of_every_aim_whether_it_is_met() -> None:
    lines = [str(row) for row in ROWS]
    assert "100.0 GFLOP/s" in lines[0]
    assert re.search(r"transfer +ours +2 s +199 rows +100\.0 GFLOP +50% of matmul$", lines[1])
    assert lines[2] == "memory    plain"
    assert lines[3].endswith("aim >= 1.5: met")
    assert "CPU 2 " in lines[4]
    assert lines[4].endswith("aim <= 1.15: MISSED")
    assert lines[5].endswith("2 [1.5, 2.5]")
    assert lines[6].endswith("198   aim = 199: MISSED")


def test_a_report_is_read_back_and_fits_its_schema(bench: Bench) -> None:
    report = bench.report(ROWS)
    text = report.model_dump_json(indent=2)
    assert Report.model_validate_json(text) == report
    jsonschema.validate(json.loads(text), Report.model_json_schema())
    assert len(report.sides) == 2
    assert len(report.ratios) == 3
    assert report.setting.recipe_steps == 6
    assert report.setting.steps == 3


def test_a_report_names_no_machine_and_no_folder(bench: Bench) -> None:
    text = bench.report(ROWS).model_dump_json()
    assert platform.node() not in text
    assert str(Path.home()) not in text
    assert str(folder().parent) not in text
    assert Machine.here(CPU, torch.float32).cores >= 1


def test_committed_reports_are_reports() -> None:
    files = sorted((ROOT / "docs" / "bench").glob("*.json"))
    assert files
    for file in files:
        report = Report.model_validate_json(file.read_text(encoding="utf-8"))
        # Of a model at its real size the quick effort takes a quarter of an hour on a CPU.
        is_large = report.setting.fingerprint == "random" and report.machine.device == "cpu"
        assert is_large or report.setting.effort != "quick", "a file that is shown takes its time"
        assert all(count.is_met for count in report.counts)


# Where the reference comes from


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(reference.PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)


def test_a_checkout_has_the_reference_with_its_tests(unloaded: None) -> None:
    assert Path(reference.module("ddim").__file__) == ROOT / "tests" / "reference" / "ddim.py"


def test_a_wheel_carries_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unloaded: None
) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="builds wheels")
    builder = wheel.WheelBuilder(str(ROOT))
    (built,) = builder.build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as file:
        names = [name for name in file.namelist() if name.startswith("stylecli/_reference/")]
        file.extractall(tmp_path / "site", names)
    # No more than is needed, and no test.
    assert {Path(name).stem for name in names} == {"attention", "ddim", "diffstyler"}
    package = tmp_path / "site" / "stylecli"
    monkeypatch.setattr(reference, "__file__", str(package / "engine" / "bench" / "reference.py"))
    found = reference.module("diffstyler")
    assert Path(found.__file__) == package / "_reference" / "diffstyler.py"
    assert found.attention.__name__ == f"{reference.PACKAGE}.attention"
    for name in [name for name in sys.modules if name.startswith(reference.PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)


def test_an_installation_without_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unloaded: None
) -> None:
    monkeypatch.setattr(reference, "__file__", str(tmp_path / "a" / "b" / "c" / "reference.py"))
    with pytest.raises(UsageError, match="not part of this installation"):
        reference.module("ddim")


# The command


def test_the_command_refuses_what_it_cannot_measure(style: Style) -> None:
    done = style("bench", "--cases", "transfers")
    assert done.status == 2
    assert "did you mean transfer?" in done.err
    assert style("bench", "--quick", "--full").status == 2


def test_a_dry_run_lists_the_cases_in_their_order(style: Style) -> None:
    done = style("bench", "--cases", "rows,transfer", "--dry-run", "--json")
    assert done.status == 0, done.err
    assert [row["case"] for row in done.rows[:-1]] == ["transfer", "rows"]


@pytest.mark.timeout(900)
def test_the_command_measures_and_writes_a_report(style: Style, tmp_path: Path) -> None:
    """All cases but the compiler's, on a tiny model."""
    settings = recipe()
    path = tmp_path / "here.json"
    done = style(
        *("bench", "--quick", "--size", "32", "--device", "cpu", "-o", path, "--json"),
        *("--backbone", settings.backbone.id, "--cases", "transfer,memory,rows,styles,train"),
        *("--set", "sampling.steps=6", "--set", "lora.resolution=32"),
    )
    assert done.status == 0, done.err
    report = Report.model_validate_json(path.read_text())
    assert {side.case for side in report.sides} == {"transfer", "memory", "styles", "train"}
    assert report.setting.backbone == Path(settings.backbone.id).name
    kinds = [row.get("row") for row in done.rows]
    assert kinds.count("count") == len(report.counts) == 5
