"""What may import what, and what importing costs."""

from __future__ import annotations

import importlib
import pkgutil
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
    return run(HELP.format(heavy=HEAVY), *arguments)


@pytest.mark.parametrize("command", [(), ("transfer",), ("recipes",), ("recipes", "show")])
def test_help_answers_without_torch(command: tuple[str, ...]) -> None:
    done = run_help(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: style" in done.stdout


def calls_of(work: Callable[[], subprocess.CompletedProcess[str]]) -> int:
    """Of Python's functions, in a process that must end well."""
    done = work()
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])


def test_help_costs_less_than_four_times_what_draws_it() -> None:
    """Half a second, where Typer and Rich take a sixth; counted, as a busy machine's clock lies."""

    def counted(script: str, *arguments: str) -> int:
        # The second time, as the first may still have to compile.
        return min(calls_of(lambda: run(COUNTING + script, *arguments)) for _ in range(2))

    helps = counted(HELP.format(heavy=HEAVY), "--help")
    libraries = counted("import typer.rich_utils")
    assert libraries < helps < 4 * libraries
