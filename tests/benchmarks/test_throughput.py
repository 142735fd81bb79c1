"""Pictures a minute: what batches and overlapping stages bring, timed in turns in one run.

`nox -s bench -- tests/benchmarks/test_throughput.py -s` prints the figures of this machine.
"""

from __future__ import annotations

import itertools
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from stylecli.engine import restyle
from stylecli.engine.request import Contents, Destination
from stylecli.engine.runs import local
from stylecli.recipe.load import load
from tests.cli.conftest import draw
from tests.engine.jobs import FakeMaker, Listener, jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PICTURES, ROUNDS = 16, 3


@dataclass(frozen=True)
class Measured:
    """One run of some pictures.

    Attributes:
        utilisation: Share of the machine's cores that was at work.
    """

    a_minute: float
    utilisation: float


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    for i in range(PICTURES):
        draw(folder / "in" / f"{i:02}.png", seed=i, size=(160, 120))
    draw(folder / "painting.png", seed=99)
    return folder


def measured(desk: Path, batch: int, place: Path) -> Measured:
    """Pocket at 128 pixels in four steps, everything new but the LoRA and the model."""
    flags = {
        "device.name": "cpu", "device.batch": batch, "sampling.size": 128, "sampling.steps": 4,
        "inversion.steps": 4, "injection.feature_steps": 2, "injection.attn_steps": 2,
        "lora.steps": 2, "sampling.start": "inversion",
    }  # fmt: skip
    prepared = restyle.transfer(
        load("pocket-cpu", flags=flags).recipe,
        Contents(arguments=[str(desk / "in")]),
        Destination(output=f"{place}/"),
        Listener(),
        styles=[str(desk / "painting.png")],
    )
    results = prepared.run()
    next(results)  # the model is loaded and the style learned
    wall, cpu = time.monotonic(), _cpu_seconds()
    done = sum(1 for _ in results)
    wall, cpu = time.monotonic() - wall, _cpu_seconds() - cpu
    # Of a batch, the companions of the first picture were made with it.
    made = done - (batch - 1)
    return Measured(60 * made / wall, cpu / wall / (os.cpu_count() or 1))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def test_images_a_minute_in_batches(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark: Any
) -> None:
    def rounds() -> dict[int, list[Measured]]:
        found: dict[int, list[Measured]] = {1: [], 4: [], 8: []}
        for turn, batch in itertools.product(range(ROUNDS), found):
            monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / f"cache-{turn}-{batch}"))
            found[batch].append(measured(desk, batch, tmp_path / f"out-{turn}-{batch}"))
        return found

    found = benchmark.pedantic(rounds, rounds=1)
    for batch, runs in found.items():
        rate = median(run.a_minute for run in runs)
        share = median(run.utilisation for run in runs)
        benchmark.extra_info[f"batch {batch}"] = {"a minute": rate, "cores used": share}
        print(f"batch {batch}: {rate:.1f} images a minute, {share:.0%} of the cores")  # noqa: T201
    gains = [a.a_minute / b.a_minute for a, b in zip(found[8], found[1], strict=True)]
    # A CPU gains little from batches; that it loses much would be a fault of ours.
    assert median(gains) > 0.7


def test_reading_and_writing_cost_nothing_beside_the_model(tmp_path: Path, benchmark: Any) -> None:
    def seconds(*stages: float) -> float:
        folder = tmp_path / f"{time.monotonic_ns()}"
        folder.mkdir()
        maker = FakeMaker(seconds=(stages[0], stages[1], stages[2]))
        started = time.perf_counter()
        assert len(list(local.work(jobs(folder, 40), lambda: maker, Listener()))) == 40
        return time.perf_counter() - started

    def quotients() -> list[float]:
        return [seconds(0.02, 0.03, 0.02) / seconds(0, 0.03, 0) for _ in range(ROUNDS)]

    assert median(benchmark.pedantic(quotients, rounds=1)) < 1.35
