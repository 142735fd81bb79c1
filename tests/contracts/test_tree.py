"""What the repository may hold."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAX_FILE = 15 * 2**20
# Of which pocket's weights, editor and experts are 35: what there is to try without a download.
MAX_TREE = 48 * 2**20


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if (ROOT / name).is_file()]


def test_no_file_and_no_tree_is_too_large_to_clone() -> None:
    sizes = {path: path.stat().st_size for path in tracked()}
    assert max(sizes.values()) <= MAX_FILE
    assert sum(sizes.values()) <= MAX_TREE


def test_shipped_configs_name_no_folder_of_the_machine_that_made_them() -> None:
    for path in (ROOT / "stylecli/assets").rglob("*config.json"):
        made_from = json.loads(path.read_text()).get("_name_or_path", "")
        assert not made_from.startswith("/"), path
