"""`style status`: what people and programs are told of runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Style

STARTED = {
    "event": "started", "run": "r", "at": "2026-01-02T03:04:05.000+00:00", "command": "transfer",
    "items": 8, "todo": 8, "shard": [1, 2],
}  # fmt: skip
ENDED = {
    "event": "ended", "run": "r", "at": "2026-01-02T03:05:05.000+00:00", "exit_status": 3,
    "counts": {"done": 2, "failed": 1, "skipped": 0, "pending": 5},
}  # fmt: skip


def item(key: str, second: int, what: str | None = None) -> dict[str, object]:
    return {
        "finished": f"2026-01-02T03:04:{second}.000+00:00", "run": "r", "key": key,
        "status": "failed" if what else "done", "seconds": 1.0, "output": f"{key}.png",
        "error": {"code": "image", "what": what, "fix": ""} if what else None,
    }  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rows = [STARTED, item("a", 10), item("b", 20), item("c", 30, "c.jpg: not a picture"), ENDED]
    journal = tmp_path / "out" / "runs-1-of-2.jsonl"
    journal.parent.mkdir()
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return journal.parent


def test_a_page_tells_what_is_done_failed_and_left(style: Style, out: Path) -> None:
    shown = style("status", out)
    assert shown.out.splitlines() == [
        f"{out}  2 done, 1 failed, 5 left, 6 a minute",
        "  transfer 1/2  ended 2026-01-02 03:05 UTC, some failed, 5 of 8 left",
        "  failed  c.png: c.jpg: not a picture",
    ]
    assert shown.status == 3
    assert "error  1 item failed\n" in shown.err
    assert "fix" in shown.err


def test_programs_get_one_object_a_folder_and_a_summary(style: Style, out: Path) -> None:
    shown = style("status", out, "--json")
    row, summary = shown.rows
    assert (row["done"], row["failed"], row["left"], row["items_per_minute"]) == (2, 1, 5, 6.0)
    (run,) = row["runs"]
    assert (run["shard"], run["exit_status"], run["is_running"]) == ([1, 2], 3, False)
    assert row["failures"] == [{"output": "c.png", "what": "c.jpg: not a picture"}]
    assert summary["exit_status"] == 3


def test_all_done_is_status_zero(style: Style, out: Path) -> None:
    with (out / "runs-1-of-2.jsonl").open("a") as stream:
        stream.write(json.dumps(item("c", 40)) + "\n")
    shown = style("status", out)
    assert shown.status == 0
    assert "3 done, 0 failed" in shown.out
    assert "item failed" not in shown.err


def test_a_folder_without_a_journal_is_refused(style: Style, tmp_path: Path) -> None:
    shown = style("status", tmp_path)
    assert shown.status == 2
    assert f"{tmp_path} holds no journal" in shown.err
    assert "fix    give the --output of a run" in shown.err


def test_a_run_that_goes_on_is_said_to_with_the_time_it_takes(style: Style, out: Path) -> None:
    from stylecli.artifacts.journal import Journal

    (out / "runs-1-of-2.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [STARTED, item("a", 10), item("b", 20)])
    )
    with Journal(out, (1, 2)):
        shown = style("status", out)
    assert "  transfer 1/2  running, 6 of 8 left, 6 a minute, about 1 min 00 s to go" in shown.out
    assert shown.status == 0
    assert "UTC, killed, 6 of 8 left" in style("status", out).out


def test_what_cannot_be_told_is_said_so(
    style: Style, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "runs-1-of-2.jsonl").write_text(json.dumps(STARTED) + "\n")
    monkeypatch.setattr("stylecli.artifacts.journal.held", lambda _: {"runs-1-of-2.jsonl": None})
    shown = style("status", out)
    assert shown.out.splitlines()[1] == "  transfer 1/2  running or killed, 8 of 8 left"
    (row, _) = style("status", out, "--json").rows
    assert (row["runs"][0]["is_running"], row["runs"][0]["ended"]) == (None, None)


def test_looking_costs_no_torch(out: Path) -> None:
    code = (
        "import sys; from stylecli.cli.app import main; "
        "assert main(['status', sys.argv[1]]) == 3; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, out], check=True, capture_output=True)
