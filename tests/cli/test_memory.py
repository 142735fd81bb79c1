"""Too little memory: the run goes on with less, says so once, and its files are made again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.artifacts import store
from stylecli.backbone.model import Backbone
from tests.cli.conftest import draw
from tests.conftest import ROOT, Style

pytestmark = pytest.mark.slow

# Larger than the tiles of the tiny model.
LARGE = ("--set", "sampling.size=48")


@contextmanager
def short_of_memory(method: str) -> Iterator[list[tuple[int | None, bool]]]:
    """A machine on which this fits with one row at a time and in tiles, and not before."""
    tried: list[tuple[int | None, bool]] = []
    usual = getattr(Backbone, method)

    def fails(self: Backbone, *given: Any) -> Any:
        tried.append((self.max_rows, self.vae.use_tiling))
        if tried[-1] != (1, True):
            raise torch.OutOfMemoryError
        return usual(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, method, fails)
        yield tried


def device_of(file: Path) -> dict[str, Any]:
    said = store.read_provenance(file)
    assert said is not None
    found: dict[str, Any] = said["recipe"]["device"]
    return found


@pytest.fixture
def lora(style: Style, recipe: Path, tmp_path: Path) -> Path:
    out = tmp_path / "look.safetensors"
    painting = draw(tmp_path / "painting.png", seed=7)
    assert style("train-lora", painting, "-o", out, "-r", recipe, "-q", "--steps", 2).status == 0
    return out


@pytest.mark.parametrize("command", ["transfer", "invert", "generate"])
def test_what_was_made_with_less_says_so_and_is_made_again_byte_for_byte(
    style: Style,
    recipe: Path,
    tiny_folder: Path,
    lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    for i in range(4):
        draw(tmp_path / "in" / f"{i}.png", seed=i, size=(80, 60))
    words: list[object] = {
        "transfer": [tmp_path / "in", "-l", lora],
        "invert": [tmp_path / "in"],
        "generate": ["--prompt", "a cat", "--count", 4, "-l", lora],
    }[command]
    out = tmp_path / "out"
    batch = ("--set", "device.batch=4")
    method = "posterior" if command == "invert" else "decode"
    with short_of_memory(method) as tried:
        done = style(command, *words, "-o", f"{out}/", "-r", recipe, *LARGE, *batch)
    assert done.status == 0, done.err
    # Of four, of two, alone, with one row, in tiles; and then never again as before.
    assert tried[:5] == [(None, False)] * 3 + [(1, False), (1, True)]
    assert set(tried[5:]) == {(1, True)}
    for how in ("2 at a time", "1 at a time", "one row at a time", "large pictures in tiles"):
        assert done.err.count(f"out of memory; from here on {how}") == 1
    files = sorted(file for file in out.iterdir() if file.suffix in (".png", ".safetensors"))
    assert len(files) == 4
    for file in files:
        assert device_of(file)["batch"] == 1
        assert (device_of(file)["max_rows"], device_of(file)["tiling"]) == (1, True)
    # With another cache, where there are no inversions yet.
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "cold"))
    again = style("rerun", *files, "--inputs", tmp_path, "--backbone", tiny_folder)
    assert again.status == 0, again.err


def test_a_run_that_never_was_short_of_memory_makes_the_same_key(
    style: Style, recipe: Path, lora: Path, tmp_path: Path
) -> None:
    """So that what was done with less is not done over when there is more."""
    content = draw(tmp_path / "photo.png", size=(80, 60))
    words = ("transfer", content, "-l", lora, "-o", tmp_path / "a.png", "-r", recipe, *LARGE)
    with short_of_memory("decode"):
        assert style(*words).status == 0
    before = (tmp_path / "a.png").read_bytes()
    done = style(*words, "--json")
    assert done.summary["counts"] == {"items": 1, "skipped": 1}
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_training_that_is_short_of_memory_computes_more_and_learns_the_same(
    style: Style,
    recipe: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import UNet2DConditionModel

    painting = draw(tmp_path / "painting.png", seed=7)
    words = ("train-lora", painting, "-r", recipe, "--steps", 3, "-o")
    assert style(*words, tmp_path / "usual.safetensors").status == 0
    forward = UNet2DConditionModel.forward

    def fails(self: Any, *given: Any, **more: Any) -> Any:
        if torch.is_grad_enabled() and not self.is_gradient_checkpointing:
            raise torch.OutOfMemoryError
        return forward(self, *given, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", fails)
    done = style(*words, tmp_path / "short.safetensors")
    assert done.status == 0, done.err
    assert done.err.count("out of memory; from here on with gradient checkpointing") == 1
    said = store.read_provenance(tmp_path / "short.safetensors")
    assert said is not None
    assert said["recipe"]["lora"]["gradient_checkpointing"] is True
    from safetensors.torch import load_file

    usual, short = (load_file(tmp_path / f"{n}.safetensors") for n in ("usual", "short"))
    assert usual.keys() == short.keys()
    assert all(torch.equal(usual[name], short[name]) for name in usual)
    monkeypatch.undo()
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "cold"))
    short_file = tmp_path / "short.safetensors"
    again = style("rerun", short_file, "--inputs", tmp_path, "--backbone", tiny_folder)
    assert again.status == 0, again.err


# A session whose process may grow by ROOM, and one job: to decode latents of 1100 px.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from stylecli.engine.runs import local
from stylecli.engine.runs.making import OneByOne
from stylecli.engine.session import Session
from stylecli.recipe.schema import Backbone, Recipe
from tests.engine.jobs import Listener, jobs

listener = Listener()
session = Session.open(Recipe(backbone=Backbone(id=sys.argv[1])), listener)
latents = torch.randn(1, 4, 550, 550, generator=torch.Generator().manual_seed(0))
session.backbone.decode(latents[..., :32, :32])
with open("/proc/self/statm") as stream:
    held = int(stream.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + ROOM * 2**20, resource.RLIM_INFINITY))

def make(job):
    return {"side": session.backbone.decode(latents).shape[-1]}

maker = OneByOne(make, session.step_down)
(result,) = local.work(jobs(Path(sys.argv[2]), 1), lambda: maker, listener)
print(result.status, result.details, listener.said, session.device.tiling)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count what is mapped")
def test_a_real_limit_is_met_in_tiles(tiny_folder: Path, tmp_path: Path) -> None:
    """Of the widest layer alone, 16 channels in float32 take 77 MB."""

    def decoded(room: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", LIMITED.replace("ROOM", str(room)), tiny_folder, tmp_path],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert decoded(4000).startswith("done {'side': 1100} [] False")
    short = decoded(150)
    assert short.startswith("done {'side': 1100}")
    assert "out of memory; from here on large pictures in tiles" in short
    assert short.endswith("True\n")
