"""The torchvision shim acts only when torchvision's own binary does not fit."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylecli.tensors import compat
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


def fake(folder: Path, init: str = "") -> Path:
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    (package / "_C.so").write_bytes(b"not a library")
    return folder


@pytest.mark.slow
def test_the_libraries_import_after_the_shim() -> None:
    done = run(
        "import stylecli.backbone, torchvision, diffusers, lpips, open_clip\n"
        "from diffusers import AutoencoderKL, UNet2DConditionModel\n"
        "from stylecli.tensors.compat import ensure_torchvision as e; print(e() == e())"
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "does not exist" not in done.stderr
    assert done.stdout.strip() == "True"


@pytest.mark.slow
def test_without_the_shim_the_torchvision_of_this_machine_fails() -> None:
    """Proves that the test above can fail."""
    done = run("import torchvision")
    if done.returncode == 0:
        pytest.skip("the torchvision installed here fits its torch")
    if "No module named 'torchvision'" in done.stderr:
        pytest.skip("torchvision is not installed")
    assert "operator torchvision::nms does not exist" in done.stderr


@pytest.mark.slow
def test_a_misfit_fails_without_the_shim_and_imports_with_it(tmp_path: Path) -> None:
    """The same on any machine: what a misfit does at import, in one line."""
    init = (
        "import torch\n"
        "for name in ('nms', 'qnms'): torch.library.register_fake('torchvision::' + name)(max)"
    )
    script = (
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
        "from stylecli.tensors.compat import ensure_torchvision\n"
        "print(ensure_torchvision())\n"
        "import torchvision\n"
    )
    done = run(script, fake(tmp_path, init))
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.splitlines() == ["operator torchvision::nms does not exist", "shimmed"]


@pytest.mark.slow
def test_a_pair_that_fits_is_left_alone(tmp_path: Path) -> None:
    """Its own binary is loaded, as its own import would, and nothing is defined here."""
    script = (
        "import torch\n"
        "def load(path):\n"
        "    global own\n"
        "    own = torch.library.Library('torchvision', 'DEF')\n"
        "    own.define('nms(Tensor a) -> Tensor')\n"
        "torch.ops.load_library = load\n"
        "from stylecli.tensors import compat\n"
        "print(compat.ensure_torchvision(), len(compat._library))\n"
        "print(torch.ops.torchvision.nms.default._schema, hasattr(torch.ops.torchvision, 'qnms'))"
    )
    done = run(script, fake(tmp_path))
    assert done.stdout.splitlines() == [
        "native 0",
        "torchvision::nms(Tensor a) -> Tensor False",
    ], done.stderr[-500:]


def test_no_torchvision_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    def define(*_: object) -> None:
        raise AssertionError("operators were defined")

    monkeypatch.setattr(compat, "find_spec", lambda _name: None)
    monkeypatch.setattr(torch.library, "Library", define)
    compat.ensure_torchvision.cache_clear()
    try:
        assert compat.ensure_torchvision() == "absent"
    finally:
        compat.ensure_torchvision.cache_clear()


@pytest.mark.parametrize("package", ["stylecli.backbone", "stylecli.evaluation"])
def test_what_brings_in_torchvision_asks_for_the_shim_first(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    module = importlib.import_module(package)
    calls: list[None] = []
    monkeypatch.setattr(compat, "ensure_torchvision", lambda: calls.append(None))
    importlib.reload(module)
    monkeypatch.undo()
    importlib.reload(module)
    assert calls == [None]
