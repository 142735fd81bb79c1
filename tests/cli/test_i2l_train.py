"""`style i2l-train`: resumed as if nothing had been, refused in words, told of in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.artifacts import store
from stylecli.engine.i2l import predictors
from stylecli.engine.i2l.training import pupil, steps
from stylecli.engine.training.state import STATE, folder_of, log_of
from stylecli.recipe.i2l import I2L
from tests.cli.conftest import draw, finish, start
from tests.cli.test_train_many import wait_for
from tests.conftest import ROOT, Outcome, Style

pytestmark = pytest.mark.slow

STYLES, PICTURES = 6, 4
RECIPE = """\
backbone: {{id: {folder}}}
i2l:
  layer_set: attn2
  encoder: {{id: random-patch, pool_tokens: 2}}
  predictor: {{d: 16, depth: 1, heads: 2, ff: 32, bottleneck: 8, rank: 2}}
  data: {{resolution: 32, n_refs: {{max: 2}}}}
  train: {{lr: 1.0e-3, warmup: 2, global_batch: 2, targets_per_style: 2, steps: 12, ema: 0.9,
          save_every: 2, keep: 2}}
  validation: {{every: 6, tuples: 4, sigmas: 2, images_every: 100}}
"""
FEW = ("--steps", 4, "--set", "i2l.validation.every=100")
Train = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _quick_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylecli.engine.i2l.training.sheets.STEPS", 1)
    monkeypatch.setattr("stylecli.engine.i2l.training.sheets.STYLES", 1)
    monkeypatch.setattr("stylecli.engine.i2l.training.course.ROW_STEPS", 4)


@pytest.fixture(scope="module")
def recipe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("i2l") / "tiny.yaml"
    file.write_text(RECIPE.format(folder=tiny_folder))
    return file


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for style in range(STYLES):
        for number in range(PICTURES):
            name = f"{style}-{number}.png"
            draw(folder / name, seed=style * 10 + number, size=(32, 32))
            rows.append(
                {
                    "id": name,
                    "style_id": f"s{style}",
                    "image": name,
                    "caption": "a red cat" if number % 2 else f"a blue dog {number}",
                    "width": 32,
                    "height": 32,
                    "sha256": store.file_sha256(folder / name),
                    "split": "test" if style >= STYLES - 2 else "train",
                }
            )
    (folder / "items.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def train(style: Style, dataset: Path, recipe: Path) -> Train:
    def run(*arguments: object) -> Outcome:
        return style("i2l-train", dataset, "-r", recipe, *arguments, "--json")

    return run


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Interrupt every training before its step of this number; None lets it go on."""
    real = steps.Trainer.step
    where: list[int | None] = [None]

    def step(trainer: Any) -> Any:
        if trainer.done == where[0]:
            raise KeyboardInterrupt
        return real(trainer)

    monkeypatch.setattr(steps.Trainer, "step", step)
    return lambda number: where.__setitem__(0, number)


def parameters(file: Path) -> dict[str, Tensor]:
    return predictors.load(file)[0].state_dict()


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_of(file).read_text().splitlines()]


def test_a_training_leaves_a_predictor_a_log_a_sheet_and_nothing_to_do(
    train: Train, tmp_path: Path
):
    file = tmp_path / "p.safetensors"
    done = train("-o", file)
    assert done.status == 0, done.err
    assert "directions" in done.err
    predictor, config = predictors.load(file)
    assert (config.layer_set, config.shape.rank, config.encoder.id) == ("attn2", 2, "random-patch")
    assert config.training["max_references"] == 2
    assert any(bool(up[1::2].any()) for up in predictor.heads.up.values())
    details = done.rows[0]["details"]
    assert details.keys() == {"d_base", "d_mis", "d_grey"}
    said = store.read_provenance(file)
    assert said is not None
    assert said["recipe"]["i2l"]["train"]["steps"] == 12
    assert str(tmp_path) not in json.dumps(said)
    log = rows(file)
    assert log[0]["step"] == 0
    assert [row["step"] for row in log if "loss" in row] == [4, 8, 12]
    assert [row["step"] for row in log if "d_mis" in row] == [0, 6, 12]
    assert {"effective_rank", "change", "alike"} <= log[-1].keys()
    assert [entry.name for entry in folder_of(file).iterdir()] == ["sheet-00000012.png"]
    again = train("-o", file)
    assert again.summary["counts"] == {"skipped": 1, "items": 1}
    written = train("-o", file, "--set", "i2l.dtype=float32", "--set", "i2l.format=kohya")
    assert written.summary["counts"] == {"skipped": 1, "items": 1}
    other = train("-o", file, *FEW)
    assert other.status == 3
    assert "--overwrite" in other.rows[0]["error"]["fix"]


def test_interrupted_at_step_seven_of_twelve_it_ends_in_the_same_bytes(
    train: Train, tmp_path: Path, stop_at: Callable[[int | None], None]
):
    whole, halves = tmp_path / "whole.safetensors", tmp_path / "halves.safetensors"
    assert train("-o", whole).status == 0
    stop_at(7)
    assert train("-o", halves).status == 130
    assert not halves.exists()
    kept = sorted(entry.name for entry in folder_of(halves).iterdir())
    assert kept == ["step-00000006", "step-00000007"]
    usable = folder_of(halves) / "step-00000007" / "predictor.safetensors"
    assert predictors.load(usable)[1].training["steps"] == 7
    stop_at(None)
    assert train("-o", halves).status == 0
    assert halves.read_bytes() == whole.read_bytes()
    assert rows(halves) == rows(whole)
    assert not list(folder_of(halves).glob("step-*"))


def test_other_settings_are_refused_unless_forced_or_begun_again(
    train: Train, tmp_path: Path, stop_at: Callable[[int | None], None]
):
    file, fresh = tmp_path / "p.safetensors", tmp_path / "fresh.safetensors"
    stop_at(3)
    assert train("-o", file, *FEW).status == 130
    stop_at(None)
    faster = (*FEW, "--set", "i2l.train.lr=2e-3")
    refused = train("-o", file, *faster)
    assert refused.status == 2
    assert "other settings" in refused.summary["error"]["what"]
    assert "--force-resume" in refused.summary["error"]["fix"]
    assert (folder_of(file) / "step-00000003" / STATE).is_file()
    larger = train("-o", file, *FEW, "--set", "i2l.predictor.rank=1", "--force-resume")
    assert larger.status == 4
    assert "another size" in larger.summary["error"]["what"]
    # Looking more often is no other training, and neither is going on for longer.
    stop_at(4)
    assert train("-o", file, "--steps", 9, "--set", "i2l.validation.every=3").status == 130
    stop_at(None)
    assert train("-o", file, *faster, "--force-resume").status == 0
    forced = parameters(file)
    assert train("-o", fresh, *faster).status == 0
    assert any(not torch.equal(v, forced[k]) for k, v in parameters(fresh).items())
    stop_at(3)
    assert train("-o", file, *FEW, "--overwrite").status == 130
    stop_at(None)
    assert train("-o", file, *faster, "--overwrite").status == 0
    assert file.read_bytes() == fresh.read_bytes()


def test_it_begins_as_the_predictor_it_is_given(train: Train, tmp_path: Path, recipe: Path):
    first, then = tmp_path / "first.safetensors", tmp_path / "then.safetensors"
    assert train("-o", first, "--steps", 2).status == 0
    still = ("--set", "i2l.train.lr=1e-30", "--set", "i2l.train.weight_decay=0", "--steps", 1)
    done = train("-o", then, "--init", first, *still)
    assert done.status == 0, done.err
    assert all(torch.equal(v, parameters(first)[k]) for k, v in parameters(then).items())
    said = store.read_provenance(then)
    assert said is not None
    assert [item["role"] for item in said["inputs"]] == ["dataset", "predictor"]
    larger = train("-o", tmp_path / "x.safetensors", "--init", first, "--set",
                   "i2l.predictor.rank=1")  # fmt: skip
    assert larger.status == 2
    assert "size" in larger.summary["error"]["what"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("-o", "folder/"), 2, "is a folder, and there is one predictor"),
        (("-o", "p.pt"), 2, "cannot write .pt"),
        (("-o", "p.safetensors", "--init", "none.safetensors"), 4, "none.safetensors"),
        (("-o", "p.safetensors", "--set", "i2l.layer_set=full"), 2, "layer_set full"),
        (("-o", "p.safetensors", "--set", "i2l.train.time_shift=3"), 2, "time_shift"),
        (("-o", "p.safetensors", "--set", "i2l.predictor.bottleneck=4"), 2, "bottleneck"),
        (("-o", "p.safetensors", "--set", "i2l.encoder.id=nothing"), 2, "nothing"),
        (("-o", "p.safetensors", "--engine", "ray"), 2, "one predictor"),
        (("-o", "p.safetensors", "--set", "i2l.data.resolution=33"), 2, "no multiple of"),
        (("-o", "p.safetensors", "--set", "i2l.validation.tuples=1"), 2, "i2l.validation.tuples"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    status: int,
    said: str,
):
    monkeypatch.chdir(tmp_path)
    done = train(*arguments)
    assert (done.status, said in done.summary["error"]["what"]) == (status, True), done.err
    assert done.summary["error"]["fix"]


def test_a_set_that_is_not_there_or_has_nothing_to_learn_is_refused(
    style: Style, recipe: Path, dataset: Path, tmp_path: Path
):
    missing = style("i2l-train", tmp_path / "no", "-o", tmp_path / "p.safetensors", "-r", recipe)
    assert missing.status == 2
    assert "items.jsonl" in missing.err
    first = (dataset / "items.jsonl").read_text().splitlines()[0]
    (tmp_path / "items.jsonl").write_text(first + "\n")
    (tmp_path / "0-0.png").write_bytes((dataset / "0-0.png").read_bytes())
    alone = style("i2l-train", tmp_path, "-o", tmp_path / "p.safetensors", "-r", recipe)
    assert alone.status == 2
    assert "two pictures" in alone.err


def test_settings_of_prediction_are_none_of_training():
    """A new one that is none of training's fails here."""
    sections = set(pupil.decisive(I2L()))
    assert sections == {"layer_set", "encoder", "predictor", "data", "train"}


def test_a_dry_run_tells_the_plan_and_does_nothing(train: Train, tmp_path: Path):
    done = train("-o", tmp_path / "p.safetensors", "--dry-run")
    assert done.status == 0
    assert done.rows[0]["recipe"]["i2l"]["train"]["steps"] == 12
    assert "16 pictures of 4 styles, 8 held out" in done.err
    assert not list(tmp_path.iterdir())


def test_a_picture_that_changed_ends_the_training_by_its_name(
    style: Style, recipe: Path, dataset: Path, tmp_path: Path
):
    for file in dataset.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    draw(tmp_path / "2-1.png", seed=99, size=(32, 32))
    done = style("i2l-train", tmp_path, "-o", tmp_path / "p.safetensors", "-r", recipe, "--json")
    assert done.status == 3
    assert "2-1.png" in done.rows[0]["error"]["what"]


def test_out_of_memory_it_takes_less_and_goes_on_from_where_it_was(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, tried = steps.Trainer.gradients, []

    def gradients(trainer: Any) -> Any:
        is_frugal, rows = trainer.predictor.is_frugal, trainer._at_once
        if trainer.done == 3 and (rows > 1 or not is_frugal):
            raise torch.OutOfMemoryError("CUDA out of memory")
        tried.append((trainer.done, is_frugal, rows))
        return real(trainer)

    monkeypatch.setattr(steps.Trainer, "gradients", gradients)
    done = train("-o", tmp_path / "p.safetensors", *FEW)
    assert done.status == 0, done.err
    assert [step for step, *_ in tried] == list(range(4)), "no step is learned twice"
    assert {one[1:] for one in tried[:3]} == {(False, 2)}
    assert {one[1:] for one in tried[3:]} == {(True, 1)}
    for how in ("computing blocks twice", "1 styles at a time"):
        assert how in done.err


@pytest.mark.timeout(300)
def test_killed_it_goes_on_to_the_same_bytes(
    train: Train, dataset: Path, recipe: Path, tmp_path: Path
):
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    often = ("--set", "i2l.validation.tuples=2", "--set", "i2l.validation.every=100")
    process = start("i2l-train", dataset, "-o", killed, "-r", recipe, *often)
    wait_for((folder_of(killed) / "step-00000002" / STATE).exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not killed.exists()
    assert train("-o", killed, *often).status == 0
    assert train("-o", whole, *often).status == 0
    assert killed.read_bytes() == whole.read_bytes()


@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_does(dataset: Path, recipe: Path, tmp_path: Path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    rest = ("-r", recipe, "--steps", "6", "--set", "i2l.validation.tuples=9")
    assert finish(start("i2l-train", dataset, "-o", one, *rest)).status == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", "29577", "-m", "stylecli", "i2l-train",
               *map(str, (dataset, "-o", two, *rest))]  # fmt: skip
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = parameters(one), parameters(two)
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-4) for k in ours)
    told, alone = ([row for row in rows(file) if "loss" in row] for file in (two, one))
    assert told[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=1e-4)
