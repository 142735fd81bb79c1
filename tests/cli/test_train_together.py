"""Many LoRAs in one run, several at a time: what one at a time gives, and failures stay single."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stylecli.engine.training import lora, lora_state
from stylecli.recipe.schema import Lora
from tests.cli.conftest import draw, finish, start
from tests.cli.test_train_many import FEW, launch, listed, loras, wait_for
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

NAMES = "abcd"
# Files hold float16: one step of its last place, of numbers below one.
LAST_PLACE = 2**-10


@pytest.fixture(autouse=True)
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)


@pytest.fixture
def paintings(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        draw(tmp_path / "paintings" / f"{name}.png", seed=i)
    return tmp_path / "paintings"


Train = Callable[..., Outcome]


@pytest.fixture
def train(style: Style, recipe: Path) -> Train:
    def run(*arguments: object) -> Outcome:
        return style("train-lora", *arguments, "-r", recipe, *FEW, "--json")

    return run


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many LoRAs were trained side by side, each time."""
    sizes: list[int] = []
    real = lora.fit_together

    def count(backbone: Any, courses: Sequence[Any], *rest: Any, **given: Any) -> Any:
        sizes.append(len(courses))
        return real(backbone, courses, *rest, **given)

    monkeypatch.setattr(lora, "fit_together", count)
    return sizes


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def assert_alike(ours: Path, theirs: Path) -> None:
    (mine, header), (other, wanted) = read(ours), read(theirs)
    assert mine.keys() == other.keys()
    assert all(torch.allclose(mine[k], other[k], rtol=0, atol=LAST_PLACE) for k in mine)
    made, made_alone = json.loads(header.pop("style")), json.loads(wanted.pop("style"))
    assert header == wanted
    assert made["recipe"]["device"].pop("batch") == 3
    losses, lone = made.pop("training"), made_alone.pop("training")
    assert losses == pytest.approx(lone, abs=2e-6)
    assert made == made_alone


def test_several_at_a_time_give_the_files_of_one_at_a_time(
    train: Train, paintings: Path, tmp_path: Path, groups: list[int]
) -> None:
    """And are theirs also in the eyes of the next run, which makes nothing again."""
    one, out = tmp_path / "one", tmp_path / "together"
    assert train(paintings, "--each", "-o", one).status == 0
    done = train(paintings, "--each", "--batch", 3, "-o", out)
    assert done.summary["counts"] == {"done": 4, "items": 4}
    assert groups == [1, 1, 1, 1, 3, 1]
    for name in NAMES:
        assert_alike(out / f"{name}.safetensors", one / f"{name}.safetensors")
    again = train(paintings, "--each", "-o", out)
    assert again.summary["counts"] == {"skipped": 4, "items": 4}
    assert train("--each", "--batch", 3, "-o", out, paintings / "a.png").status == 0


def test_a_bad_picture_a_bad_caption_and_a_strange_state_fail_alone(
    train: Train, paintings: Path, tmp_path: Path, groups: list[int]
) -> None:
    out = tmp_path / "loras"
    (paintings / "a.png").write_bytes((paintings / "a.png").read_bytes()[:100])
    (paintings / "b.txt").write_bytes(b"\xff\xfe\xff")
    done = train(paintings, "--each", "--batch", 4, "-o", out)
    assert done.status == 3
    assert groups == [2]
    errors = {row["inputs"][0]["name"]: row["error"] for row in done.rows[:-1]}
    assert "a.png" in errors["a.png"]["what"]
    assert "b.txt cannot be read" in errors["b.png"]["what"]
    assert errors["c.png"] is errors["d.png"] is None
    (out / ".b.safetensors.state.safetensors").write_bytes(b"damaged")
    (paintings / "b.txt").unlink()
    draw(paintings / "a.png", seed=0)
    again = train(paintings, "--each", "--batch", 4, "-o", out)
    assert again.summary["counts"] == {"done": 1, "failed": 1, "skipped": 2, "items": 4}
    assert "not a checkpoint" in next(
        row["error"]["what"] for row in again.rows if row.get("error")
    )
    assert train(paintings, "--each", "--batch", 4, "-o", out, "--overwrite").status == 0


def test_lack_of_memory_halves_the_group_and_then_keeps_less(
    train: Train, paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, int, bool]] = []
    real = lora.fit_together

    def small(backbone: Any, courses: Sequence[Any], own: Lora, *, rows: int, **given: Any) -> Any:
        tried.append((len(courses), rows, own.gradient_checkpointing))
        if rows > 1 or not own.gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(backbone, courses, own, rows=rows, **given)

    monkeypatch.setattr(lora, "fit_together", small)
    done = train(paintings, "--each", "--batch", 4, "-o", tmp_path / "loras")
    assert done.status == 0
    assert tried == [(4, 4, False), (2, 2, False), (1, 1, False)] + [(1, 1, True)] * 4
    for how in ("2 at a time", "1 at a time", "with gradient checkpointing"):
        assert f"from here on {how}" in done.err


def test_styles_of_other_settings_or_sizes_have_groups_of_their_own(
    train: Train, paintings: Path, tmp_path: Path, groups: list[int]
) -> None:
    """Words are each style's own."""
    draw(paintings / "wide.png", seed=5, size=(96, 32))
    rows = (
        {"style": "paintings/a.png", "prompt": "a red cat"},
        {"style": "paintings/b.png", "lora.rank": 2},
        {"style": "paintings/wide.png"},
        {"style": "paintings/c.png"},
        {"style": "paintings/d.png", "lora.rank": 2},
    )
    file = listed(tmp_path / "styles.jsonl", *rows)
    assert train("--manifest", file, "--batch", 2, "-o", tmp_path / "loras").status == 0
    assert sorted(groups) == [1, 2, 2]
    _, header = read(tmp_path / "loras" / "a.safetensors")
    assert header["modelspec.trigger_phrase"] == "a red cat"


def test_an_interrupted_group_goes_on_to_the_same_bytes(
    train: Train, paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = ("--each", "--batch", 4, "--steps", 4)
    assert train(paintings, *every, "-o", tmp_path / "whole").status == 0
    save, saved = lora_state.save, []

    def stop(file: Path, *rest: Any) -> None:
        save(file, *rest)
        saved.append(file)
        if len(saved) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(lora_state, "save", stop)
    out = tmp_path / "loras"
    assert train(paintings, *every, "-o", out).status == 130
    assert len(list(out.glob(".*.state*"))) == 4
    assert not loras(out)
    assert train(paintings, *every, "-o", out).status == 0
    assert len(saved) == 12, "the first two steps were not learned again"
    assert not list(out.glob(".*.state*"))
    assert loras(out) == loras(tmp_path / "whole")


def test_a_killed_group_goes_on(paintings: Path, recipe: Path, tmp_path: Path) -> None:
    """A kill may part them, so that some are a few steps ahead: then in the last bits alone."""
    out = tmp_path / "killed"

    def job(folder: Path) -> subprocess.Popen[str]:
        return start("train-lora", paintings, "--each", "--batch", "4", "-o", f"{folder}/", "-r",
                     recipe, "--steps", "40", "--set", "lora.save_every=10")  # fmt: skip

    killed = job(out)
    wait_for(lambda: len(list(out.glob(".*.state*"))) == 4, killed)
    killed.send_signal(signal.SIGKILL)
    finish(killed)
    assert not loras(out)
    assert finish(job(out)).status == 0
    assert not list(out.glob(".*.state*"))
    assert finish(job(tmp_path / "whole")).status == 0
    for name in NAMES:
        ours, theirs = (
            read(where / f"{name}.safetensors")[0] for where in (out, tmp_path / "whole")
        )
        assert all(torch.allclose(ours[k], theirs[k], rtol=0, atol=2 * LAST_PLACE) for k in ours)


def test_a_launcher_trains_groups_too(paintings: Path, recipe: Path, tmp_path: Path) -> None:
    (paintings / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rest = ("--each", "--batch", "3", "-r", recipe, *FEW, "--set", "lora.batch=2")
    done = finish(launch(2, paintings, "-o", tmp_path / "two", *rest))
    assert done.summary["counts"] == {"done": 3, "failed": 1, "items": 4}
    assert finish(start("train-lora", paintings, "-o", tmp_path / "one", *rest)).status == 3
    assert loras(tmp_path / "two").keys() == loras(tmp_path / "one").keys()
    for name in "acd":
        ours, theirs = (
            read(tmp_path / folder / f"{name}.safetensors")[0] for folder in ("two", "one")
        )
        assert all(torch.allclose(ours[k], theirs[k], rtol=0, atol=LAST_PLACE) for k in ours)
