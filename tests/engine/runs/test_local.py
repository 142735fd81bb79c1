"""Carrying out jobs in one process: one result for each, whatever goes wrong, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.plan import Job
from stylecli.engine.runs import local
from stylecli.engine.runs.making import Result
from stylecli.errors import ItemError, MemoryExhaustedError, WeightsError
from tests.engine.jobs import FakeMaker, Listener, broken, jobs


def carry_out(maker: FakeMaker, folder: Path, count: int) -> list[Result]:
    return list(local.work(jobs(folder, count), lambda: maker, Listener()))


@given(
    count=st.integers(0, 25),
    batch=st.integers(1, 5),
    kinds=st.integers(1, 4),
    bad=st.sets(st.tuples(st.sampled_from(["load", "make", "save"]), st.integers(0, 24))),
)
def test_every_job_gets_one_result_and_fails_alone(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    batch: int,
    kinds: int,
    bad: set[tuple[str, int]],
) -> None:
    folder = tmp_path_factory.mktemp("out")
    names = {f"{stage} {i:03}": broken(f"{i:03}") for stage, i in bad}
    maker = FakeMaker(batch=batch, sizes=lambda name: int(name) % kinds, bad=names)
    results = carry_out(maker, folder, count)
    assert sorted(r.job.content.path.stem for r in results) == [f"{i:03}" for i in range(count)]
    failed = {r.job.content.path.stem for r in results if r.status == "failed"}
    assert failed == {f"{i:03}" for _, i in bad if i < count}
    assert {file.stem for file in folder.iterdir()} == {f"{i:03}" for i in range(count)} - failed
    for group in maker.groups:
        assert len(group) <= batch
        assert len({int(name) % kinds for name in group}) == 1


def test_jobs_of_one_size_fill_their_batches(tmp_path: Path) -> None:
    maker = FakeMaker(batch=4, sizes=lambda name: int(name) % 2)
    carry_out(maker, tmp_path, 20)
    assert sorted(map(len, maker.groups)) == [2, 2, 4, 4, 4, 4]


def test_what_waits_between_the_stages_is_bounded(tmp_path: Path) -> None:
    maker = FakeMaker(batch=2, sizes=int, seconds=(0, 0.002, 0.004))
    results = carry_out(maker, tmp_path, 200)
    assert len(results) == 200
    # Ahead, in the window, being made, and waiting to be written.
    assert maker.most_held <= 3 + local.WINDOW * 2 + 2 + 6


class Meeting(FakeMaker):
    """Makes an item only while the next one is read and the last one is written."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._meetings = {
            at: threading.Barrier(1 + (at + 1 < count) + (at > 0), timeout=60)
            for at in range(count)
        }

    def load(self, job: Job) -> str:
        name = super().load(job)
        self._meet(int(name) - 1)
        return name

    def make(self, group: Sequence[tuple[Job, str]]) -> list[str]:
        self._meet(int(group[0][1]))
        return super().make(group)

    def save(self, job: Job, made: str) -> dict[str, Any]:
        self._meet(int(made) + 1)
        return super().save(job, made)

    def _meet(self, at: int) -> None:
        if at in self._meetings:
            self._meetings[at].wait()


def test_reading_making_and_writing_overlap(tmp_path: Path) -> None:
    maker = Meeting(6)
    results = carry_out(maker, tmp_path, 6)
    assert [(r.status, r.error) for r in results] == [("done", None)] * 6
    assert maker.threads["make"] == {threading.current_thread().name}
    assert not maker.threads["load"] & maker.threads["save"]


def test_a_slow_item_is_told_of_before_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many times what an item took are waited for: a row is late only if nobody waits.
    monkeypatch.setattr(local, "PATIENCE", 1000.0)
    maker = FakeMaker(seconds=(0, 0.05, 0.01))
    results = local.work(jobs(tmp_path, 3), lambda: maker, Listener())
    for made in (1, 2, 3):
        next(results)
        assert len(maker.groups) == made


def test_out_of_memory_fewer_are_made_at_a_time(tmp_path: Path) -> None:
    maker, listener = FakeMaker(batch=8, room=2), Listener()
    results = list(local.work(jobs(tmp_path, 20), lambda: maker, listener))
    assert {r.status for r in results} == {"done"}
    assert maker.batch == 2
    assert [text for text in listener.said if "2 at a time" in text]
    assert max(map(len, maker.groups)) == 2


def test_what_does_not_fit_alone_fails_alone(tmp_path: Path) -> None:
    maker = FakeMaker(batch=2, bad={"make 003": MemoryError()})
    results = carry_out(maker, tmp_path, 6)
    (failed,) = (r for r in results if r.status == "failed")
    assert isinstance(failed.error, MemoryExhaustedError)
    assert failed.job.content.path.stem == "003"


def test_out_of_memory_for_one_it_takes_less_and_less_for_the_rest_of_the_run(
    tmp_path: Path,
) -> None:
    steps = ["one row at a time", "large pictures in tiles", "with little at work"]
    maker, listener = (
        FakeMaker(batch=4, steps=steps, large={"001": 2, "005": 1, "006": 3}),
        Listener(),
    )
    results = list(local.work(jobs(tmp_path, 8), lambda: maker, listener))
    assert {r.status for r in results} == {"done"}
    assert maker.batch == 1
    assert maker.tried.count("001") == 5  # of 4, of 2, alone, and after each of two steps
    assert maker.tried.count("005") == 1
    assert [text for text in listener.said if "memory" in text] == [
        f"out of memory; from here on {how}" for how in ("2 at a time", "1 at a time", *steps)
    ]


def test_out_of_memory_after_the_last_step_fails_that_item_alone(tmp_path: Path) -> None:
    maker, listener = FakeMaker(steps=["in tiles"], large={"001": 9, "002": 9}), Listener()
    results = list(local.work(jobs(tmp_path, 4), lambda: maker, listener))
    assert [r.status for r in results] == ["done", "failed", "failed", "done"]
    assert all(
        isinstance(r.error, MemoryExhaustedError) and r.error.exit_status == 6
        for r in results
        if r.status == "failed"
    )
    assert maker.tried == ["000", "001", "001", "002", "002", "003"]
    assert listener.said == [
        "out of memory; from here on in tiles",
        "002.png: out of memory; once more, with all freed that can be",
    ]


def test_another_fault_while_there_is_too_little_memory_is_that_fault(tmp_path: Path) -> None:
    bad = {"make 001": broken("001")}
    maker = FakeMaker(steps=["in tiles"], large={"001": 1}, bad=bad)
    results = carry_out(maker, tmp_path, 3)
    (failed,) = (r for r in results if r.status == "failed")
    assert failed.error is bad["make 001"]


def test_a_fault_of_ours_costs_one_item_and_says_where(tmp_path: Path) -> None:
    results = carry_out(FakeMaker(bad={"save 001": KeyError("oops")}), tmp_path, 3)
    (failed,) = (r for r in results if r.status == "failed")
    assert failed.error is not None
    assert "KeyError in _fail, line" in failed.error.what
    assert failed.error.exit_status == 1


def test_what_would_fail_every_job_ends_the_run(tmp_path: Path) -> None:
    missing = WeightsError("no weights", fix="get them")
    maker = FakeMaker(batch=1, bad={"make 002": missing})
    seen = []
    with pytest.raises(WeightsError):
        seen.extend(local.work(jobs(tmp_path, 50), lambda: maker, Listener()))
    assert len(maker.groups) < 10


def test_an_interrupted_run_finishes_what_is_being_written_and_begins_nothing(
    tmp_path: Path,
) -> None:
    maker = FakeMaker(seconds=(0, 0, 0.05))
    results = local.work(jobs(tmp_path, 100), lambda: maker, Listener())
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt())
    written = sorted(file.stem for file in tmp_path.iterdir())
    time.sleep(0.2)
    assert sorted(file.stem for file in tmp_path.iterdir()) == written
    assert len(written) < 10
    assert all((tmp_path / f"{name}.bin").read_text() == name for name in written)


def test_a_failure_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (result,) = carry_out(FakeMaker(bad={"load 000": broken("000")}), tmp_path, 1)
    assert isinstance(result.error, ItemError)
    assert result.error.fix == "mend it"
