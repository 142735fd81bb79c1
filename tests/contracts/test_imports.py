"""What may import what, and what importing costs."""

from __future__ import annotations

import importlib
import pkgutil
import resource
import subprocess
import sys
from collections.abc import Callable

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


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


def run_help(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(HELP.format(heavy=HEAVY), *arguments)


@pytest.mark.parametrize("command", [(), ("transfer",), ("recipes",), ("recipes", "show")])
def test_help_answers_without_torch(command: tuple[str, ...]) -> None:
    done = run_help(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: style" in done.stdout


def seconds_of(work: Callable[[], subprocess.CompletedProcess[str]]) -> float:
    """Of work, in a process that must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_costs_less_than_five_times_what_draws_it() -> None:
    """A ratio, which is the same on a busy machine: half a second, where Typer and Rich take .1."""
    # One after the other, so that whatever slows the machine slows both.
    helps, libraries = zip(
        *(
            (
                seconds_of(lambda: run_help("--help")),
                seconds_of(lambda: run("import typer.rich_utils")),
            )
            for _ in range(3)
        ),
        strict=True,
    )
    assert min(helps) < 5 * min(libraries)
