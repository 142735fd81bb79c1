"""Estimates against real runs of what ships: the peak of each process, and the CPU time it took.

The table of errors is printed: ``pytest -m slow -s`` shows it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import draw
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

MEMORY_ERROR = 0.25
# One thread's CPU time stands for the time on an idle machine, and still moves with who else runs.
TIME_FACTOR = 1.6
FEW = "sampling.steps=6 inversion.steps=6 injection.feature_steps=6 injection.attn_steps=5"
CASES = {
    "128 px": "size=128",
    "128 px, guidance 1": "size=128 guidance=1",
    "256 px": "size=256",
    "256 px, guidance 1": "size=256 guidance=1",
    "128 px, batch 4": "size=128 batch=4",
    "256 px, batch 4": "size=256 batch=4",
    "256 px, batch 4, one row at a time": "size=256 batch=4 max_rows=1",
    "512 px": "size=512 steps=2",
    "512 px, tiles": "size=512 steps=2 tiling=true",
}
KEYS = {"size": "sampling.size", "guidance": "sampling.guidance"}


@dataclass(frozen=True)
class Measured:
    seconds: float
    memory_bytes: int


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
        "STYLE_CACHE_DIR": str(cache),
    }


def measured(arguments: list[str], cache: Path) -> Measured:
    process = subprocess.Popen(
        [sys.executable, "-m", "stylecli", *arguments, "-q"],
        stdout=subprocess.DEVNULL,
        env=environment(cache),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Measured(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def estimated(arguments: list[str], cache: Path) -> Measured:
    shown = subprocess.run(
        [sys.executable, "-m", "stylecli", *arguments, "--dry-run", "--json"],
        check=True,
        capture_output=True,
        env=environment(cache),
    )
    found = json.loads(shown.stdout.splitlines()[0])["estimate"]
    return Measured(found["seconds"], found["memory_bytes"])


def agree(name: str, arguments: list[str], cache: Path) -> None:
    wanted, found = measured(arguments, cache), estimated([*arguments, "--overwrite"], cache)
    memory = found.memory_bytes / wanted.memory_bytes - 1
    time = found.seconds / wanted.seconds
    print(  # noqa: T201 - for who runs it
        f"{name:<36} {wanted.memory_bytes / 1e6:6.0f} MB  {memory:+6.1%}"
        f"  {wanted.seconds:6.1f} s  x {time:.2f}"
    )
    assert abs(memory) <= MEMORY_ERROR
    assert 1 / TIME_FACTOR <= time <= TIME_FACTOR


@pytest.fixture(scope="module")
def style_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("style") / "style.png", size=(256, 256))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, style_picture: Path) -> Path:
    file = tmp_path_factory.mktemp("lora") / "look.safetensors"
    measured(
        ["train-lora", str(style_picture), "-o", str(file), "--steps", "1"], file.parent / "cache"
    )
    return file


@pytest.mark.parametrize("name", CASES)
def test_a_transfer_takes_what_was_estimated(name: str, lora: Path, tmp_path: Path) -> None:
    asked = dict(pair.split("=") for pair in CASES[name].split())
    steps = asked.pop("steps", None)
    settings = [f"{KEYS.get(key, f'device.{key}')}={value}" for key, value in asked.items()]
    settings += ["sampling.start=inversion"]
    few = FEW.replace("=6", f"={steps}").replace("=5", f"={steps}") if steps else FEW
    for number in range(int(asked.get("batch", 1))):
        draw(tmp_path / "in" / f"{number}.png", seed=number, size=(256, 256))
    arguments = ["transfer", str(tmp_path / "in"), "-l", str(lora), "-o", f"{tmp_path}/out/"]
    for setting in (*settings, *few.split()):
        arguments += ["--set", setting]
    agree(name, arguments, tmp_path / "cache")


@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("px", [128, 256])
def test_a_lesson_takes_what_was_estimated(
    px: int, checkpointing: str, style_picture: Path, tmp_path: Path
) -> None:
    arguments = ["train-lora", str(style_picture), "-o", str(tmp_path / "a.safetensors")]
    for setting in (
        f"lora.crop_px={px}",
        "lora.steps=8",
        f"lora.gradient_checkpointing={checkpointing}",
    ):
        arguments += ["--set", setting]
    agree(f"lora, {px} px, checkpointing {checkpointing}", arguments, tmp_path / "cache")
