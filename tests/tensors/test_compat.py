"""The torchvision shim acts only when torchvision's own binary does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def run(script: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """A script in a clean process, with folders in front of the import path."""
    path = os.pathsep.join(map(str, (*paths, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def fake(folder: Path, init: str) -> Path:
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    (package / "_C.so").write_bytes(b"not a library")
    return folder


def test_the_libraries_import_after_the_shim() -> None:
    done = run("import stylecli.backbone, torchvision, diffusers, lpips, open_clip")
    assert done.returncode == 0, done.stderr[-500:]


def test_a_misfit_fails_without_the_shim_and_imports_with_it(tmp_path: Path) -> None:
    """Proves that the test above can fail: what torchvision does at import, in five words."""
    init = "import torch; torch.library.register_fake('torchvision::nms')(lambda *a: a[0])"
    folder = fake(tmp_path, init)
    without = run("import torchvision", folder)
    assert "operator torchvision::nms does not exist" in without.stderr
    ensure = "from stylecli.tensors.compat import ensure_torchvision as e; print(e());"
    shimmed = run(ensure + "import torchvision", folder)
    assert shimmed.stdout.strip() == "shimmed", shimmed.stderr[-500:]
    assert shimmed.returncode == 0


def test_a_pair_that_fits_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import torch\n"
        "own = torch.library.Library('torchvision', 'DEF')\n"
        "own.define('nms(Tensor a) -> Tensor')\n"
        "from stylecli.tensors import compat\n"
        "print(compat.ensure_torchvision(), len(compat._library))\n"
        "print(torch.ops.torchvision.nms.default._schema)\n"
    )
    done = run(script, fake(tmp_path, ""))
    assert done.stdout.split() == ["native", "0", "torchvision::nms(Tensor", "a)", "->", "Tensor"]


@pytest.mark.parametrize("call", ["ensure_torchvision()"])
def test_calling_twice_is_harmless(call: str) -> None:
    done = run(f"from stylecli.tensors.compat import *; print({call} == {call})")
    assert done.stdout.strip() == "True", done.stderr[-500:]
