"""Files are there whole or not at all, equal runs make equal bytes, and files say what made them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from stylecli.artifacts import store
from stylecli.errors import ItemError, UsageError
from tests.conftest import ROOT

PIXELS = torch.randint(
    0, 256, (9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
MADE_BY = {"command": "transfer", "key": "k", "text": "näme — ✓"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_carry_what_made_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    store.save_image(path, PIXELS, MADE_BY)
    assert store.read_provenance(path) == MADE_BY
    first = path.read_bytes()
    store.save_image(path, PIXELS, MADE_BY)
    assert path.read_bytes() == first


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="xyz"):
        store.save_image(tmp_path / "x.xyz", PIXELS, MADE_BY)


def test_tensor_files_have_one_byte_form_in_every_process(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from stylecli.artifacts import store;"
        "store.save_tensors(Path(sys.argv[1]), {n: torch.ones(2) for n in 'abcdef'},"
        "{n: n for n in 'uvwxyz'})"
    )
    made = set()
    for i in range(3):
        path = tmp_path / f"{i}.safetensors"
        subprocess.run([sys.executable, "-c", script, path], check=True, cwd=ROOT)
        made.add(path.read_bytes())
    assert len(made) == 1
    with safe_open(path, framework="pt") as stream:
        assert stream.metadata() == {n: n for n in "uvwxyz"}
        assert torch.equal(stream.get_tensor("c"), torch.ones(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tensors_that_are_not_numbers_are_not_written(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ItemError, match="NaN or infinity"):
        store.save_tensors(tmp_path / "x.safetensors", {"a": torch.tensor([bad])}, {})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_no_scrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    store.write_atomic(path, b"old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ItemError, match="No space left"):
        store.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_a_killed_writer_leaves_no_half_file(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from stylecli.artifacts import store;"
        "os.fsync = lambda handle: os.kill(os.getpid(), 9);"
        "store.write_atomic(Path(sys.argv[1]), b'x' * 100000)"
    )
    path = tmp_path / "x.bin"
    done = subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()


@pytest.mark.parametrize("data", [b"", b"junk", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("suffix", [".png", ".safetensors", ".jpg"])
def test_foreign_files_have_no_provenance_and_raise_nothing(
    tmp_path: Path, suffix: str, data: bytes
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    assert store.read_provenance(path) is None
    assert store.read_provenance(tmp_path / "absent.png") is None


def test_digests_follow_content_not_order(tmp_path: Path) -> None:
    values: Any = {"b": [1, 2.5], "a": None}
    assert store.digest(values) == store.digest(json.loads(json.dumps(values)))
    assert store.digest({"a": 1}) != store.digest({"a": 2})
    file = tmp_path / "x"
    file.write_bytes(b"one")
    first = store.file_sha256(file)
    file.write_bytes(b"three")
    assert store.file_sha256(file) != first
