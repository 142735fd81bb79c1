"""Runs: what is skipped, written down, stopped and left for the next one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.artifacts import journal as journals
from stylecli.artifacts import store
from stylecli.artifacts.journal import Journal
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Job
from stylecli.engine.provenance import without_folders
from stylecli.engine.runs import local
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.making import Maker, Result
from stylecli.engine.runs.run import Handling, execute
from stylecli.errors import DiskFullError, ItemError, MemoryExhaustedError, WeightsError
from tests.engine.jobs import FakeMaker, Listener, broken, jobs


def run(
    todo: Sequence[Job], folder: Path, maker: FakeMaker | None = None, **handling: Any
) -> list[Result]:
    made = maker or FakeMaker()
    with Journal(folder) as journal:
        return list(
            execute(todo, lambda: made, journal, Listener(), local.work, Handling(**handling))
        )


def statuses(results: Sequence[Result]) -> dict[str, str]:
    return {result.job.content.path.stem: result.status for result in results}


def stripped(folder: Path, count: int) -> list[Job]:
    """As the fake maker writes files without provenance, the journal alone knows them."""
    return [replace(job, strip=True) for job in jobs(folder, count)]


def test_what_is_done_is_skipped_and_what_is_missing_made(tmp_path: Path) -> None:
    todo = stripped(tmp_path, 4)
    assert set(statuses(run(todo[:2], tmp_path)).values()) == {"done"}
    maker = FakeMaker()
    assert statuses(run(todo, tmp_path, maker)) == {
        "000": "skipped", "001": "skipped", "002": "done", "003": "done"
    }  # fmt: skip
    assert maker.groups == [["002"], ["003"]]
    assert [row["status"] for row in journals.rows(tmp_path)] == ["done"] * 4


def test_a_file_that_was_changed_since_is_not_taken_for_ours(tmp_path: Path) -> None:
    todo = stripped(tmp_path, 2)
    run(todo, tmp_path)
    todo[0].output.write_text("edited by hand")
    results = run(todo, tmp_path)
    assert statuses(results) == {"000": "failed", "001": "skipped"}
    assert todo[0].output.read_text() == "edited by hand"
    assert statuses(run(todo, tmp_path, overwrite=True)) == {"000": "done", "001": "skipped"}
    assert todo[0].output.read_text() == "000"


def test_a_limit_counts_work_and_leaves_the_rest(tmp_path: Path) -> None:
    todo = stripped(tmp_path, 5)
    first = run(todo, tmp_path, limit=2)
    assert [r.status for r in first] == ["done"] * 2 + ["pending"] * 3
    second = run(todo, tmp_path, limit=2)
    assert sorted(statuses(second).values()) == ["done"] * 2 + ["pending"] + ["skipped"] * 2
    assert statuses(run(todo, tmp_path, limit=2))["004"] == "done"
    assert [len(r) for r in (first, second)] == [5, 5]


def test_only_what_failed_last_is_retried(tmp_path: Path) -> None:
    todo = stripped(tmp_path, 5)
    run(todo[:3], tmp_path, FakeMaker(bad={"make 001": broken("001")}))
    results = run(todo, tmp_path, retry_failed=True)
    assert statuses(results) == {
        "000": "skipped", "001": "done", "002": "skipped", "003": "pending", "004": "pending"
    }  # fmt: skip
    assert set(statuses(run(todo[:3], tmp_path, retry_failed=True)).values()) == {"skipped"}


def test_enough_failures_end_the_run(tmp_path: Path) -> None:
    bad = {f"make {i:03}": broken(f"{i:03}") for i in (1, 2, 4)}
    results = run(stripped(tmp_path, 8), tmp_path, FakeMaker(bad=bad), max_failures=2)
    assert len(results) == 8
    assert sum(r.status == "failed" for r in results) == 2
    assert statuses(results)["007"] == "pending"
    (ended,) = [row for row in journals.runs(tmp_path) if row["event"] == "ended"]
    assert ended["counts"]["failed"] == 2
    assert ended["exit_status"] == 3


def test_what_is_in_the_way_is_no_reason_to_stop(tmp_path: Path) -> None:
    """Ten results edited by hand must not keep a nightly run from its work for ever."""
    todo = stripped(tmp_path, 4)
    for job in todo[:2]:
        job.output.write_text("edited by hand")
    results = run(todo, tmp_path, max_failures=1)
    assert sorted(statuses(results).values()) == ["done", "done", "failed", "failed"]
    assert len(list(journals.rows(tmp_path))) == 4
    run(todo, tmp_path)
    assert len(list(journals.rows(tmp_path))) == 4, "a row for every night"


def test_what_never_succeeds_does_not_use_up_the_limit(tmp_path: Path) -> None:
    todo = stripped(tmp_path, 5)
    bad = {f"make {i:03}": broken(f"{i:03}") for i in range(2)}
    assert statuses(run(todo, tmp_path, FakeMaker(bad=bad), limit=2))["002"] == "pending"
    second = statuses(run(todo, tmp_path, FakeMaker(bad=bad), limit=2))
    assert (second["002"], second["003"]) == ("done", "done")


def test_a_mended_input_is_retried_although_it_is_another(tmp_path: Path) -> None:
    (job,) = stripped(tmp_path, 1)
    run([job], tmp_path, FakeMaker(bad={"load 000": broken("000")}))
    mended = replace(job, key="of the mended bytes")
    assert statuses(run([mended], tmp_path, retry_failed=True)) == {"000": "done"}


def test_files_of_the_same_bytes_are_items_of_their_own(tmp_path: Path) -> None:
    one, two = stripped(tmp_path, 2)
    two = replace(two, key=one.key)
    results = run([one, two], tmp_path, FakeMaker(bad={"make 000": broken("000")}))
    assert statuses(results) == {"000": "failed", "001": "done"}
    assert {row["output"]: row["status"] for row in journals.latest(tmp_path).values()} == {
        "000.bin": "failed", "001.bin": "done"
    }  # fmt: skip
    again = run([one, two], tmp_path, retry_failed=True)
    assert statuses(again) == {"000": "done", "001": "skipped"}


def test_retrying_a_hundred_thousand_takes_no_square_of_it(tmp_path: Path) -> None:
    def spent(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        todo = stripped(folder, count)
        for job in todo:
            job.output.write_text("other")
        handling = Handling(retry_failed=True)
        with Journal(folder) as journal:
            first = todo[0].output.name
            journal.append({"key": "x", "output": first, "status": "failed"})
            started = time.process_time()
            results = list(execute(todo, FakeMaker, journal, Listener(), local.work, handling))
            seconds = time.process_time() - started
        assert sum(result.status == "failed" for result in results) == 1
        assert sum(result.status == "pending" for result in results) == count - 1
        return seconds

    assert spent(3000) < 40 * spent(300)


def test_a_sheet_is_known_by_its_key_too(tmp_path: Path) -> None:
    job = replace(saved(tmp_path), sheet=tmp_path / "a.compare.png")
    assert [one.redo for one in pending([job], Known(tmp_path))[0]] == [True]
    black = torch.zeros(2, 2, 3, dtype=torch.uint8)
    store.save_image(tmp_path / "a.compare.png", black, {"key": "of other settings"})
    todo, (result,) = pending([job], Known(tmp_path))
    assert not todo
    assert result.error is not None
    assert "a.compare.png exists" in result.error.what
    store.save_image(tmp_path / "a.compare.png", black, {"key": job.key})
    assert [r.status for r in pending([job], Known(tmp_path))[1]] == ["skipped"]


def test_a_folder_without_weights_is_an_output_half_made(tmp_path: Path) -> None:
    job = replace(jobs(tmp_path, 1)[0], output=tmp_path / "lora")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    assert pending([job], Known(tmp_path))[0] == [job]


def test_a_place_that_cannot_even_be_asked_fails_alone(tmp_path: Path) -> None:
    one, two = jobs(tmp_path, 2)
    one = replace(one, output=tmp_path / ("x" * 300))
    todo, (failed,) = pending([one, two], Known(tmp_path))
    assert todo == [two]
    assert failed.status == "failed"


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    todo = stripped(tmp_path, 6)
    full = DiskFullError("no room", fix="free some disk")
    results = run(todo, tmp_path, FakeMaker(bad={"save 002": full}))
    assert len(results) == 6
    found = statuses(results)
    assert found["002"] == "failed"
    assert found["005"] == "pending"
    assert sum(status == "failed" for status in found.values()) == 1
    assert "failed" not in statuses(run(todo, tmp_path)).values()


def test_a_row_that_cannot_be_written_ends_the_run_and_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def full(self: Journal, row: dict[str, Any]) -> None:
        if row["output"] == "001.bin":
            raise ItemError("the disk went away", fix="bring it back")
        append(self, row)

    seen: list[Result] = []
    todo = stripped(tmp_path, 9)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(ItemError, match="went away"), Journal(tmp_path) as journal:
            seen.extend(execute(todo, FakeMaker, journal, Listener(), local.work, Handling()))
    assert len(seen) == 9
    assert statuses(seen)["001"] == "done"
    assert statuses(seen)["008"] == "pending"
    assert journals.runs(tmp_path)[-1]["exit_status"] == 3
    assert "failed" not in statuses(run(todo, tmp_path)).values()


def test_a_result_that_somebody_takes_away_at_once_fails_alone(tmp_path: Path) -> None:
    class Taken(FakeMaker):
        def save(self, job: Job, made: str) -> dict[str, Any]:
            found = super().save(job, made)
            if made == "001":
                job.output.unlink()
            return found

    results = run(stripped(tmp_path, 3), tmp_path, Taken())
    assert statuses(results) == {"000": "done", "001": "failed", "002": "done"}
    (failed,) = (r for r in results if r.status == "failed")
    assert failed.error is not None
    assert "vanished" in failed.error.what


@pytest.mark.slow
def test_out_of_memory_is_raised_once_the_others_are_done(tmp_path: Path) -> None:
    seen: list[Result] = []
    maker = FakeMaker(bad={"make 001": MemoryError()})
    with pytest.raises(MemoryExhaustedError), Journal(tmp_path) as journal:
        seen.extend(
            execute(
                stripped(tmp_path, 3), lambda: maker, journal, Listener(), local.work, Handling()
            )
        )
    assert journals.runs(tmp_path)[-1]["exit_status"] == 6
    assert {row["output"]: row["status"] for row in journals.rows(tmp_path)} == {
        "000.bin": "done", "001.bin": "failed", "002.bin": "done"
    }  # fmt: skip


def broken_work(
    _todo: Sequence[Job], _start: Callable[[], Maker], _reporter: Reporter
) -> Generator[Result, None, None]:
    raise WeightsError("no weights", fix="get them")
    yield


def test_a_run_that_cannot_begin_says_how_it_ended(tmp_path: Path) -> None:
    with pytest.raises(WeightsError), Journal(tmp_path) as journal:
        list(
            execute(stripped(tmp_path, 1), FakeMaker, journal, Listener(), broken_work, Handling())
        )
    assert [row["event"] for row in journals.runs(tmp_path)] == ["started", "ended"]
    assert journals.runs(tmp_path)[-1]["exit_status"] == 4


def test_rows_name_outputs_below_the_folder_and_what_they_hold(tmp_path: Path) -> None:
    (todo,) = stripped(tmp_path / "out" / "deep", 1)
    todo.output.parent.mkdir(parents=True)
    run([todo], tmp_path / "out")
    text = (tmp_path / "out" / "runs.jsonl").read_text()
    started, row, ended = map(json.loads, text.splitlines())
    assert row["output"] == "deep/000.bin"
    assert row["bytes"] == 3
    assert row["run"] == started["run"] == ended["run"]
    assert started["items"] == started["todo"] == 1
    assert ended["counts"] == {"done": 1}
    assert str(tmp_path) not in text


def saved(folder: Path) -> Job:
    job = replace(jobs(folder, 1)[0], output=folder / "a.png")
    store.save_image(job.output, torch.zeros(2, 2, 3, dtype=torch.uint8), {"key": job.key})
    return job


def test_a_file_without_its_row_is_noted_as_done(tmp_path: Path) -> None:
    """Killed between the two: the provenance says what the file is."""
    job = saved(tmp_path)
    assert [r.status for r in run([job], tmp_path)] == ["skipped"]
    (row,) = journals.rows(tmp_path)
    assert (row["status"], row["seconds"]) == ("done", None)
    run([job], tmp_path)
    assert len(list(journals.rows(tmp_path))) == 1


def test_a_file_that_says_more_than_it_is_to_is_made_again(tmp_path: Path) -> None:
    job = saved(tmp_path)
    again = replace(job, strip=True)
    assert pending([again], Known(tmp_path)) == ([replace(again, redo=True)], [])


def test_a_result_cut_short_since_is_not_taken_for_done(tmp_path: Path) -> None:
    """By a disk or a copy, or edited by a program that keeps the note: nobody's to replace."""
    job = saved(tmp_path)
    run([job], tmp_path)
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    store.save_image(job.output, noise, {"key": job.key})
    assert statuses(run([job], tmp_path)) == {"000": "failed"}
    job.output.write_bytes(b"")
    assert pending([job], Known.of(tmp_path)) == ([job], [])


def test_a_journal_that_somebody_removes_ends_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    class Swept(FakeMaker):
        def save(self, job: Job, made: str) -> dict[str, Any]:
            found = super().save(job, made)
            if made == "002":
                (folder / "runs.jsonl").unlink()
            return found

    seen: list[Result] = []
    maker = Swept(seconds=(0, 0.05, 0))
    with pytest.raises(ItemError, match="somebody removed it"), Journal(folder) as journal:
        seen.extend(
            execute(
                stripped(folder, 20), lambda: maker, journal, Listener(), local.work, Handling()
            )
        )
    assert len(seen) == 20
    assert statuses(seen)["019"] == "pending"


def note_run(folder: Path, name: str, at: float, ended: float | None = None) -> None:
    """A run that began then, and was killed unless it ended."""
    stamps = {"started": at} | ({} if ended is None else {"ended": ended})
    with (folder / "runs.jsonl").open("a") as stream:
        for event, seconds in stamps.items():
            stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
            stream.write(json.dumps({"event": event, "run": name, "at": stamp}) + "\n")


def test_a_stripped_file_without_its_row_is_made_again_only_after_a_kill(tmp_path: Path) -> None:
    (job,) = stripped(tmp_path, 1)
    job.output.write_text("000")
    assert statuses(run([job], tmp_path)) == {"000": "failed"}
    note_run(tmp_path, "killed", time.time())
    assert statuses(run([job], tmp_path)) == {"000": "done"}
    assert statuses(run([job], tmp_path)) == {"000": "skipped"}


@pytest.mark.parametrize(
    ("made_at", "status"),
    [(1_000_100, "done"), (1_003_700, "done"), (990_000, "failed"), (1_050_000, "failed")],
)
def test_the_window_of_a_killed_run_is_as_long_as_it_was(
    tmp_path: Path, made_at: int, status: str
) -> None:
    """Killed at night, killed again the next while loading, well the third: nothing is lost, and
    what a person put there by day is not taken for ours.
    """
    (job,) = stripped(tmp_path, 1)
    job.output.write_text("000")
    os.utime(job.output, (made_at, made_at))
    note_run(tmp_path, "first", 1_000_000)
    note_run(tmp_path, "second", 1_003_600)
    note_run(tmp_path, "third", 1_003_800, 1_004_000)
    assert statuses(run([job], tmp_path)) == {"000": status}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/home/me/in/a.png: damaged", "a.png: damaged"),
        ("cannot read '/a/b.safetensors'", "cannot read 'b.safetensors'"),
        (r"C:\\Users\\me\\a.png is empty".replace("\\\\", "\\"), "a.png is empty"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("photos/a.png, 3/4 of it, 1 / 2", "photos/a.png, 3/4 of it, 1 / 2"),
        ("delete /tmp/x/.a.state to start afresh", "delete .a.state to start afresh"),
    ],
)
def test_folders_of_absolute_paths_go(said: str, kept: str) -> None:
    assert without_folders(said) == kept


def test_named_files_lose_their_folders_however_they_were_typed() -> None:
    files = [Path("my photos/a.png"), Path("my photos/a.png.bak"), Path("../b.png")]
    said = "my photos/a.png.bak, my photos/a.png and ../b.png"
    assert without_folders(said, files) == "a.png.bak, a.png and b.png"
