"""Exit statuses, streams and help: what scripts rely on."""

from __future__ import annotations

import inspect
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from stylecli import __version__, errors
from stylecli.cli import bundles
from stylecli.cli.app import COMMANDS, PIPE_CLOSED, app, main
from stylecli.cli.console import console
from stylecli.errors import StyleError
from tests.cli.conftest import start
from tests.conftest import ROOT, Style

TREE = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, StyleError)]
STATUS = {
    "unexpected": 1,
    "below_threshold": 1,
    "not_reproduced": 1,
    "usage": 2,
    "recipe": 2,
    "input": 2,
    "item": 3,
    "image": 3,
    "disk_full": 3,
    "foreign_predictor": 2,
    "output_differs": 3,
    "weights": 4,
    "locked": 5,
    "memory": 6,
}
# Looking at a page must not take more than one screen.
SCREEN_LINES = 50


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Make `style recipes list` do something else."""

    def replace(action: Callable[[], object]) -> None:
        monkeypatch.setattr("stylecli.recipe.load.shipped", action)

    return replace


def raising(error: BaseException) -> Callable[[], object]:
    def action() -> object:
        raise error

    return action


# Exit statuses.


@pytest.mark.parametrize("kind", TREE)
def test_every_error_ends_with_two_lines_and_its_own_status(
    kind: type[StyleError], style: Style, during: Callable[..., None]
) -> None:
    during(raising(kind("it broke", fix="mend it")))
    done = style("recipes", "list", "--json")
    assert done.status == kind.exit_status == STATUS[kind.code]
    assert done.err.splitlines() == ["error  it broke", "fix    mend it"]
    assert done.summary["exit_status"] == done.status
    assert done.summary["error"] == {"code": kind.code, "what": "it broke", "fix": "mend it"}


def test_an_unforeseen_failure_is_one_line_and_a_way_to_see_more(
    style: Style, during: Callable[..., None]
) -> None:
    during(raising(KeyError("x")))
    done = style("recipes", "list")
    assert done.status == 1
    first, second = done.err.splitlines()
    assert first == "error  unexpected KeyError: 'x'"
    assert "--debug" in second
    assert "Traceback" in style("recipes", "list", "--debug").err


def test_ctrl_c_ends_with_130(style: Style, during: Callable[..., None]) -> None:
    during(raising(KeyboardInterrupt()))
    done = style("recipes", "list", "--json")
    assert (done.status, done.summary["exit_status"]) == (130, 130)
    assert done.summary["error"] == {"code": "interrupted"}
    assert "again" in done.err


def test_sigterm_closes_what_is_open_and_ends_with_143(
    style: Style, during: Callable[..., None]
) -> None:
    closed = []

    def action() -> object:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)
        return {}

    during(action)
    assert style("recipes", "list").status == 143
    assert closed
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_failed_items_end_with_3_and_are_listed(style: Style, during: Callable[..., None]) -> None:
    def action() -> object:
        error = {"code": "image", "what": "b.png is truncated", "fix": "get it again"}
        console.result({"status": "done", "output": "a.out.png", "inputs": [{"name": "a.png"}]})
        console.result({"status": "failed", "inputs": [{"name": "b.png"}], "error": error})
        return {}

    during(action)
    done = style("recipes", "list", "--json")
    assert done.status == 3
    assert done.summary["counts"] == {"done": 1, "failed": 1, "items": 2}
    assert [row.get("status") for row in done.rows] == ["done", "failed", None]
    assert "failed  b.png is truncated" not in done.out
    assert "error  1 of 2 items failed: b.png" in done.err
    assert style("recipes", "list").out == "a.out.png\n"


def validate(*recipes: object, stdout: int, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    command = [sys.executable, "-m", "stylecli", "recipes", "validate", *map(str, recipes)]
    done = subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False)
    return done.returncode, done.stderr or ""


@pytest.mark.slow
def test_a_reader_that_leaves_early_neither_stops_the_work_nor_changes_its_status(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert validate("pocket-cpu", "sd15-12gb", stdout=writer) == (0, "")
    (wrong := tmp_path / "wrong.yaml").write_text("lora: {rank: 0}", encoding="utf-8")
    status, said = validate("pocket-cpu", wrong, stdout=writer)
    assert (status, "lora.rank" in said, "unexpected" in said) == (2, True, False)
    assert validate("pocket-cpu", wrong, stdout=writer, stderr=writer)[0] == 2
    os.close(writer)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_results_that_cannot_be_written_are_said_once_and_end_with_1() -> None:
    with Path("/dev/full").open("w") as full:
        status, said = validate("pocket-cpu", "sd15-12gb", stdout=full.fileno())
    assert status == 1
    assert said.splitlines() == [
        "error  standard output cannot be written: No space left on device",
        "fix    free some space, or send it elsewhere",
    ]


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["transfer", "", "-o", "x.png"], "'CONTENT': it is empty"),
        (["transfer", "a.png", "-o", ""], "'--output' / '-o': it is empty"),
        (["transfer", "a.png", "-o", "x.png", "--lora", ""], "'--lora' / '-l': it is empty"),
        (["transfer", "a.png", "-o", "x.png", "--style", ""], "'--style' / '-s': it is empty"),
        (["transfer", "--manifest", "", "-o", "x"], "'--manifest': it is empty"),
        (["train-lora", "", "-o", "x"], "'STYLE': it is empty"),
        (["invert", "a.png", "-o", "x/", "-r", ""], "'--recipe' / '-r': it is empty"),
        (["recipes", "validate", ""], "'FILE...': it is empty"),
        (
            ["invert", "a.png", "-o", "-"],
            "'--output' / '-o': results are files; ./- if one is to have that name",
        ),
        (
            ["invert", "a.png", "-o", "x/", "--name", "{"],
            "'--name': a brace in '{' has no partner; write {{ or }} for a brace in a name",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_refused_in_a_sentence(
    arguments: list[str], what: str, style: Style
) -> None:
    done = style(*arguments)
    assert done.status == 2
    assert done.err.splitlines()[0] == f"error  invalid value for {what}"


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (
            ["recipes", "show", "--resolvd"],
            "no such option: --resolvd",
            "did you mean --resolved? `style recipes show --help` shows what fits",
        ),
        (["frobnicate"], "no such command 'frobnicate'", "`style --help` shows what fits"),
        (["recipes"], "no command given", "`style recipes --help` shows what fits"),
        (
            ["recipes", "validate"],
            "missing argument 'FILE...'",
            "`style recipes validate --help` shows what fits",
        ),
        (
            ["recipes", "show", "pocket-cpuu"],
            "recipe 'pocket-cpuu' is neither a shipped name nor a file",
            "did you mean pocket-cpu? `style recipes list` names them all",
        ),
        (["cache", "prune"], "nothing said to prune", "--older-than DAYS, --max-gb GB or --all"),
    ],
)
def test_what_cannot_be_carried_out_ends_with_2(
    arguments: list[str], what: str, fix: str, style: Style
) -> None:
    done = style(*arguments)
    assert done.status == 2
    assert done.err.splitlines() == [f"error  {what}", f"fix    {fix}"]


def test_a_line_that_cannot_be_parsed_still_ends_with_a_summary(style: Style) -> None:
    done = style("recipes", "list", "--nonsense", "--json")
    assert done.summary["exit_status"] == 2
    assert done.summary["error"]["code"] == "usage"


# Bundles of options.


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_what_is_given_for_an_option_arrives_wherever_it_is_bundled(command: object) -> None:
    run = command.run  # type: ignore[attr-defined]
    given = {parameter.name: object() for parameter in bundles.parameters(run)}
    arrived: dict[str, object] = {}
    for name, value in bundles.gathered(run, given).items():
        arrived |= vars(value) if is_dataclass(value) else {name: value}
    assert arrived == given


# Help.


def test_version(style: Style) -> None:
    assert style("--version").out == f"style {__version__}\n"


def test_style_alone_shows_what_it_can_do(style: Style) -> None:
    alone, asked = style(), style("--help")
    assert (alone.status, asked.status) == (0, 0)
    assert "transfer" in alone.out
    assert alone.out.strip() == asked.out.strip()


@pytest.mark.mostly_slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_help_page_is_one_screen_and_ends_with_two_examples(
    command: object, style: Style
) -> None:
    name, run = command.name, command.run  # type: ignore[attr-defined]
    lines = style(*name.split(), "--help").out.strip().splitlines()
    assert len(lines) <= SCREEN_LINES
    assert max(len(line.rstrip()) for line in lines) <= 100
    examples = [f"$ {line}" for line in run.examples]
    assert [line.strip() for line in lines[-3:]] == ["Examples", *examples]


@pytest.fixture(scope="module")
def whole_program() -> object:
    return get_command(app)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("line", [line for command in COMMANDS for line in command.run.examples])
def test_every_example_parses(line: str, whole_program: object) -> None:
    program, *arguments = shlex.split(line.partition(" > ")[0])
    assert program == "style"
    command = whole_program
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    assert command.make_context(command.name, arguments).params  # type: ignore[attr-defined]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_every_shell(shell: str) -> None:
    environ = {**os.environ, "_STYLE_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "stylecli"], env=environ, capture_output=True, text=True, check=False
    )
    assert "style" in done.stdout


def test_the_program_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stylecli", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == f"style {__version__}\n"


def test_main_takes_its_arguments_from_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["style", "--version"])
    assert main() == 0
    assert capsys.readouterr().out.startswith("style ")


@pytest.mark.slow
def test_whoever_has_read_enough_of_a_help_page_hears_no_more() -> None:
    with start("transfer", "--help") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == PIPE_CLOSED
