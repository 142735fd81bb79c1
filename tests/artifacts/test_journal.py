"""The journal: one run at a time, no row lost, no torn line fatal."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylecli.artifacts.journal import Journal, held, latest, outcomes, rows, runs
from stylecli.errors import InputError, ItemError, LockedError, UsageError
from tests.conftest import ROOT

HOLD = (
    "import sys, time; from pathlib import Path; from stylecli.artifacts.journal import Journal\n"
    "shard = tuple(map(int, sys.argv[2:])) or None\n"
    "with Journal(Path(sys.argv[1]), shard): print('held', flush=True); time.sleep(60)"
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


def test_wherever_a_line_is_torn_only_it_is_lost(tmp_path: Path) -> None:
    """What a crash or a full disk can leave: any number of bytes of the last row."""
    with Journal(tmp_path) as journal:
        journal.append({"key": "a", "status": "done"})
        journal.append({"key": "b", "status": "done", "nested": {"figures": [1, 2.5]}})
    whole = journal.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        journal.path.write_bytes(whole[:cut])
        kept = ["a", "b"] if cut == len(whole) - 1 else ["a"]
        assert [row["key"] for row in rows(tmp_path)] == kept
        with journal:
            journal.append({"key": "c"})
        assert [row["key"] for row in rows(tmp_path)] == [*kept, "c"]


def test_a_row_that_does_not_fit_the_disk_is_reported_and_the_next_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path) as journal:
        journal.append({"key": "a"})
        with monkeypatch.context() as patch:

            def full(_handle: int) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patch.setattr(os, "fsync", full)
            with pytest.raises(ItemError, match="No space left"):
                journal.append({"key": "b"})
        journal.append({"key": "c"})
    assert {"a", "c"} <= latest(tmp_path).keys()


def test_the_last_row_of_a_key_counts_when_the_number_of_shards_changes(tmp_path: Path) -> None:
    for shard, status in [(None, "failed"), ((1, 2), "failed"), ((2, 3), "done"), (None, "last")]:
        with Journal(tmp_path, shard) as journal:
            journal.append({"key": "a", "status": status})
        assert latest(tmp_path)["a"]["status"] == status
        time.sleep(0.003)


def test_other_files_and_other_lines_are_passed_over(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append({"key": "a"})
    for name in ("runs-old.jsonl", "runs.jsonl.bak", "runs-1-of-2.jsonl.orig", "otherruns.jsonl"):
        (tmp_path / name).write_text('{"key": "foreign"}\n')
    with journal.path.open("ab") as stream:
        stream.write(b'{"key": ["list"]}\n[1]\n\xff\xfe\n\n{"status": "no key"}\n')
    assert [row["key"] for row in rows(tmp_path)] == ["a"]
    assert latest(tmp_path / "absent") == {}


def test_every_line_is_json_to_any_reader(tmp_path: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    with Journal(tmp_path) as journal:
        journal.append({"key": "ä\n", "psnr": float("inf"), "loss": [float("nan"), 1.5]})
    (line,) = journal.path.read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert (row["key"], row["psnr"], row["loss"]) == ("ä\n", None, [None, 1.5])


@pytest.mark.slow
def test_shards_at_work_together_lose_no_row(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stylecli.artifacts.journal import Journal\n"
        "with Journal(Path(sys.argv[1]), (int(sys.argv[2]), 3)) as journal:\n"
        "    for i in range(20): journal.append({'key': f'{sys.argv[2]}-{i}'})"
    )
    shards = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, str(i)], cwd=ROOT)
        for i in (1, 2, 3)
    ]
    assert [shard.wait(timeout=200) for shard in shards] == [0, 0, 0]
    assert latest(tmp_path).keys() == {f"{i}-{j}" for i in (1, 2, 3) for j in range(20)}


def test_a_folder_is_made_and_one_that_cannot_be_is_refused_before_work(tmp_path: Path) -> None:
    with Journal(tmp_path / "a" / "b") as journal:
        journal.append({"key": "a"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/out cannot be written") as caught:
        Journal(tmp_path / "file" / "out").__enter__()
    assert caught.value.fix


def test_opening_clears_away_what_killed_runs_left(tmp_path: Path) -> None:
    scrap = tmp_path / ".x.png.1.aa.part"
    scrap.write_bytes(b"")
    os.utime(scrap, (0, 0))
    with Journal(tmp_path):
        assert not scrap.exists()


def test_reading_a_journal_costs_no_torch() -> None:
    script = "import sys, stylecli.artifacts.journal; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


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
        assert caught.value.exit_status == 5
        assert held(tmp_path) == {"runs.jsonl": True}
        with pytest.raises(LockedError), Journal(tmp_path, (1, 2)):
            pass  # a part of what the other run does
        # Nobody waited: the other one has it still, as it has for a minute.
        assert holder.poll() is None
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert held(tmp_path) == {"runs.jsonl": False, "runs-1-of-2.jsonl": False}
    with Journal(tmp_path) as journal:
        journal.append({"key": "a"})
    assert latest(tmp_path).keys() == {"a"}


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("mine", "is_free"),
    [((1, 4), False), ((2, 4), True), ((3, 8), True), ((5, 8), False), ((1, 2), False),
     (None, False)],
)  # fmt: skip
def test_parts_run_side_by_side_where_they_share_no_item(
    tmp_path: Path, mine: tuple[int, int] | None, is_free: bool
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path, "1", "4"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        if is_free:
            with Journal(tmp_path, mine) as journal:
                journal.append({"key": "a"})
        else:
            with pytest.raises(LockedError), Journal(tmp_path, mine):
                pass
        assert held(tmp_path)["runs-1-of-4.jsonl"] is True
    finally:
        holder.kill()
        holder.communicate()


def test_runs_of_single_files_share_a_folder_and_not_a_file(tmp_path: Path) -> None:
    with (
        Journal(tmp_path, file=tmp_path / "a.png") as one,
        Journal(tmp_path, file=tmp_path / "b.png") as two,
    ):
        one.append({"key": "a"})
        two.append({"key": "b"})
        with (
            pytest.raises(LockedError, match=r"a\.png"),
            Journal(tmp_path, file=tmp_path / "a.png"),
        ):
            pass
    assert latest(tmp_path).keys() == {"a", "b"}
    assert {file.name for file in tmp_path.iterdir()} == {"runs.jsonl"}


def test_two_that_wait_for_each_other_both_come_to_an_end(tmp_path: Path) -> None:
    """A whole run and a part of it, begun at the same moment, each told to wait."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from stylecli.artifacts.journal import Journal\n"
        "shard = tuple(map(int, sys.argv[2:])) or None\n"
        "for i in range(3):\n"
        "    with Journal(Path(sys.argv[1]), shard, wait=True) as journal:\n"
        "        journal.append({'key': f'{shard}-{i}'}); time.sleep(0.05)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path, *part], cwd=ROOT)
        for part in ((), ("1", "2"))
    ]
    assert [one.wait(timeout=200) for one in both] == [0, 0]
    assert len(latest(tmp_path)) == 6


def test_runs_are_told_apart_from_items_and_a_killed_one_has_no_end(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.note("started", run="r1", items=2)
        journal.append({"key": "a", "status": "done", "run": "r1"})
        journal.note("ended", run="r1", exit_status=0)
        journal.note("started", run="r2", items=2)
    assert [(row["event"], row["run"]) for row in runs(tmp_path)] == [
        ("started", "r1"), ("ended", "r1"), ("started", "r2")
    ]  # fmt: skip
    assert [row["key"] for row in rows(tmp_path)] == ["a"]


def test_outcomes_are_the_last_of_each_key(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append({"key": "a", "status": "failed"})
        journal.append({"key": "a", "status": "done", "bytes": 3, "sha256": "f"})
        journal.append({"key": "b", "status": "failed"})
    found = {key: tuple(outcome)[:3] for (key, _), outcome in outcomes(tmp_path).items()}
    assert found == {"a": ("done", 3, "f"), "b": ("failed", None, None)}


def test_that_something_was_in_the_way_once_says_nothing_of_what_is_there(tmp_path: Path) -> None:
    in_the_way = {"code": "output_differs", "what": "", "fix": ""}
    with Journal(tmp_path) as journal:
        journal.append({"key": "a", "output": "a.png", "status": "done"})
        journal.append({"key": "b", "output": "a.png", "status": "failed", "error": in_the_way})
        journal.append({"key": "c", "output": "c.png", "status": "failed", "error": in_the_way})
    assert {name: row["status"] for name, row in latest(tmp_path).items()} == {
        "a.png": "done", "c.png": "failed"
    }  # fmt: skip


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs-1-of-2.jsonl").mkdir()
    with pytest.raises(InputError, match=r"runs-1-of-2\.jsonl cannot be read"):
        latest(tmp_path)


def test_waiting_queues_behind_the_other_run(tmp_path: Path) -> None:
    script = HOLD.replace("time.sleep(60)", "time.sleep(1)")
    holder = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with Journal(tmp_path, wait=True):
        assert holder.wait(timeout=200) == 0
    holder.communicate()
