"""`style models` and `style doctor`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from stylecli.backbone import registry
from stylecli.engine import doctor
from stylecli.engine.doctor import Check
from stylecli.evaluation.published import WEIGHTS
from tests.conftest import Style

LIST = """
import sys
import tarfile
from stylecli.cli.app import main
status = main(["models", "list"])
heavy = ("diffusers", "open_clip", "peft", "torchvision", "transformers")
sys.exit(status or ", ".join(name for name in heavy if name in sys.modules) or 0)
"""


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped backbone called `mine`, of one file, without recorded hashes."""
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    source = registry.Source(name="mine", licence="MIT", folder=tmp_path)
    monkeypatch.setattr(registry, "SOURCES", {"mine": source})
    return tmp_path


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose libraries have fetched nothing; returns a folder for metric weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "weights"


def test_models_list_says_what_is_here(style: Style) -> None:
    rows = style("models", "list", "--json").rows[:-1]
    backbones = {row["backbone"]: row for row in rows if row["kind"] == "backbone"}
    assert backbones["pocket"]["present"] is True
    assert backbones.keys() == registry.SOURCES.keys()


def test_models_list_has_the_metrics_after_the_backbones(style: Style, bare: Path) -> None:
    rows = style("models", "list", "--json").rows[:-1]
    names = [*registry.SOURCES, *(f"metrics/{name}" for name in WEIGHTS)]
    assert [row["name"] for row in rows] == names
    metrics = rows[len(registry.SOURCES) :]
    assert {row["kind"] for row in metrics} == {"metric"}
    for row, weights in zip(metrics, WEIGHTS.values(), strict=True):
        assert (row["present"], row["file"]) == (False, None)
        assert (row["licence"], row["megabytes"]) == (weights.licence, weights.megabytes)
        assert row["url"].startswith("https://")
        assert row["repositories"] == ([weights.repository] if weights.repository else [])


def test_models_list_finds_metrics_where_an_evaluation_would(style: Style, bare: Path) -> None:
    file = bare / "inception" / "weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert " ".join(line_of(style("models", "list").out, "metrics/inception").split()) == (
        f"metrics/inception missing Apache-2.0 96 MB {WEIGHTS['inception'].url}"
    )
    said = style("models", "list", "--weights-dir", bare).out
    assert line_of(said, "metrics/inception").split()[1] == "here"
    assert line_of(said, "metrics/vgg16").split()[1] == "missing"
    rows = {r.get("name"): r for r in style("models", "list", "--json", "--weights-dir", bare).rows}
    assert rows["metrics/inception"]["file"] == str(file)


def line_of(text: str, name: str) -> str:
    (line,) = (line for line in text.splitlines() if line.split()[0] == name)
    return line


@pytest.mark.slow
def test_models_list_loads_no_library_of_models() -> None:
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_metric_weights_are_pulled_then_verified(
    style: Style, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(repository: str, name: str, *, local_dir: Path) -> str:
        assert (repository, name) == ("facebook/dinov2-base", "model.safetensors")
        save_file({"weight": torch.ones(3)}, local_dir / name)
        return str(local_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    file = bare / "dino" / "dinov2-base" / "model.safetensors"
    name = "metrics/dinov2-base"
    pulled = style("models", "pull", name, "--weights-dir", bare)
    assert (pulled.status, pulled.out) == (0, f"{file}\n")
    (row, _) = style("models", "pull", name, "--weights-dir", bare, "--json").rows
    assert (row["name"], row["output"], row["bytes"]) == (name, str(file), file.stat().st_size)
    assert style("models", "verify", name, "--weights-dir", bare).out == f"ok  {file}\n"
    (row, _) = style("models", "verify", name, "--weights-dir", bare, "--json").rows
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (row["file"], row["sha256"], row["ok"]) == (str(file), digest, True)
    save_file({"weight": torch.zeros(3)}, file)
    changed = style("models", "verify", name, "--weights-dir", bare)
    assert (changed.status, digest[:12] in changed.err, changed.out) == (4, True, "")


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_absent_metric_weights_end_with_4_and_name_file_and_place(
    name: str, style: Style, bare: Path
) -> None:
    done = style("models", "verify", f"metrics/{name}", "--weights-dir", bare)
    assert done.status == 4
    weights = WEIGHTS[name]
    assert str(bare / weights.family / weights.file) in done.err
    assert f"style models pull metrics/{name}" in done.err


@pytest.mark.mostly_slow
def test_several_are_pulled_and_one_that_is_unknown_stops_all(style: Style) -> None:
    done = style("models", "pull", "pocket", "pocket-edit", "--json")
    assert done.status == 0, done.err
    assert [row["name"] for row in done.rows[:-1]] == ["pocket", "pocket-edit"]
    wrong = style("models", "pull", "pocket", "metrics/qwen", "--json")
    assert wrong.status == 2
    assert len(wrong.rows) == 1
    assert "did you mean metrics/qwen2.5-vl-7b?" in wrong.err


@pytest.mark.parametrize("verb", ["pull", "verify"])
@pytest.mark.parametrize(
    ("name", "near"), [("metrics/unknown", "metrics/"), ("inception", "metrics/inception?")]
)
def test_unknown_weights_are_answered_with_the_nearest(
    verb: str, name: str, near: str, style: Style, bare: Path
) -> None:
    done = style("models", verb, name)
    assert done.status == 2
    what, fix = done.err.splitlines()
    assert f"'{name}'" in what
    assert fix.startswith(f"fix    did you mean {near}")


@pytest.mark.parametrize("verb", ["pull", "verify"])
def test_a_folder_for_metric_weights_takes_no_backbone(verb: str, style: Style, bare: Path) -> None:
    done = style("models", verb, "pocket", "--weights-dir", bare)
    assert (done.status, "--weights-dir" in done.err) == (2, True)


@pytest.mark.slow
def test_verify_compares_every_recorded_hash(style: Style, backbone: Path) -> None:
    weights = backbone / "weights.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (backbone / "SHA256SUMS").write_text(f"{digest}  weights.safetensors\n")
    assert style("models", "verify", "mine").out == "ok  weights.safetensors\n"
    weights.write_bytes(b"other")
    changed = style("models", "verify", "mine")
    assert (changed.status, "weights.safetensors" in changed.err) == (4, True)


def test_nothing_to_compare_with_is_not_a_pass(style: Style, backbone: Path) -> None:
    done = style("models", "verify", "mine")
    assert done.status == 4
    assert "no hashes are recorded for mine" in done.err
    assert style("models", "verify", backbone).status == 2


def test_a_failed_check_ends_with_1_and_says_what_to_do(
    style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installation() -> Iterator[Check]:
        yield Check("version", None, "1")
        yield Check("speed", True, 0.25, "s", "at most 1", fix="buy a faster one")
        yield Check("error", False, float("inf"), bound="0", fix="mend it")

    monkeypatch.setattr(doctor, "installation", installation)
    done = style("doctor")
    assert done.status == 1
    assert [" ".join(line.split()) for line in done.out.splitlines()] == [
        "version 1",
        "pass speed 0.25 s (must be at most 1)",
        "FAIL error inf (must be 0) -> mend it",
    ]
    assert done.err.splitlines() == ["error  1 checks failed: error", "fix    mend it"]
    rows = style("doctor", "--json").rows
    assert [row.get("figure") for row in rows] == ["1", 0.25, None, None]
    assert [row.get("fix") for row in rows] == ["", "", "mend it", None]


@pytest.mark.mostly_slow
def test_a_bundle_is_made_and_told(
    style: Style, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bare / "dino" / "dinov2-base" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, file)
    command = ("models", "bundle", "metrics/dinov2-base", "-o", tmp_path / "w.tar")
    command = (*command, "--weights-dir", bare)
    (row, _) = style(*command, "--json").rows
    assert row["names"] == ["metrics/dinov2-base"]
    assert row["bytes"] == (tmp_path / "w.tar").stat().st_size
    assert row["licences"] == {"metrics/dinov2-base": "Apache-2.0"}
    again = style(*command)
    assert (again.status, "--overwrite" in again.err) == (3, True)
    with tarfile.open(tmp_path / "w.tar") as tar:
        tar.extractall(tmp_path / "there", filter="data")
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path / "there"))
    done = style("models", "verify", "metrics/dinov2-base")
    assert (done.status, str(tmp_path / "there") in done.out) == (0, True)
    absent = style("models", "bundle", "sd15", "-o", tmp_path / "no.tar")
    assert absent.status == 4
    assert not (tmp_path / "no.tar").exists()
