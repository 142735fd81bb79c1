"""The store of features: found by content, whole or not at all, and never a damaged row."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stylecli.artifacts import features
from stylecli.artifacts.features import FeatureStore
from stylecli.errors import UsageError
from tests.conftest import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "features.sqlite"


def test_what_was_put_is_found_again_by_another_process(path: Path) -> None:
    vector = np.linspace(-1, 1, 7, dtype=np.float32)
    with FeatureStore(path) as store:
        store.put({"a": vector})
    with FeatureStore(path) as store:
        found = store.get("a")
        assert found is not None
        assert found.tolist() == vector.tolist()
        assert store.get("b") is None
        assert store.missing(["b", "a", "b"]) == ["b"]


def test_a_renamed_file_is_known_and_an_edited_one_is_not(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"one")
    with FeatureStore(path) as store:
        before = store.file_digest(file)
        renamed = file.rename(tmp_path / "renamed")
        assert store.file_digest(renamed) == before
        renamed.write_bytes(b"One")
        assert store.file_digest(renamed) != before


def test_an_unchanged_file_is_not_read_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "picture"
    file.write_bytes(b"one")
    with FeatureStore(path) as store:
        before = store.file_digest(file)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", lambda *_, **__: pytest.fail("read again"))
            assert store.file_digest(file) == before
        seen = file.stat().st_mtime_ns
        file.write_bytes(b"two")
        os.utime(file, ns=(seen, seen))
        assert store.file_digest(file) != before


def test_a_row_that_was_damaged_counts_as_missing(path: Path) -> None:
    with FeatureStore(path) as store:
        store.put({"a": [1.0, 2.0]})
    with sqlite3.connect(path) as db:
        db.execute("UPDATE vectors SET value = ?", (np.array([1, 3], "<f4").tobytes(),))
    with FeatureStore(path) as store:
        assert store.get("a") is None
        with pytest.raises(KeyError):
            store.rows(["a"])[0:1]


def test_a_file_that_is_no_store_is_put_aside_and_a_new_one_begun(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to look like one" * 40)
    with FeatureStore(path) as store:
        assert store.was_damaged
        store.put({"a": [1.0]})
        assert store.get("a") is not None
    assert path.with_suffix(".damaged").read_bytes().startswith(b"not a database")


def test_a_place_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError) as caught:
        FeatureStore(tmp_path / "file" / "features.sqlite")
    assert "STYLE_CACHE_DIR" in caught.value.fix


FILL = """
import sys
from pathlib import Path
from stylecli.artifacts.features import FeatureStore
with FeatureStore(Path(sys.argv[1])) as store:
    for index in range(40):
        store.put({f"{sys.argv[2]}{index}": [float(index)]})
"""


@pytest.mark.slow
def test_two_processes_write_side_by_side(path: Path) -> None:
    commands = [[sys.executable, "-c", FILL, str(path), name] for name in "ab"]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    with FeatureStore(path) as store:
        assert store.missing([f"{name}{index}" for name in "ab" for index in range(40)]) == []


def test_a_table_is_read_in_blocks_in_the_order_of_its_keys(path: Path) -> None:
    with FeatureStore(path) as store:
        store.put({str(index): [index, -index] for index in range(5)})
        rows = store.rows(["4", "0", "2", "2"])
        assert len(rows) == 4
        assert torch.cat(list(rows.blocks(3))).tolist() == [[4, -4], [0, 0], [2, -2], [2, -2]]
        assert rows[0:1].dtype == torch.float64


def test_what_is_held_is_found_and_reaches_the_file_together(path: Path) -> None:
    with FeatureStore(path) as store, FeatureStore(path) as other:
        store.hold({"a": [1.0], "b": [2.0, 3.0]})
        held = store.get_many(["b", "none", "a"])
        assert {key: found.tolist() for key, found in held.items()} == {"a": [1], "b": [2, 3]}
        assert other.missing(["a", "b"]) == ["a", "b"]
        store.flush()
        assert other.missing(["a", "b"]) == []
        store.hold({"c": [4.0]})
    with FeatureStore(path) as store:
        assert store.get("c") is not None


def test_what_took_long_is_written_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FeatureStore(path) as store, FeatureStore(path) as other:
        store.hold({"fast": [1.0]})
        assert other.get("fast") is None
        monkeypatch.setattr(features, "HELD_SECONDS", 0.0)
        store.hold({"slow": [1.0]})
        assert other.missing(["fast", "slow"]) == []


def test_many_keys_are_asked_for_in_portions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ASKED_AT_ONCE", 3)
    with FeatureStore(path) as store:
        store.put({str(index): [index] for index in range(10)})
        found = store.get_many([str(index) for index in range(12)])
        assert {key: value.tolist() for key, value in found.items()} == {
            str(index): [index] for index in range(10)
        }


def test_a_store_beside_another_finds_what_that_has_and_writes_its_own(
    path: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"one")
    with FeatureStore(path) as first, FeatureStore(tmp_path / "part.sqlite", first) as second:
        first.put({"a": [1.0]})
        digest = first.file_digest(picture)
        second.put({"b": [2.0]})
        assert second.missing(["a", "b", "c"]) == ["c"]
        assert second.file_digest(picture) == digest
        assert first.get("b") is None
        assert first.absorb(tmp_path / "part.sqlite")
        assert first.missing(["a", "b"]) == []


def test_rows_are_read_by_number_too(path: Path) -> None:
    with FeatureStore(path) as store:
        store.put({str(index): [index, -index] for index in range(5)})
        rows = store.rows(["4", "0", "2", "2"])
        chosen = torch.tensor([3, 0])
        assert rows[chosen].tolist() == [[2, -2], [4, -4]]
        assert torch.equal(rows.only(chosen)[0:2], rows[chosen])
