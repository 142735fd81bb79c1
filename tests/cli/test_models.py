"""`style models` and `style doctor`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from stylecli.backbone import registry
from stylecli.engine import doctor
from stylecli.engine.doctor import Check
from tests.conftest import Style


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped backbone called `mine`, of one file, without recorded hashes."""
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    source = registry.Source(name="mine", licence="MIT", folder=tmp_path)
    monkeypatch.setattr(registry, "SOURCES", {"mine": source})
    return tmp_path


def test_models_list_says_what_is_here(style: Style) -> None:
    rows = {row["backbone"]: row for row in style("models", "list", "--json").rows[:-1]}
    assert rows["pocket"]["present"] is True
    assert rows.keys() == registry.SOURCES.keys()


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
