"""How far runs are, from their journals: also torn, merged, killed and going on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts import journal
from stylecli.artifacts.journal import Journal
from stylecli.engine.runs import history, pace, status
from stylecli.engine.runs.status import Status
from stylecli.errors import InputError
from tests.conftest import ROOT

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


class Writer:
    """Writes journals by hand, so that they can be as old, as torn and as odd as they come."""

    def __init__(self, folder: Path, shard: tuple[int, int] | None = None) -> None:
        self.shard = shard
        name = "runs.jsonl" if shard is None else f"runs-{shard[0]}-of-{shard[1]}.jsonl"
        self.path = folder / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.run = ""

    def put(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as stream:
            stream.write(json.dumps(row, sort_keys=True) + "\n")

    def begin(
        self,
        run: str,
        when: float,
        *,
        items: int,
        todo: int | None = None,
        about: str | None = None,
    ) -> None:
        self.run = f"{run}-{self.shard}"
        self.put({
            "event": "started", "run": self.run, "at": at(when), "command": "transfer",
            "about": about,
            "items": items, "todo": items if todo is None else todo,
            "shard": self.shard and list(self.shard),
        })  # fmt: skip

    def item(
        self,
        key: str,
        when: float,
        error: str | None = None,
        code: str = "image",
        seconds: float | None = 1.0,
        output: str | None = None,
    ) -> None:
        self.put({
            "finished": at(when), "run": self.run, "key": key, "output": output or f"{key}.png",
            "status": "failed" if error else "done", "seconds": seconds,
            "error": {"code": code, "what": error, "fix": ""} if error else None,
        })  # fmt: skip

    def end(self, when: float, exit_status: int = 0, **counts: int) -> None:
        self.put({
            "event": "ended", "run": self.run, "at": at(when), "exit_status": exit_status,
            "counts": counts,
        })  # fmt: skip


def test_a_run_that_ended_is_told_as_it_ended(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=5, todo=4)
    for number in range(3):
        writer.item(f"k{number}", 10 + 6 * number, error="too dark" if number == 1 else None)
    writer.end(30, 3, done=2, failed=1, skipped=1, pending=1)
    found = status.read(tmp_path)
    (part,) = found.parts
    assert (found.done, found.failed, found.left) == (2, 1, 1)
    assert [(one.output, one.what) for one in found.failures] == [("k1.png", "too dark")]
    assert (part.ended, part.exit_status, part.is_running) == (at(30), 3, False)
    assert (part.items, part.shard, part.command) == (5, None, "transfer")
    assert found.per_minute == pytest.approx(10)
    assert found.seconds_left is None


def test_a_killed_run_has_no_status_and_ended_with_its_last_item(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=10)
    writer.item("k", 7)
    (part,) = status.read(tmp_path).parts
    assert (part.ended, part.exit_status, part.left) == (at(7), None, 9)


def test_a_run_that_goes_on_is_seen_by_its_lock(tmp_path: Path) -> None:
    writer = Writer(tmp_path, (1, 2))
    writer.begin("a", 0, items=10)
    for number in range(4):
        writer.item(f"k{number}", 10 + number)
    other = Writer(tmp_path, (2, 2))
    other.begin("a", 0, items=3)
    with Journal(tmp_path, (1, 2)):
        found = status.read(tmp_path)
    assert [part.is_running for part in found.parts] == [True, False]
    assert [part.left for part in found.parts] == [6, 3]
    assert found.per_minute == pytest.approx(60)
    assert found.seconds_left == pytest.approx(6)
    assert not any(part.is_running for part in status.read(tmp_path).parts)


def test_runs_that_go_on_together_end_with_the_slowest(tmp_path: Path) -> None:
    for shard, seconds, items in ((1, 1, 30), (2, 2, 20), (3, 5, 4)):
        writer = Writer(tmp_path, (shard, 3))
        writer.begin("a", 0, items=items)
        for number in range(3):
            writer.item(f"{shard}-{number}", 10 + seconds * number)
        if shard == 3:
            writer.end(30, 130, done=3, pending=1)
    with Journal(tmp_path, (1, 3)), Journal(tmp_path, (2, 3)):
        found = status.read(tmp_path)
    assert found.per_minute == pytest.approx(60 + 30)
    assert [part.seconds_left for part in found.parts] == [27, 34, None]
    assert found.seconds_left == pytest.approx(34)
    Writer(tmp_path, (3, 3)).begin("b", 40, items=4, todo=1)
    with Journal(tmp_path, (1, 3)), Journal(tmp_path, (3, 3)):
        assert status.read(tmp_path).seconds_left is None


def test_a_run_that_begins_while_the_journal_is_read_is_not_taken_for_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(tmp_path).begin("a", 0, items=1)
    held, free = {"runs.jsonl": True}, {"runs.jsonl": False}
    for answers in ([{}, held], [free, held], [held, free]):
        given = iter(answers)
        monkeypatch.setattr(journal, "held", lambda _folder, given=given: next(given))
        assert status.read(tmp_path).parts[0].is_running


def test_what_a_limit_left_is_left(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=100, todo=10)
    for number in range(10):
        writer.item(f"k{number}", number)
    writer.end(30, 0, done=10, pending=90)
    assert status.read(tmp_path).left == 90


@pytest.mark.slow
def test_looking_does_not_disturb_a_run_that_begins(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stylecli.engine.runs import status\n"
        "print('on', flush=True)\n"
        "while True: status.read(Path(sys.argv[1]))"
    )
    Writer(tmp_path).begin("a", 0, items=1)
    with Journal(tmp_path):
        pass
    looker = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert looker.stdout is not None
        looker.stdout.readline()
        for number in range(20):
            with Journal(tmp_path) as opened:
                opened.append({"key": f"{number}", "status": "done"})
    finally:
        looker.kill()
        looker.communicate()
    assert status.read(tmp_path).done == 20


def test_items_that_were_there_before_the_work_began_are_not_counted_as_work(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=6, todo=3)
    writer.item("noted-late", 0.1, seconds=None)
    writer.item("in-the-way", 0.2, error="exists", code="output_differs", seconds=0.0)
    for number in range(2):
        writer.item(f"k{number}", 100 + 30 * number)
    found = status.read(tmp_path)
    assert found.left == 1
    assert found.per_minute == pytest.approx(2)


def test_what_a_later_run_mended_is_no_longer_failed(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=2)
    writer.item("x", 1, error="no room")
    writer.item("y", 2)
    writer.end(3, 3, done=1, failed=1)
    writer.begin("b", 10, items=2, todo=1)
    writer.item("x", 11)
    writer.end(12, 0, done=1, skipped=1)
    found = status.read(tmp_path)
    assert (found.done, found.failed, list(found.failures)) == (2, 0, [])
    assert [part.started for part in found.parts] == [at(10)]


def test_what_nobody_asks_for_any_more_has_not_failed(tmp_path: Path) -> None:
    """A broken picture was removed: the next run of the same line ends well, and so does status."""
    writer = Writer(tmp_path)
    writer.begin("night 1", 0, items=2, about="ink")
    writer.item("good", 1)
    writer.item("broken", 2, error="torn")
    writer.end(3, exit_status=3, done=1, failed=1)
    assert status.read(tmp_path).failed == 1
    writer.begin("of another line", 10, items=5, about="oil")
    writer.end(11, skipped=5)
    assert status.read(tmp_path).failed == 1
    writer.begin("limited", 20, items=2, about="ink")
    writer.end(21, skipped=1, pending=1)
    assert status.read(tmp_path).failed == 1
    writer.begin("night 2", 30, items=1, about="ink")
    writer.end(31, skipped=1)
    found = status.read(tmp_path)
    assert (found.done, found.failed, list(found.failures)) == (1, 0, [])


def test_an_output_is_counted_once_whatever_it_was_tried_with(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=2)
    writer.item("k1", 1, error="too dark", output="cat.png")
    writer.item("k1", 2, output="dog.png")
    writer.begin("b", 10, items=2)
    writer.item("k2", 11, output="cat.png")
    writer.item("k2", 12, output="dog.png")
    found = status.read(tmp_path)
    assert (found.done, found.failed) == (2, 0)


def test_files_of_the_same_bytes_are_counted_each(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=3)
    for name in ("cat.png", "copy.png", "deep/cat.png"):
        writer.item("k", 1, output=name)
    assert status.read(tmp_path).done == 3


def test_a_run_that_was_refused_for_what_is_there_does_not_undo_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=1)
    writer.item("k1", 1, output="cat.png")
    writer.begin("mistyped", 10, items=2)
    writer.item("k2", 11, "exists", "output_differs", 0.0, output="cat.png")
    writer.item("k3", 12, "exists", "output_differs", 0.0, output="foreign.png")
    writer.end(13, 3, failed=2)
    found = status.read(tmp_path)
    assert (found.done, found.failed) == (1, 1)
    assert [one.output for one in found.failures] == ["foreign.png"]


def test_a_run_that_nobody_can_see_is_said_neither_to_run_nor_to_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=9)
    writer.item("k", 10)
    writer.item("l", 20)
    for before, after, told in ((None, None, None), (True, None, True), (False, False, False)):
        given = iter([{"runs.jsonl": before}, {"runs.jsonl": after}])
        monkeypatch.setattr(journal, "held", lambda _folder, given=given: next(given))
        found = status.read(tmp_path)
        (part,) = found.parts
        assert part.is_running is told
        assert part.ended == (at(20) if told is False else None)
        assert found.seconds_left == (70 if told else None)


def test_the_run_of_a_single_file_is_locked_elsewhere_and_may_be_at_work(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=1)
    assert status.read(tmp_path).parts[0].is_running is None
    writer.end(3, 0, done=1)
    assert status.read(tmp_path).parts[0].is_running is False


def test_the_last_failures_are_told_and_all_are_counted(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=9)
    for number in range(9):
        writer.item(f"k{number}", number, error=f"reason {number}")
    found = status.read(tmp_path)
    assert found.failed == 9
    assert [one.what for one in found.failures] == [f"reason {n}" for n in range(4, 9)]


def test_items_of_a_batch_are_finished_together_and_counted_each(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=100)
    for batch in range(5):
        for number in range(8):
            writer.item(f"{batch}-{number}", 50 + 16 * batch)
    assert status.read(tmp_path).per_minute == pytest.approx(30)
    one_batch = Writer(tmp_path / "one")
    one_batch.begin("a", 0, items=100)
    for number in range(8):
        one_batch.item(f"{number}", 16)
    assert status.read(tmp_path / "one").per_minute == pytest.approx(30)


def test_a_night_asleep_and_a_clock_set_back_do_not_change_the_rate(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=100)
    for number in range(20):
        writer.item(f"k{number}", 100 + 5 * number + (30_000 if number >= 10 else 0))
    assert status.read(tmp_path).per_minute == pytest.approx(12)
    slow = Writer(tmp_path / "slow")
    slow.begin("a", 0, items=100)
    for number in range(5):
        slow.item(f"k{number}", 3000 * number, seconds=2900.0)
    assert status.read(tmp_path / "slow").per_minute == pytest.approx(1 / 50)


def test_no_rate_is_made_up(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 10, items=100)
    assert status.read(tmp_path).per_minute is None
    writer.item("k", 10)
    assert status.read(tmp_path).per_minute is None


def test_a_run_over_all_does_over_what_shards_left_and_shards_what_it_left(
    tmp_path: Path,
) -> None:
    def parts() -> list[tuple[int, int] | None]:
        return [part.shard for part in status.read(tmp_path).parts]

    for when, shard in enumerate([(1, 2), (2, 2)]):
        Writer(tmp_path, shard).begin("a", when, items=9)
    assert parts() == [(1, 2), (2, 2)]
    Writer(tmp_path).begin("b", 10, items=18)
    assert parts() == [None]
    for when, shard in enumerate([(1, 3), (2, 3)]):
        Writer(tmp_path, shard).begin("c", 20 + when, items=6)
        assert None in parts()
    Writer(tmp_path, (3, 3)).begin("c", 22, items=6)
    assert parts() == [(1, 3), (2, 3), (3, 3)]
    Writer(tmp_path, (2, 6)).begin("d", 30, items=3)
    assert parts() == [(1, 3), (2, 3), (3, 3), (2, 6)]
    Writer(tmp_path, (5, 6)).begin("d", 31, items=3)
    assert parts() == [(1, 3), (3, 3), (2, 6), (5, 6)]
    Writer(tmp_path).begin("e", 40, items=18)
    assert parts() == [None]
    Writer(tmp_path, (1, 3)).begin("f", 50, items=6)
    assert parts() == [None, (1, 3)]


@given(
    shards=st.lists(st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))),
    shard=st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
)
def test_shards_cover_one_when_every_item_of_it_is_in_one_of_them(
    shards: list[tuple[int, int]], shard: tuple[int, int]
) -> None:
    def has(of: tuple[int, int], item: int) -> bool:
        return item % of[1] == of[0] - 1

    every = all(any(has(s, item) for s in shards) for item in range(60) if has(shard, item))
    assert history._cover(shards, shard) == every


def test_journals_of_older_versions_are_counted(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(
        '{"finished": "2026-01-01T00:00:00+00:00", "key": "a", "status": "done", "output": "a"}\n'
        '{"key": "b", "status": "failed", "error": {"what": "dark"}}\n'
    )
    found = status.read(tmp_path)
    assert (found.done, found.failed, found.left, list(found.parts)) == (1, 1, 0, [])


def test_wherever_a_journal_is_torn_and_whatever_is_in_it_the_rest_counts(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=3)
    writer.item("x", 1)
    writer.item("y", 2, error="dark")
    writer.end(3, 3, done=1, failed=1, pending=1)
    whole = writer.path.read_bytes()
    for cut in range(0, len(whole), 7):
        writer.path.write_bytes(whole[:cut])
        found = status.read(tmp_path)
        assert found.done + found.failed <= 2
    odd: list[dict[str, Any]] = [
        {"key": "o", "finished": 7, "error": "text", "status": None, "run": ["r"]},
        {"key": "p", "finished": "yesterday", "seconds": "3", "output": None, "error": []},
        {"key": "q", "output": "o", "run": writer.run, "seconds": 10**400, "status": "done"},
        {"event": "started", "run": None, "shard": [1], "items": "many", "at": None},
        {"event": "started", "run": 7, "shard": [0, 0], "at": at(1)},
        {"event": "started", "run": 8, "shard": ["a", "b"], "at": at(1)},
        {"event": "ended", "run": "unheard of", "counts": 3},
        {"event": "ended", "run": writer.run, "counts": [], "exit_status": "x", "at": 3},
    ]
    writer.path.write_bytes(whole)
    for row in odd:
        writer.put(row)
    assert (status.read(tmp_path).done, status.read(tmp_path).failed) == (1, 3)


@pytest.mark.slow
def test_a_hundred_thousand_rows_cost_little_more_than_their_json(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.begin("a", 0, items=100_000)
    filler = [{"role": "content", "name": "photo.jpg", "sha256": "a" * 64}] * 2
    with writer.path.open("a") as stream:
        for number in range(100_000):
            row = {"finished": at(number), "run": writer.run, "key": f"{number:064x}",
                   "status": "done", "seconds": 1.0, "inputs": filler}  # fmt: skip
            stream.write(json.dumps(row) + "\n")
    script = (
        "import json, sys, time; from pathlib import Path\n"
        "from stylecli.engine.runs import status\n"
        "began = time.process_time(); found = status.read(Path(sys.argv[1]))\n"
        "spent = time.process_time() - began; began = time.process_time()\n"
        f"for line in open({str(writer.path)!r}): json.loads(line)\n"
        "print(found.done, spent / (time.process_time() - began), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    count, times, has_torch = done.stdout.split()
    assert (count, has_torch) == ("100000", "False")
    assert float(times) < 8


def test_folders_with_journals_are_found_where_they_are_named_or_below(tmp_path: Path) -> None:
    for name in ("b", "a/deep", "a/deep/deeper"):
        Writer(tmp_path / name).begin("r", 0, items=1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "runs-old.jsonl").write_text("{}\n")
    (tmp_path / "b" / "x.png").write_bytes(b"")
    assert status.folders([tmp_path]) == [
        tmp_path / "a/deep", tmp_path / "a/deep/deeper", tmp_path / "b"
    ]  # fmt: skip
    assert status.folders([tmp_path / "a" / "deep"]) == [tmp_path / "a/deep"]
    assert status.folders([tmp_path / "b" / "x.png", tmp_path / "b"]) == [tmp_path / "b"]
    for name, what in (("c", "holds no journal"), ("absent", "does not exist")):
        with pytest.raises(InputError, match=what) as caught:
            status.folders([tmp_path / "b", tmp_path / name])
        assert caught.value.fix
        assert caught.value.exit_status == 2


def plain_count(rows: list[tuple[str, int, str]]) -> tuple[int, int]:
    last: dict[str, str] = {}
    for name, _, outcome in sorted(rows, key=lambda row: row[1]):
        if outcome != "in the way" or name not in last:
            last[name] = outcome
    done = sum(outcome == "done" for outcome in last.values())
    return done, len(last) - done


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_of_the_last_row_of_every_output_whichever_journal_it_is_in(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    rows = [
        (chance.choice("abcdefghijkl"), when, chance.choice(["done", "failed", "in the way"]))
        for when in chance.sample(range(1000), 30)
    ]
    writers = [Writer(tmp_path, (shard, 3)) for shard in (1, 2, 3)]
    for writer in writers:
        writer.begin("r", 0, items=60)
    for name, when, outcome in rows:
        error, code = (None if outcome == "done" else outcome), "image"
        if outcome == "in the way":
            code = "output_differs"
        key = chance.choice("xyz")
        chance.choice(writers).item(key, when, error, code, output=name)
    found: Status = status.read(tmp_path)
    assert (found.done, found.failed) == plain_count(rows)
    latest = journal.latest(tmp_path)
    assert found.done == sum(row["status"] == "done" for row in latest.values())
    assert found.done + found.failed == len(latest)


@pytest.mark.parametrize("seconds", [0.04, 3.95, 9.96, 59.6, 60, 119.7, 3599.6, 3600, 7325, 90061])
def test_a_duration_is_right_to_its_last_digit(seconds: float) -> None:
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    words = pace.duration(seconds).split()
    told = sum(float(n) * units[unit] for n, unit in zip(words[::2], words[1::2], strict=True))
    digit = {"h": 60.0, "min": 0.5}.get(words[1], 0.05 if "." in words[0] else 0.5)
    assert abs(told - seconds) <= digit
    assert "." not in words[0] or len(words[0]) == 3
    assert all(
        float(n) < 60 for n, unit in zip(words[::2], words[1::2], strict=True) if unit != "h"
    )
