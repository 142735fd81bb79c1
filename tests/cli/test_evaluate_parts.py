"""Shared evaluations: the same bytes however many processes took part, killed or side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import finish, start
from tests.conftest import ROOT, Style
from tests.engine.scoring.copies import manifest

pytestmark = pytest.mark.slow
FILES = ("per_image.jsonl", "per_image.csv", "aggregate.json", "table.md", "table.csv")
FREE = ("--metrics", "mse,psnr", "--no-anchors", "-q")
ALL = ("--metrics", "mse,psnr,pocket-fid,pocket-artfid", "-q")
FEW = ("--set", "evaluate.resamples=100")
GIB = 2**30


def same(one: Path, other: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert list(one.glob("scores-*")) == []


def own_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("STYLE_CACHE_DIR", str(folder))


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_in_any_order_make_the_bytes_of_one_run(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    """Two thousand rows; every part on a machine of its own, the report on another."""
    command = ("evaluate", "--manifest", manifest(tmp_path, 2000), *FREE, *FEW, "-o")
    own_cache(monkeypatch, tmp_path / "cache-whole")
    assert style(*command, tmp_path / "whole").status == 0
    for part in order:
        own_cache(monkeypatch, tmp_path / f"cache-{part}")
        done = style(*command, tmp_path / "parts", "--shard", f"{part}/3")
        assert done.status == 0
        assert done.out == ""
        assert not (tmp_path / "parts" / "per_image.jsonl").exists()
    own_cache(monkeypatch, tmp_path / "cache-report")
    with monkeypatch.context() as patch:
        from stylecli.engine.scoring.rows import Bench

        patch.setattr(Bench, "_value", lambda *_: pytest.fail("computed again"))
        assert style(*command, tmp_path / "parts").status == 0
    same(tmp_path / "whole", tmp_path / "parts")


def test_processes_that_share_the_rows_make_the_bytes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("evaluate", "--manifest", manifest(tmp_path, 90, outputs=90), *ALL, *FEW, "-o")
    for name, jobs in (("one", ()), ("two", ("--jobs", "2")), ("parts", ("--jobs", "2"))):
        own_cache(monkeypatch, tmp_path / f"cache-{name}")
        for shard in ("1/2", "2/2") if name == "parts" else ():
            done = finish(start(*command, tmp_path / name, *jobs, "--shard", shard))
            assert done.status == 0, done.err
        done = finish(start(*command, tmp_path / name, *jobs))
        assert done.status == 0, done.err
    same(tmp_path / "one", tmp_path / "two")
    same(tmp_path / "one", tmp_path / "parts")


def test_json_has_every_row_once_and_failures_count(style: Style, tmp_path: Path) -> None:
    path = manifest(tmp_path, 40)
    (tmp_path / "outputs" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    command = ("evaluate", "--manifest", path, *FREE, "--json", "-o", tmp_path / "r")
    counts = []
    for shard in ("1/2", "2/2"):
        done = style(*command, "--shard", shard)
        counts.append(done.summary["counts"])
        assert {row["status"] for row in done.rows[:-1]} <= {"done", "failed"}
    assert sum(count["items"] for count in counts) == 40
    assert sum(count.get("failed", 0) for count in counts) == 2
    assert style(*command).status == 3


def test_a_report_is_not_made_while_a_part_is_at_work(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylecli.artifacts.journal import Journal

    command = ("evaluate", "--manifest", manifest(tmp_path, 10), *FREE, "-o", tmp_path / "r")
    with Journal(tmp_path / "r", (1, 2)):
        assert style(*command).status == 5
        assert style(*command, "--shard", "1/2").status == 5
        assert style(*command, "--shard", "2/2").status == 0
    assert style(*command).status == 0


@pytest.mark.parametrize("jobs", [(), ("--jobs", "2"), ("--shard", "1/1")])
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: tuple[str, ...]
) -> None:
    command = ("evaluate", "--manifest", manifest(tmp_path, 400, outputs=400), *ALL, *FEW, "-o")
    cache = tmp_path / "cache"
    own_cache(monkeypatch, cache)
    process = start(*command, tmp_path / "killed", *jobs)
    # The file of a store is larger than its empty tables once something was written.
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        stores = [*cache.rglob("*.sqlite-wal"), *(tmp_path / "killed").glob("scores-*.sqlite")]
        if any(store.stat().st_size > 100_000 for store in stores):
            break
        time.sleep(0.02)
    assert process.poll() is None, "it was too fast to be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "killed" / "per_image.jsonl").exists()
    if jobs[:1] == ("--shard",):
        assert finish(start(*command, tmp_path / "killed", *jobs)).status == 0
    assert finish(start(*command, tmp_path / "killed")).status == 0
    own_cache(monkeypatch, tmp_path / "empty")
    assert finish(start(*command, tmp_path / "whole")).status == 0
    same(tmp_path / "whole", tmp_path / "killed")


def test_two_evaluations_side_by_side_share_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("evaluate", "--manifest", manifest(tmp_path, 120, outputs=120), *ALL, *FEW, "-o")
    own_cache(monkeypatch, tmp_path / "cache")
    running = [start(*command, tmp_path / name) for name in "ab"]
    for process in running:
        done = finish(process)
        assert done.status == 0, done.err
    own_cache(monkeypatch, tmp_path / "empty")
    assert finish(start(*command, tmp_path / "alone")).status == 0
    for name in "ab":
        same(tmp_path / "alone", tmp_path / name)


MEASURE = """
import json, resource, sys, time
from stylecli.cli.app import main
began = time.monotonic()
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([status, used.ru_maxrss * 1024, time.monotonic() - began]), file=sys.stderr)
"""


def measured(*arguments: object) -> tuple[int, float]:
    """Bytes at the peak and seconds of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    status, peak, seconds = json.loads(done.stderr.splitlines()[-1])
    assert status == 0, done.stderr
    return peak, seconds


@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_a_hundred_thousand_rows_fit_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all copies beside them: four hundred thousand cases, over what a hundred rows take."""
    own_cache(monkeypatch, tmp_path / "cache")
    metrics = ("--metrics", "mse,psnr,pocket-fid", "-q")
    found = [
        measured("evaluate", "--manifest", manifest(tmp_path, rows), *metrics, "-o", tmp_path / "r")
        for rows in (100, 100_000)
    ]
    (few, _), (many, seconds) = found
    print(f"{few / GIB:.2f} GiB, {many / GIB:.2f} GiB, {100_000 / seconds:.0f} rows/s")  # noqa: T201
    assert many - few < 0.3 * GIB
    figures = json.loads((tmp_path / "r" / "aggregate.json").read_text())["methods"]["copies"]
    assert figures["mse"]["n"] == 100_000
    assert figures["mse"]["ci_method"] == "normal, clustered"
    assert figures["pocket-fid"]["n"] == 100_000
