"""Everything a contributor runs. `nox` does the checks, `nox -l` is the menu.

Sessions use the environment they are started in (`pip install -c constraints.txt -e '.[dev]'`), so
nothing is installed five times; `nox -s tests -- -k recipe` passes arguments on.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "layers", "docs", "tests"]

ROOT = Path(__file__).parent
GENERATED = ("tests/contracts/test_generated.py", "tests/contracts/test_graph.py")
FAST = "not gpu and not weights and not slow"
# Each worker takes a gigabyte and a half.
SIDE_BY_SIDE = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and spelling; `nox -s lint -- --fix` repairs what it can."""
    session.run("ruff", "check", *session.posargs, ".")
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), ".")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Static types, strict."""
    session.run("mypy", *session.posargs)


@nox.session
def layers(session: nox.Session) -> None:
    """Who may import whom."""
    session.run("lint-imports", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site builds, where mkdocs is installed; `tests` sees that its pages are current."""
    if not _is_installed("mkdocs"):
        session.skip("mkdocs is not installed: pip install 'stylecli[docs]'")
    session.run("mkdocs", "build", "--strict", "--config-file", "docs/mkdocs.yml", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The fast tests: no network, no GPU, no downloads; on all cores, of which four are enough."""
    session.run("pytest", *SIDE_BY_SIDE, "-m", FAST, *session.posargs)


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Further cases, trainings, whole command lines, killed runs: before a release, for an hour."""
    session.run("pytest", *SIDE_BY_SIDE, "-m", "slow and not gpu and not weights", *session.posargs)


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Tests on a GPU, and with downloaded weights where they are found."""
    session.run("pytest", "-m", "gpu or weights", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Benchmarks; results go where `--benchmark-json` says."""
    session.run("pytest", "tests/benchmarks", "--benchmark-enable", *session.posargs)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break one formula at a time and see that a test notices."""
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session(default=False)
def pocket(session: nox.Session) -> None:
    """Train what ships: `nox -s pocket -- all --hours 3 --profile cpu`."""
    session.run("python", "-m", "stylecli.pocket", *session.posargs)


@nox.session(default=False)
def goldens(session: nox.Session) -> None:
    """Rewrite generated pages and golden data, then show what changed."""
    session.run("pytest", "-q", "--rewrite", *(session.posargs or GENERATED))
    session.run("git", "diff", "--stat", "--", "docs", "tests", external=True)


@nox.session(default=False, venv_backend="venv")
def minimums(session: nox.Session) -> None:
    """The fast tests with the lowest versions that pyproject.toml allows."""
    floors = ROOT / ".nox" / "minimums.txt"
    floors.parent.mkdir(exist_ok=True)
    floors.write_text("\n".join(_floors()) + "\n")
    session.install("-c", str(floors), "-e", ".[dev]")
    session.run("pytest", *SIDE_BY_SIDE, "-m", FAST, *session.posargs)


def _floors() -> list[str]:
    """`name>=version` in the dependencies -> `name==version`."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    return [line.replace(">=", "==") for line in project["dependencies"]]


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
