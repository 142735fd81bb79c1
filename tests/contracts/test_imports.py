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
HELP = f"""
import sys
from stylecli.cli.app import main
status = main(sys.argv[1:])
heavy = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(status or (f"imported {{heavy}}" if heavy else 0))
"""
COUNTING = """
import atexit, sys
calls = 0
def count(frame, event, argument):
    global calls
    calls += event == "call"
def tell():
    sys.setprofile(None)
    print(calls, file=sys.stderr)
sys.setprofile(count)
atexit.register(tell)
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
    return run(HELP, *arguments)


@pytest.mark.parametrize("command", [(), ("transfer",), ("recipes",), ("recipes", "show")])
def test_help_answers_without_torch(command: tuple[str, ...]) -> None:
    done = run_help(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: style" in done.stdout


def seconds_of(script: str, *arguments: str) -> float:
    """Of work, in a process that must end well."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(script, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def calls_of(script: str, *arguments: str) -> int:
    """Of Python's functions, in a process that must end well; the first may still compile."""
    both = [run(COUNTING + script, *arguments) for _ in range(2)]
    assert not any(done.returncode for done in both), both[0].stderr + both[1].stderr
    return min(int(done.stderr.splitlines()[-1]) for done in both)


def test_help_calls_less_than_four_times_what_draws_it_does() -> None:
    """Which is the same on a busy machine, where even seconds of the processor are not."""
    libraries = calls_of("import typer.rich_utils")
    assert libraries < calls_of(HELP, "--help") < 4 * libraries


@pytest.mark.slow
def test_help_costs_less_than_five_times_what_draws_it() -> None:
    """Half a second, where Typer and Rich take .1; with what libraries do outside of Python."""
    # One after the other, so that whatever slows the machine slows both.
    helps, libraries = zip(
        *((seconds_of(HELP, "--help"), seconds_of("import typer.rich_utils")) for _ in range(8)),
        strict=True,
    )
    assert min(helps) < 5 * min(libraries)
