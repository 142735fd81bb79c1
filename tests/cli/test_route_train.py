"""`style route-train`: resumed as if nothing had been, refused in words, told of in files."""

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
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from stylecli.artifacts import store
from stylecli.artifacts.store import file_sha256
from stylecli.engine.route import experts
from stylecli.engine.route.training import settings as deciding
from stylecli.engine.route.training import steps
from stylecli.engine.training.state import STATE, folder_of, log_of
from stylecli.errors import DiskFullError
from stylecli.recipe.route import Route
from tests.cli.conftest import finish, start
from tests.cli.test_train_many import wait_for
from tests.conftest import ROOT, Outcome, Style
from tests.engine.route.training import toy

pytestmark = pytest.mark.slow

RECIPE = """\
backbone: {{id: {folder}}}
route:
  lora: {{rank: 2}}
  train: {{lr: 1.0e-3, micro_batch: 2, accumulation: 2, steps: 6, save_every: 2, keep: 2}}
  validation: {{every: 3, pairs: 1, levels: 1, images_every: 100, images: 1}}
  apply: {{steps: 1}}
"""
FEW = ("--steps", 4, "--set", "route.validation.every=100", "--styles", "line_art")
Train = Callable[..., Outcome]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("route")
    toy.dataset(folder / "pairs")
    (folder / "tiny.yaml").write_text(RECIPE.format(folder=toy.saved(folder)))
    return folder


@pytest.fixture
def train(style: Style, world: Path) -> Train:
    def run(*arguments: object) -> Outcome:
        return style(
            "route-train", world / "pairs", "-r", world / "tiny.yaml", *arguments, "--json"
        )

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


def tensors(folder: Path, style_id: str = "line_art") -> dict[str, Tensor]:
    return load_file(folder / f"{style_id}.safetensors")


def rows(folder: Path, style_id: str = "line_art") -> list[dict[str, Any]]:
    text = log_of(folder / f"{style_id}.safetensors").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_training_leaves_experts_an_index_logs_curves_attention_and_nothing_to_do(
    train: Train, world: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "experts"
    done = train("-o", folder)
    assert done.status == 0, done.err
    assert "8 pairs of line_art, pixel_art, 4 held out" in done.err
    found = experts.read(folder)
    assert [one.id for one in found.experts] == ["line_art", "pixel_art"]
    one = found.of("line_art")
    assert (one.phrase, one.aliases, one.rank, one.alpha) == ("line-art", ("lineart",), 2, 2.0)
    assert (one.target_set, one.text_length) == ("attn", 77)
    assert one.base["name"] == toy.saved(world).name
    assert one.training["steps"] == 6
    assert one.training["pairs"] == 4
    assert one.training["expert"]["inside"] > 0
    assert found.file("line_art") == folder / "line_art.safetensors"
    assert any(bool(v.any()) for k, v in tensors(folder).items() if "lora_B" in k)
    assert {v.dtype for v in tensors(folder).values()} == {torch.float32}
    said = store.read_provenance(folder / "line_art.safetensors")
    assert said is not None
    assert said["recipe"]["route"]["train"]["steps"] == 6
    assert str(tmp_path) not in json.dumps(said)
    for style_id in ("line_art", "pixel_art"):
        log = rows(folder, style_id)
        assert [row["step"] for row in log if "loss" in row] == [6]
        assert [row["step"] for row in log if "expert" in row] == [0, 3, 6]
        assert (folder / f"{style_id}.curves.png").is_file()
        kept = folder_of(folder / f"{style_id}.safetensors")
        assert [entry.name for entry in kept.iterdir()] == ["attention-00000006.png"]
    again = train("-o", folder)
    assert again.summary["counts"] == {"skipped": 2, "items": 2}
    other = train("-o", folder, *FEW)
    assert other.status == 3
    assert "--overwrite" in other.rows[0]["error"]["fix"]


def test_a_style_alone_is_the_same_and_adding_one_changes_no_other_byte(
    train: Train, tmp_path: Path
) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    assert train("-o", both, "--steps", 2).status == 0
    assert train("-o", one, "--steps", 2, "--styles", "pixel_art").status == 0
    name = "pixel_art.safetensors"
    assert (both / name).read_bytes() == (one / name).read_bytes()
    before = (one / name).read_bytes()
    index = (one / experts.INDEX).read_text()
    assert train("-o", one, "--steps", 2, "--styles", "all").status == 0
    assert (one / name).read_bytes() == before
    assert (one / "line_art.safetensors").read_bytes() == (
        both / "line_art.safetensors"
    ).read_bytes()
    entry = next(line for line in index.splitlines() if "pixel_art" in line)
    assert entry.rstrip(",") in (one / experts.INDEX).read_text()


def test_interrupted_at_step_five_of_six_it_ends_in_the_same_bytes(
    train: Train, tmp_path: Path, stop_at: Callable[[int | None], None]
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train("-o", whole).status == 0
    stop_at(5)
    assert train("-o", halves).status == 130
    for style_id in ("line_art", "pixel_art"):
        file = halves / f"{style_id}.safetensors"
        assert not file.exists()
        kept = sorted(entry.name for entry in folder_of(file).iterdir())
        assert kept == ["step-00000004", "step-00000005"]
        usable = folder_of(file) / "step-00000005" / "expert.safetensors"
        assert load_file(usable).keys() == tensors(whole, style_id).keys()
    stop_at(None)
    assert train("-o", halves).status == 0
    for style_id in ("line_art", "pixel_art"):
        name = f"{style_id}.safetensors"
        assert (halves / name).read_bytes() == (whole / name).read_bytes()
        assert rows(halves, style_id) == rows(whole, style_id)
        assert not list(folder_of(halves / name).glob("step-*"))
    assert (halves / experts.INDEX).read_bytes() == (whole / experts.INDEX).read_bytes()


def test_other_settings_are_refused_unless_forced_or_begun_again(
    train: Train, tmp_path: Path, stop_at: Callable[[int | None], None]
) -> None:
    folder, fresh = tmp_path / "experts", tmp_path / "fresh"
    stop_at(3)
    assert train("-o", folder, *FEW).status == 130
    stop_at(None)
    faster = (*FEW, "--set", "route.train.lr=2e-3")
    refused = train("-o", folder, *faster)
    assert refused.status == 2
    assert "other settings" in refused.summary["error"]["what"]
    assert "--force-resume" in refused.summary["error"]["fix"]
    larger = train("-o", folder, *FEW, "--set", "route.lora.rank=1", "--force-resume")
    assert larger.status == 4
    assert "another size" in larger.summary["error"]["what"]
    # Looking more often is no other training, and neither is going on for longer.
    stop_at(4)
    longer = ("--steps", 9, "--styles", "line_art", "--set", "route.validation.every=3")
    assert train("-o", folder, *longer).status == 130
    stop_at(None)
    assert train("-o", folder, *faster, "--force-resume").status == 0
    assert train("-o", fresh, *faster).status == 0
    forced = tensors(folder)
    assert any(not torch.equal(v, forced[k]) for k, v in tensors(fresh).items())
    assert train("-o", folder, *faster, "--overwrite").status == 0
    assert all(torch.equal(v, tensors(folder)[k]) for k, v in tensors(fresh).items())


def test_a_checkpoint_in_the_way_of_one_style_is_refused_before_another_learns(
    train: Train, tmp_path: Path, stop_at: Callable[[int | None], None]
) -> None:
    folder = tmp_path / "experts"
    stop_at(1)
    assert train("-o", folder, *FEW).status == 130
    stop_at(None)
    refused = train("-o", folder, "--set", "route.train.lr=2e-3")
    assert (refused.status, "other settings" in refused.summary["error"]["what"]) == (2, True)
    assert not log_of(folder / "pixel_art.safetensors").exists()


def test_an_expert_is_done_only_with_its_entry_in_the_index(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experts"
    file = folder / "line_art.safetensors"

    def full(_: object) -> str:
        raise DiskFullError("no room", fix="make some")

    def no_step(_: object) -> None:
        raise AssertionError("all steps were done")

    with monkeypatch.context() as patch:
        patch.setattr(experts, "_as_text", full)
        assert train("-o", folder, *FEW).status == 3
    assert not file.exists()
    with monkeypatch.context() as patch:
        patch.setattr(steps.Trainer, "step", no_step)
        assert train("-o", folder, *FEW).status == 0
    assert experts.read(folder).file("line_art") == file
    (folder / experts.INDEX).unlink()
    refused = train("-o", folder, *FEW)
    assert (refused.status, f"rm {file}" in refused.summary["error"]["fix"]) == (4, True)


def test_objects_that_are_all_smaller_than_a_cell_are_refused(
    style: Style, world: Path, tmp_path: Path
) -> None:
    folder = toy.dataset(tmp_path / "pairs")
    for mask in (folder / "masks").iterdir():
        point = Image.new("1", (toy.PX, toy.PX))
        point.putpixel((9, 9), 1)
        point.save(mask)
    found = [
        row | {"sha256": {**row["sha256"], "mask": file_sha256(folder / row["edits"][0]["mask"])}}  # type: ignore[dict-item, index]
        for row in toy.lines(folder)
    ]
    toy.write(folder, found, toy.STYLES)
    done = style("route-train", folder, "-o", tmp_path / "e", "-r", world / "tiny.yaml", "--json")
    assert (done.status, "smaller than a cell" in done.summary["error"]["what"]) == (2, True)
    assert not log_of(tmp_path / "e" / "line_art.safetensors").exists()


def test_styles_may_have_spaces_between_them(train: Train, tmp_path: Path) -> None:
    done = train("-o", tmp_path / "e", "--dry-run", "--styles", "line_art, pixel_art")
    assert done.rows[0]["recipe"]["route"]["train"]["styles"] == ["line_art", "pixel_art"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("-o", "e.safetensors"), 2, "is a file, and experts are a folder"),
        (("-o", "e/", "--styles", "lineart"), 2, "has no style lineart"),
        (("-o", "e/", "--set", "route.lora.targets=double"), 2, "targets double"),
        (("-o", "e/", "--set", "route.loss.layers=nothing"), 2, "nothing"),
        (("-o", "e/", "--set", "backbone.quantize=int8"), 2, "quantize"),
        (("-o", "e/", "--engine", "ray"), 2, "this makes experts"),
        (("-o", "e/", "--dtype", "float16"), 2, "float16"),
        (("-o", "e/", "--backbone", "sd15"), 2, "draws from words alone"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = train(*arguments)
    assert (done.status, said in done.summary["error"]["what"]) == (status, True), done.err
    assert done.summary["error"]["fix"]


def test_a_set_without_pairs_or_with_words_too_long_is_refused(
    style: Style, world: Path, tmp_path: Path
) -> None:
    recipe = world / "tiny.yaml"
    missing = style("route-train", tmp_path / "no", "-o", tmp_path / "e", "-r", recipe)
    assert missing.status == 2
    assert "no finished set" in missing.err
    folder = toy.dataset(tmp_path / "pairs")
    whole = toy.lines(folder)
    toy.write(folder, [row | {"split": "val"} for row in whole], toy.STYLES)
    held = style("route-train", folder, "-o", tmp_path / "e", "-r", recipe)
    assert held.status == 2
    assert "no pair to learn line_art from" in held.err
    long = [row | {"prompt": str(row["prompt"]) + " and on" * 20} for row in whole]
    toy.write(folder, long, toy.STYLES)
    said = style("route-train", folder, "-o", tmp_path / "e", "-r", recipe)
    assert said.status == 2
    assert "tokens" in said.err


def test_settings_of_making_and_using_are_none_of_training() -> None:
    """A new one that is none of training's fails here."""
    said = deciding.decisive(Route())
    assert set(said) == {"text_length", "data", "lora", "loss", "train"}
    assert set(said["data"]) == {"resolution"}


def test_a_dry_run_tells_the_plan_and_does_nothing(train: Train, tmp_path: Path) -> None:
    done = train("-o", tmp_path / "e", "--dry-run", "--profile", "reference")
    assert done.status == 0, done.err
    assert done.rows[0]["recipe"]["route"]["loss"]["focus"] == "raw"
    assert not list(tmp_path.iterdir())


def test_a_picture_that_changed_ends_the_training_by_its_name(
    style: Style, world: Path, tmp_path: Path
) -> None:
    folder = toy.dataset(tmp_path / "pairs")
    target = folder / "targets" / "line_art" / "1_thing.png"
    target.write_bytes((folder / "images" / "1.png").read_bytes())
    done = style("route-train", folder, "-o", tmp_path / "e", "-r", world / "tiny.yaml",
                 "--steps", 1, "--json")  # fmt: skip
    assert done.status == 3
    by_name = {Path(row["output"]).stem: row for row in done.rows[:-1]}
    assert "1_thing.png" in by_name["line_art"]["error"]["what"]
    assert by_name["pixel_art"]["status"] == "done", "the other style is none the worse"


def test_out_of_memory_it_takes_less_and_goes_on_from_where_it_was(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = steps.Trainer.gradients, []

    def gradients(trainer: Any) -> Any:
        if trainer.done == 3 and trainer._at_once > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        tried.append((trainer.done, trainer._at_once))
        return real(trainer)

    monkeypatch.setattr(steps.Trainer, "gradients", gradients)
    done = train("-o", tmp_path / "e", *FEW)
    assert done.status == 0, done.err
    assert tried == [(0, 2), (1, 2), (2, 2), (3, 1)], "no step is learned twice"
    for how in ("computing blocks twice", "1 pairs at a time"):
        assert how in done.err


@pytest.mark.timeout(300)
def test_killed_it_goes_on_to_the_same_bytes(train: Train, world: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    few = ("--set", "route.validation.every=100", "--styles", "line_art")
    process = start("route-train", world / "pairs", "-o", killed, "-r", world / "tiny.yaml", *few)
    file = killed / "line_art.safetensors"
    wait_for((folder_of(file) / "step-00000002" / STATE).exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not file.exists()
    assert train("-o", killed, *few).status == 0
    assert train("-o", whole, *few).status == 0
    for name in (file.name, experts.INDEX):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_does(world: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    rest = ("-r", world / "tiny.yaml", "--set", "route.validation.pairs=2")
    assert finish(start("route-train", world / "pairs", "-o", one, *rest)).status == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", "29578", "-m", "stylecli", "route-train",
               *map(str, (world / "pairs", "-o", two, *rest))]  # fmt: skip
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    for style_id in ("line_art", "pixel_art"):
        ours, theirs = tensors(one, style_id), tensors(two, style_id)
        assert all(torch.allclose(ours[k], theirs[k], atol=1e-4) for k in ours)
        told, alone = rows(two, style_id)[-1], rows(one, style_id)[-1]
        assert told["expert"]["pixels"] == pytest.approx(alone["expert"]["pixels"], rel=1e-3)
