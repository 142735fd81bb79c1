"""Rows a second of an evaluation: what holding numbers back and looking ahead bring, in turns.

`nox -s bench -- tests/benchmarks/test_evaluation.py -s` prints the figures of this machine.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from stylecli.artifacts import features
from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring import rows
from stylecli.engine.scoring.items import Asked, collect
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.scoring.pictures import Album
from stylecli.engine.scoring.rows import Bench
from stylecli.evaluation.table import choose
from stylecli.recipe.scoring import Evaluate
from tests.engine.scoring.copies import manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS, ROUNDS = 200, 3
# Every number a commit of its own, and batches of what one block of cases lacks.
ALONE, TOGETHER = (1, 1), (features.HELD_VECTORS, rows.AHEAD)


def rows_a_second(path: Path, store: Path) -> float:
    """All rows of a manifest with their copies, from an empty store."""
    settings = Evaluate()
    items = collect(Asked(manifest=path), settings)
    chosen = choose("core", ["mse", "psnr", "ssim", "pocket-fid"]).metrics
    networks = Networks({}, torch.device("cpu"))
    networks.get("pocket-embedding")
    with FeatureStore(store) as opened:
        bench, album = Bench(settings, chosen, networks, opened), Album(opened)
        cases = (
            case
            for item in items
            for case in (album.case(item), *album.anchors([item], settings.anchors))
        )
        began = time.perf_counter()
        assert all(scored.error is None for scored in bench.score_all(cases))
        return len(items) / (time.perf_counter() - began)


def test_rows_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark: Any) -> None:
    path = manifest(tmp_path, ROWS, outputs=ROWS)

    def rounds() -> dict[tuple[int, int], list[float]]:
        found: dict[tuple[int, int], list[float]] = {ALONE: [], TOGETHER: []}
        for turn, how in itertools.product(range(ROUNDS), found):
            monkeypatch.setattr(features, "HELD_VECTORS", how[0])
            monkeypatch.setattr(rows, "AHEAD", how[1])
            found[how].append(rows_a_second(path, tmp_path / f"{turn}-{how[0]}.sqlite"))
        return found

    found = benchmark.pedantic(rounds, rounds=1)
    rates = {how: median(of) for how, of in found.items()}
    gain = median(a / b for a, b in zip(found[TOGETHER], found[ALONE], strict=True))
    benchmark.extra_info["rows a second"] = {"alone": rates[ALONE], "together": rates[TOGETHER]}
    print(  # noqa: T201
        f"{rates[ALONE]:.0f} rows a second alone, {rates[TOGETHER]:.0f} together, {gain:.2f} times"
    )
    assert gain > 1.1
