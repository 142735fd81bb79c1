"""Runs that are killed, again and again, end in the same bytes as one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import draw, finish, start

pytestmark = pytest.mark.slow

ITEMS = 40
QUICK = ("--set", "sampling.steps=4", "--set", "inversion.steps=4",
         "--set", "injection.feature_steps=2", "--set", "injection.attn_steps=2")  # fmt: skip

Trigger = Callable[[Path], bool]


def at_a_temporary_file() -> Trigger:
    """While a result is being written."""
    return lambda out: any(name.endswith(".part") for name in _names(out))


def at_a_new_row() -> Trigger:
    """When the journal has just grown."""
    before: list[int] = []

    def grown(out: Path) -> bool:
        journal = out / "runs.jsonl"
        before.append(journal.stat().st_size if journal.exists() else 0)
        return before[-1] > before[0] + 300  # more than the row that a run begins with

    return grown


def at_a_result(random_: random.Random) -> Trigger:
    """A moment after another result is there."""
    seen: set[str] = set()

    def made(out: Path) -> bool:
        names = {name for name in _names(out) if name.endswith(".png")}
        if not seen:
            seen.update(names | {"the start"})
        if not names <= seen:
            time.sleep(random_.uniform(0, 0.1))
            return True
        return False

    return made


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208  quicker, and it races


def kill_when(trigger: Trigger, process: subprocess.Popen[str], out: Path) -> bool:
    """Whether the process was killed; false where it came to its end before."""
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if trigger(out):
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return process.returncode == -signal.SIGKILL
    process.communicate()
    return False


def torture(recipe: Path, folder: Path, kills: int, *options: str) -> list[str]:
    """Kill a run `kills` times, let it end, and compare with one that was left alone."""
    for i in range(ITEMS):
        draw(folder / "photos" / f"{i:02}.png", seed=i, size=(40, 32))
    (folder / "photos" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lora = folder / "style.safetensors"
    painting = draw(folder / "painting.png", seed=99)
    assert finish(start("train-lora", painting, "-o", lora, "-r", recipe)).status == 0

    def job(out: Path) -> subprocess.Popen[str]:
        return start("transfer", folder / "photos", "-l", lora, "-o", f"{out}/", "-r", recipe,
                     *QUICK, *options, "--json")  # fmt: skip

    random_ = random.Random(kills)
    out, killed_by = folder / "out", []
    triggers = {
        "part": at_a_temporary_file,
        "row": at_a_new_row,
        "result": lambda: at_a_result(random_),
    }
    while len(killed_by) < kills:
        kind = list(triggers)[len(killed_by) % len(triggers)]
        if kill_when(triggers[kind](), job(out), out):
            killed_by.append(kind)
        else:  # it was too quick for us: begin anew
            for file in list(out.iterdir())[: ITEMS // 2]:
                if file.suffix == ".png":
                    file.unlink()
    done = finish(job(out))
    assert done.status == 3, done.err
    assert done.summary["counts"]["items"] == ITEMS + 1
    assert done.summary["counts"]["failed"] == 1
    assert finish(job(folder / "whole")).status == 3
    results = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert results == {path.name: path.read_bytes() for path in (folder / "whole").glob("*.png")}
    assert len(results) == ITEMS
    assert {name for name in _names(out) if not name.endswith(".png")} <= {
        "runs.jsonl", ".runs.jsonl.lock"
    }  # fmt: skip
    rows = []
    for line in (out / "runs.jsonl").read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # torn by a kill
    told = {row["output"]: row["status"] for row in rows if "key" in row}
    assert len(told) == ITEMS + 1
    assert sorted(told.values()) == ["done"] * ITEMS + ["failed"]
    return killed_by


@pytest.mark.timeout(900)
def test_five_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    assert len(torture(recipe, tmp_path, 5)) == 5


@pytest.mark.timeout(3000)
def test_fifty_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    killed_by = torture(recipe, tmp_path, 50)
    assert killed_by.count("part") + killed_by.count("row") >= 30


@pytest.mark.timeout(1200)
def test_stripped_files_survive_kills_too(recipe: Path, tmp_path: Path) -> None:
    assert len(torture(recipe, tmp_path, 9, "--strip-metadata")) == 9


@pytest.mark.timeout(1200)
def test_batches_survive_kills_too(recipe: Path, tmp_path: Path) -> None:
    assert len(torture(recipe, tmp_path, 9, "--batch", "3")) == 9
