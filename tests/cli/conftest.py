"""A tiny backbone, pictures, and real processes to run `style` in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.conftest import ROOT, Outcome

RECIPE = """\
backbone: {{id: {folder}}}
sampling: {{size: 32, steps: 6, guidance: 3}}
inversion: {{steps: 6}}
injection: {{feature_steps: 4, attn_steps: 3}}
lora: {{resolution: 64, crop: random, crop_px: 32, steps: 12, save_every: 2, rank: 4}}
"""

Process = Callable[..., Outcome]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def recipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(RECIPE.format(folder=tiny_folder))
    return file


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Path:
    """A small picture with some structure, different for every seed."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
    """`style` in a process of its own, with one thread: tests share the machine."""
    return subprocess.Popen(
        [sys.executable, "-m", "stylecli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=240)
    return Outcome(process.returncode, out, err)
