"""What every test gets: a world without network or user settings, and ways to run and compare."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tiny models gain nothing from threads, and lose much to them when the machine is busy. Read when
# torch is imported, also by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from jaxtyping import install_import_hook

import tests.typecheck

# Shapes in signatures are executed wherever tensors are. The command line is left out: its
# annotations name what it must not import.
CHECKED = "artifacts backbone engine evaluation masks methods pocket recipe tensors"
install_import_hook(
    [f"stylecli.{package}" for package in CHECKED.split()],
    f"{tests.typecheck.__name__}.{tests.typecheck.checked.__name__}",
)

# The same examples everywhere, and no clock: a busy machine is no failure.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="Rewrite committed files, then pass.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _slow_but_for_one(items)
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


def pytest_collection_finish() -> None:
    """What was imported stays: to look through all of it for garbage takes seconds each time."""
    gc.freeze()


def _slow_but_for_one(items: list[pytest.Item]) -> None:
    """Of what is `mostly_slow` the first case is fast."""
    seen: set[str] = set()
    for item in items:
        if item.get_closest_marker("mostly_slow"):
            name = item.nodeid.partition("[")[0]
            if name not in seen and item.get_closest_marker("slow"):
                raise pytest.UsageError(f"{name} is slow; that it is mostly so says nothing")
            if name in seen:
                item.add_marker(pytest.mark.slow)
            seen.add(name)


@pytest.fixture(autouse=True)
def _clean_world(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No settings of the person who runs the tests, no cache of theirs, no network."""
    for name in [name for name in os.environ if name.startswith("STYLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    # Also keeps what the command line sets for its libraries from outliving a test.
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "error")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")

    def refuse(*_: object) -> None:
        raise AssertionError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    if torch := sys.modules.get("torch"):
        # A command on a CPU turns it on for its process; hypothesis draws subnormal numbers.
        torch.set_flush_denormal(False)


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of ``--json``, the summary last."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        last = self.rows[-1]
        assert last["summary"] is True
        return last


Style = Callable[..., Outcome]


@pytest.fixture
def style(capsys: pytest.CaptureFixture[str]) -> Style:
    """Run a command line in this process: ``style("recipes", "list")``."""
    from stylecli.cli.app import main

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def committed(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], None]]:
    """Compare generated text with a committed file; ``--rewrite`` writes it instead."""

    def check(path: str, text: str) -> None:
        file = ROOT / path
        if request.config.getoption("--rewrite"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        found = file.read_text(encoding="utf-8") if file.is_file() else ""
        assert found == text, f"{path} is out of date: `nox -s goldens` rewrites it"

    return check
