"""Break one formula at a time and see that a test notices: `nox -s mutants`.

Every `*.yaml` beside this file lists mutants: a file, one of its lines (without its indentation,
and the only one of its kind), the wrong line, and the test that must fail. The tree is copied, so
nothing here is touched; each mutant gets a forked process that has torch loaded already.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FEWEST = 40
TESTS_FAILED = 1
LINES_SHOWN = 15


@dataclass(frozen=True, slots=True)
class Mutant:
    """One wrong line."""

    file: str
    old: str
    new: str
    test: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old}  ->  {self.new}"


def mutants() -> list[Mutant]:
    """All that are committed."""
    return [
        Mutant(**entry)
        for file in sorted(HERE.glob("*.yaml"))
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]


def mutate(text: str, mutant: Mutant) -> str:
    """The file with its line replaced, at the same indentation.

    Raises:
        ValueError: The line is not there, or there more than once: the mutant is out of date.
    """
    lines = text.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.strip() == mutant.old]
    if len(places) != 1:
        raise ValueError(f"{mutant.file} has {len(places)} lines {mutant.old!r}")
    line = lines[places[0]]
    lines[places[0]] = line.replace(mutant.old, mutant.new)
    return "".join(lines)


@contextmanager
def tree() -> Iterator[Path]:
    """A copy of what the tests need, without compiled files, which would outlive a change."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        ignore = shutil.ignore_patterns("__pycache__", "assets", "mutants")
        for name in ("stylecli", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        (copy / "stylecli" / "assets").symlink_to(ROOT / "stylecli" / "assets")
        for name in ("pyproject.toml", "recipes", "docs"):
            (copy / name).symlink_to(ROOT / name)
        yield copy


def run(copy: Path, tests: list[str], log: Path) -> int:
    """The exit status of pytest on tests of the copy, in a forked process."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        sys.dont_write_bytecode = True
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(copy)]
        code = int(pytest.main([*tests, *options]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def preload() -> None:
    """Load once what every test loads: forked processes share it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Not pytest's plugins: it wants to import those itself.
    import numpy
    import PIL.Image
    import scipy.optimize
    import scipy.stats
    import torch

    assert all((numpy, PIL, scipy, torch))


def main() -> int:
    """Print every mutant that lived; the exit status says whether there were any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only mutants whose description holds this")
    wanted = parser.parse_args().k
    found = [mutant for mutant in mutants() if wanted in str(mutant)]
    preload()
    survivors = []
    began = time.monotonic()
    with tree() as copy:
        log = copy / "pytest.log"
        if not found or run(copy, sorted({mutant.test for mutant in found}), log):
            print("no mutants, or their tests fail without them")
            print(*log.read_text(errors="replace").splitlines()[-LINES_SHOWN:], sep="\n")
            return 1
        for mutant in found:
            file = copy / mutant.file
            before = file.read_text(encoding="utf-8")
            try:
                file.write_text(mutate(before, mutant), encoding="utf-8")
                status = run(copy, [mutant.test], log)
            finally:
                file.write_text(before, encoding="utf-8")
            is_caught = status == TESTS_FAILED
            print("caught" if is_caught else f"LIVES (pytest ended with {status})", mutant)
            if not is_caught:
                survivors.append(mutant)
                print(*log.read_text(errors="replace").splitlines()[-LINES_SHOWN:], sep="\n")
    caught = len(found) - len(survivors)
    print(f"{caught} of {len(found)} caught in {time.monotonic() - began:.0f} s")
    return 1 if survivors or (not wanted and len(found) < FEWEST) else 0


if __name__ == "__main__":
    sys.exit(main())
