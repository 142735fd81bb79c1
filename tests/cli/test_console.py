"""Who hears what: results on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from stylecli.cli import progress as module
from stylecli.cli.console import Console

BAR = """
from stylecli.cli.console import console
with console.task("outer", 2) as outer:
    for i in range(2):
        with console.task("inner", 3) as inner:
            inner.advance(3)
        outer.advance()
        console.note(f"note {i}")
        print(f"result {i}", flush=True)
"""


@pytest.fixture
def console() -> Console:
    return Console()


def test_results_go_to_stdout_and_talk_to_stderr(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.note("a note")
    console.warn("careful")
    console.result({"status": "done", "output": "out.png"})
    console.result({"recipe": "x"}, text="x  a recipe")
    captured = capsys.readouterr()
    assert captured.out == "out.png\nx  a recipe\n"
    assert captured.err == "a note\nwarning  careful\n"


def test_json_lines_survive_names_that_are_not_text(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.set_mode(json=True)
    name = os.fsdecode(b"caf\xe9.png")
    console.result({"output": name}, text="never shown")
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "output": name}


def test_json_is_strict_where_figures_are_not_finite(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    console.set_mode(json=True)
    console.result({"details": {"psnr": float("inf"), "loss": float("nan")}})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    row = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert row["details"] == {"psnr": None, "loss": None}


def test_quiet_silences_notes_and_progress_but_not_warnings(
    console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    console.set_mode(quiet=True)
    console.note("a note")
    console.warn("careful")
    with console.task("work", 2) as task:
        task.advance(2)
    assert capsys.readouterr().err == "warning  careful\n"


def test_progress_off_a_terminal_is_a_line_now_and_then(
    console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with console.task("restyling", 8) as task:
        for _ in range(4):
            task.advance()
    assert capsys.readouterr().err.splitlines() == [
        "restyling  2/8, 31 s so far, about 1 min 33 s left",
        "restyling  4/8, 1 min 02 s so far, about 1 min 02 s left",
    ]


def test_progress_on_a_terminal_is_a_bar_that_leaves_stdout_alone() -> None:
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", BAR],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=environ,
        check=True,
    )
    os.close(follower)
    drawn = b""
    while chunk := _read(leader):
        drawn += chunk
    os.close(leader)
    assert done.stdout == b"result 0\nresult 1\n"
    assert b"outer" in drawn
    assert b"inner" in drawn
    assert b"note 1" in drawn


CLOSED = """
from stylecli.cli.console import console
with console.task("outer", 2) as outer:
    print("ready", flush=True)
    input()
    with console.task("inner", 3) as inner:
        inner.advance(3)
    console.warn("to nobody")
print("done", flush=True)
"""


def test_a_terminal_that_was_closed_ends_no_work() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.close(leader)
    os.close(follower)
    out, _ = process.communicate(b"\n")
    assert (process.returncode, out) == (0, b"done\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_colour_is_for_terminals_without_no_color(
    console: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console.warn("plain")
    monkeypatch.delenv("NO_COLOR")
    console.warn("coloured")
    plain, coloured = capsys.readouterr().err.splitlines()
    assert plain == "warning  plain"
    assert coloured == "\x1b[1;33mwarning\x1b[0m  coloured"


def test_a_long_list_of_failures_is_cut(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(25):
        console.result({"status": "failed", "output": f"{i}.png", "error": {"what": "no"}})
    capsys.readouterr()
    console.close("", 3, None)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("error  25 of 25 items failed: 0.png, 1.png")
    assert first.endswith("19.png and 5 more")
