"""Real processes: killed, interrupted, locked out, and finished by the same command."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stylecli.artifacts import journal
from tests.cli.conftest import draw, finish, start

pytestmark = pytest.mark.slow


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pictures(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def test_a_cron_job_survives_a_crash_and_makes_only_what_is_missing(
    recipe: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "style.safetensors"
    painting = draw(tmp_path / "painting.png", seed=7)
    assert finish(start("train-lora", painting, "-o", lora, "-r", recipe)).status == 0
    photos, out = tmp_path / "photos", tmp_path / "out"
    draw(photos / "a.png", seed=1)

    def job(target: Path = out) -> subprocess.Popen[str]:
        return start("transfer", photos, "-l", lora, "-o", target, "-r", recipe, "--json",
                     "--set", "sampling.steps=12", "--set", "inversion.steps=12")  # fmt: skip

    assert finish(job()).summary["counts"] == {"done": 1, "items": 1}

    for i in range(6):
        draw(photos / f"new{i}.png", seed=10 + i)
    (photos / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    crashed = job()
    wait_for(lambda: len(pictures(out)) >= 3, crashed)
    crashed.send_signal(signal.SIGKILL)
    assert finish(crashed).status == -signal.SIGKILL
    survivors = pictures(out)
    assert 3 <= len(survivors) < 7

    again = finish(job())
    assert again.status == 3
    counts = again.summary["counts"]
    assert counts == {"done": 7 - len(survivors), "skipped": len(survivors), "failed": 1,
                      "items": 8}  # fmt: skip
    assert not list(out.glob("*.part"))
    assert finish(job(tmp_path / "fresh")).status == 3
    assert pictures(out) == pictures(tmp_path / "fresh")

    (photos / "torn.png").unlink()
    quiet = finish(job())
    assert quiet.status == 0
    assert quiet.summary["counts"] == {"skipped": 7, "items": 7}
    assert len({row["key"] for row in journal.rows(out) if row["status"] == "done"}) == 7


def test_killed_training_resumes_to_the_same_bytes(recipe: Path, tmp_path: Path) -> None:
    painting = draw(tmp_path / "painting.png", seed=7)
    steps = ("--steps", "60")

    def job(name: str) -> subprocess.Popen[str]:
        return start("train-lora", painting, "-o", tmp_path / name, "-r", recipe, *steps)

    killed = job("killed.safetensors")
    state = tmp_path / ".killed.safetensors.state.safetensors"
    wait_for(state.exists, killed)
    killed.send_signal(signal.SIGKILL)
    finish(killed)
    assert not (tmp_path / "killed.safetensors").exists()
    assert finish(job("killed.safetensors")).status == 0
    assert not state.exists()
    assert finish(job("whole.safetensors")).status == 0
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "killed.safetensors").read_bytes() == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_leaves_nothing_half_written(
    recipe: Path, tmp_path: Path, number: int, status: int
) -> None:
    painting = draw(tmp_path / "painting.png", seed=7)
    out = tmp_path / "x.safetensors"
    process = start("train-lora", painting, "-o", out, "-r", recipe, "--steps", "5000", "--json")
    wait_for((tmp_path / ".x.safetensors.state.safetensors").exists, process)
    process.send_signal(number)
    done = finish(process)
    assert done.status == status
    assert done.summary["exit_status"] == status
    assert "Traceback" not in done.err
    assert not out.exists()
    assert not list(tmp_path.glob("*.part"))


def test_a_second_run_on_the_same_file_exits_5_at_once(recipe: Path, tmp_path: Path) -> None:
    painting = draw(tmp_path / "painting.png", seed=7)

    def train(name: str, *options: str) -> subprocess.Popen[str]:
        return start("train-lora", painting, "-o", tmp_path / name, "-r", recipe, *options)

    first = train("x.safetensors", "--steps", "5000")
    wait_for((tmp_path / ".x.safetensors.state.safetensors").exists, first)
    second = finish(train("x.safetensors", "--steps", "5000"))
    beside = finish(train("y.safetensors"))
    first.kill()
    first.communicate()
    assert second.status == 5
    assert "--wait" in second.err
    assert beside.status == 0, "another file of the folder is nobody's business"
    again = finish(train("x.safetensors", "--overwrite"))
    assert again.status == 0, "the lock of a killed run must be free"


def test_a_folder_has_one_run_at_a_time_and_its_parts_their_own(
    recipe: Path, tmp_path: Path
) -> None:
    painting = draw(tmp_path / "painting.png", seed=7)
    lora = tmp_path / "style.safetensors"
    assert finish(start("train-lora", painting, "-o", lora, "-r", recipe)).status == 0
    for i in range(30):
        draw(tmp_path / "in" / f"{i:02}.png", seed=i)
    out = tmp_path / "out"

    def job(*options: str) -> subprocess.Popen[str]:
        return start("transfer", tmp_path / "in", "-l", lora, "-o", f"{out}/", "-r", recipe,
                     "--json", *options)  # fmt: skip

    first = job("--shard", "1/2")
    wait_for(lambda: pictures(out), first)
    whole, same, other = job(), job("--shard", "1/2"), job("--shard", "2/2")
    assert [finish(one).status for one in (whole, same, other)] == [5, 5, 0]
    waited = job("--wait")
    assert finish(first).status == 0
    done = finish(waited)
    assert done.status == 0
    assert done.summary["counts"] == {"skipped": 30, "items": 30}
    assert len(pictures(out)) == 30
    rows = [row for row in journal.rows(out) if row["status"] == "done"]
    assert len(rows) == len({row["output"] for row in rows}) == 30
