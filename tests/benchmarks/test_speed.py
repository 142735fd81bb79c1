"""What a stylisation costs against the plain reference: ratios of things measured in turns.

`nox -s bench -- tests/benchmarks/test_speed.py`; `style bench` measures the same and more, at the
sizes that people use. Seconds of the process, because others share the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stylecli.engine.bench import cases
from stylecli.engine.bench.report import Ratio, Side
from stylecli.engine.bench.workplace import Bench
from stylecli.engine.session import Session
from stylecli.recipe.load import load
from tests.engine.bench.test_bench import Quiet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def bench(side_px: int) -> Bench:
    recipe = load("pocket-cpu", flags={"device.name": "cpu"}).recipe
    size = side_px, side_px
    return Bench(Session.open(recipe, Quiet()), "pocket-cpu", effort="quick", size=size)


def measured(benchmark: Any, run: Callable[[], Any]) -> dict[str, Ratio]:
    rows = benchmark.pedantic(lambda: list(run()), rounds=1)
    ratios = {row.name: row for row in rows if isinstance(row, Ratio)}
    benchmark.extra_info.update({name: str(row.value) for name, row in ratios.items()})
    assert any(isinstance(row, Side) for row in rows)
    return ratios


def test_ours_beats_the_plain_reference_and_the_authors_procedure(benchmark: Any) -> None:
    """At 64x64 latents, where the aims are set: matrices of smaller ones are small themselves."""
    ratios = measured(benchmark, lambda: cases.transfer(bench(256)))
    found = {name: row.cpu.median for name, row in ratios.items() if row.cpu is not None}
    assert found["plain / ours"] >= 1.5
    assert found["authors' procedure / ours, SCALED"] >= 8
    assert found["ours / rows x one row"] <= 1.15


def test_ours_takes_a_fraction_of_the_plain_references_memory(benchmark: Any) -> None:
    ratios = measured(benchmark, lambda: cases.peaks(bench(192)))
    assert ratios["plain / ours, peak memory"].value.median >= 2.5


def test_styles_in_lock_step_cost_less_than_one_after_another(benchmark: Any) -> None:
    """Two styles in 3 steps: 3 + 3 + 12 rows against twice 3 + 3 + 6."""
    ratios = measured(benchmark, lambda: cases.styles(bench(64)))
    together = ratios["styles: one after another / lock-step, passes"].cpu
    assert together is not None
    assert together.median > 1.1


def test_training_costs_little_more_than_passes_there_and_back(benchmark: Any) -> None:
    ratios = measured(benchmark, lambda: cases.train(bench(64)))
    assert ratios["train-lora / bare passes, 1 LoRA"].value.median < 1.6
