"""What may import what, and what importing costs."""

from __future__ import annotations

import importlib
import pkgutil
import resource
import subprocess
import sys

import pytest

import stylecli

HEAVY = ("torch", "numpy", "diffusers", "transformers", "peft", "PIL")
HELP = """
import sys
from stylecli.cli.app import main
status = main(sys.argv[1:])
heavy = [name for name in {heavy!r} if name in sys.modules]
sys.exit(status or (f"imported {{heavy}}" if heavy else 0))
"""


def modules() -> list[str]:
    found = pkgutil.walk_packages(stylecli.__path__, "stylecli.")
    return [module.name for module in found if not module.name.endswith("__main__")]


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_imports_point_down() -> None:
    done = subprocess.run(["lint-imports"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def run_help(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = HELP.format(heavy=HEAVY)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [(), ("transfer",), ("recipes",), ("recipes", "show")])
def test_help_answers_without_torch(command: tuple[str, ...]) -> None:
    done = run_help(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: style" in done.stdout


def test_help_takes_less_than_half_a_second() -> None:
    # Seconds of work, not of waiting: the machine may be busy with something else.
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_help("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5
