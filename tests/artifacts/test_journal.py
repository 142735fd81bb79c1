"""The journal: one run at a time, no row lost, no torn line fatal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stylecli.artifacts.journal import Journal, latest, rows
from stylecli.errors import LockedError
from tests.conftest import ROOT

HOLD = (
    "import sys, time; from pathlib import Path; from stylecli.artifacts.journal import Journal\n"
    "with Journal(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def test_rows_come_back_in_order_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append({"key": "a", "status": "failed"})
        journal.append({"key": "b", "status": "done"})
    with Journal(tmp_path) as journal:
        journal.append({"key": "a", "status": "done"})
    assert [row["key"] for row in rows(tmp_path)] == ["a", "b", "a"]
    assert latest(tmp_path)["a"]["status"] == "done"


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append({"key": "a"})
    with (tmp_path / "runs.jsonl").open("a") as stream:
        stream.write('{"key": "torn", "sta')
    with Journal(tmp_path) as journal:
        journal.append({"key": "b"})
    assert [row["key"] for row in rows(tmp_path)] == ["a", "b"]


def test_shards_have_files_and_locks_of_their_own_and_readers_merge(tmp_path: Path) -> None:
    with Journal(tmp_path, (1, 2)) as one, Journal(tmp_path, (2, 2)) as two:
        one.append({"key": "a"})
        two.append({"key": "b"})
    assert {row["key"] for row in rows(tmp_path)} == {"a", "b"}
    assert {file.name for file in tmp_path.glob("*.jsonl")} == {
        "runs-1-of-2.jsonl",
        "runs-2-of-2.jsonl",
    }


def test_a_held_journal_is_refused_at_once_and_free_after_a_kill(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught, Journal(tmp_path):
            pass
        assert "--wait" in caught.value.fix
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with Journal(tmp_path) as journal:
        journal.append({"key": "a"})
    assert [row["key"] for row in rows(tmp_path)] == ["a"]


def test_waiting_queues_behind_the_other_run(tmp_path: Path) -> None:
    script = HOLD.replace("time.sleep(60)", "time.sleep(1)")
    holder = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with Journal(tmp_path, wait=True):
        assert holder.wait(timeout=10) == 0
    holder.communicate()
