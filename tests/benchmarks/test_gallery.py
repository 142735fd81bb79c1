"""StyleGallery's updates beside a plain implementation of the same, in turns in one run.

`nox -s bench -- tests/benchmarks/test_gallery.py`; the same rows as `style bench --cases gallery`.
"""

from __future__ import annotations

from typing import Any

import pytest

from stylecli.engine.bench import gallery_case
from stylecli.engine.bench.report import Ratio, Side
from stylecli.engine.bench.workplace import Bench
from stylecli.engine.session import Session
from stylecli.recipe.load import load
from tests.engine.bench.test_bench import Quiet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_updates_beat_the_plain_reference_and_checkpoints_save_memory(benchmark: Any) -> None:
    """At 64x64 latents, in seconds of the process, because others share the machine."""
    recipe = load("pocket-cpu", flags={"device.name": "cpu"}).recipe
    bench = Bench(Session.open(recipe, Quiet()), "pocket-cpu", effort="default", size=(256, 256))
    rows = benchmark.pedantic(lambda: list(gallery_case.measure(bench)), rounds=1)
    ratios = {row.name: row for row in rows if isinstance(row, Ratio)}
    benchmark.extra_info.update({name: str(row.cpu or row.value) for name, row in ratios.items()})
    found = {name: row.cpu.median for name, row in ratios.items() if row.cpu is not None}
    assert found["gallery: plain / exact"] >= 1.1
    assert found["gallery: plain / refresh 4"] >= 1.6
    peaks = {row.name: row.peak_bytes for row in rows if isinstance(row, Side)}
    assert peaks["peak"] > 1.5 * peaks["peak, checkpoints"] > 0
