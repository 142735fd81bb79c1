"""Carry out jobs in this process: read ahead, make in batches, write behind.

Decoding, the model and encoding overlap; what waits between them is bounded, so that memory does
not grow with the number of jobs.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from stylecli.engine.context import Reporter
from stylecli.engine.plan import Job
from stylecli.engine.runs.making import Maker, Result
from stylecli.errors import ItemError, MemoryExhaustedError, StyleError

# What a RuntimeError says that is none of ours.
NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
# Read ahead and not yet made, in batches: enough to find some of one size.
WINDOW = 4
# How long an item may be kept waiting for its row, as a share of the time it took to make.
PATIENCE = 0.1


@dataclass(slots=True)
class _Loaded:
    """A job whose inputs were read."""

    job: Job
    value: Any
    seconds: float


def work(
    todo: Sequence[Job], start: Callable[[], Maker], reporter: Reporter
) -> Generator[Result, None, None]:
    """A result for every job, as it is written.

    Raises:
        StyleError: What would fail every job, such as missing weights.
    """
    maker = start()
    # One reader: decoders release the interpreter, and a disk is not read faster by two.
    with (
        reporter.task("items", len(todo)) as task,
        _Pool("read") as reader,
        _Pool("write") as writer,
    ):
        behind = _Behind(maker, writer.pool)
        for group in _groups(maker, _read_ahead(maker, todo, reader.pool), behind):
            behind.write(group, *_made(maker, group, reporter))
            for result in behind.finished():
                task.advance()
                yield result
        for result in behind.rest():
            task.advance()
            yield result


class _Pool:
    """One thread; left early, it drops what it has not begun and finishes what it has."""

    def __init__(self, name: str) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


def _read_ahead(
    maker: Maker, todo: Sequence[Job], reader: ThreadPoolExecutor
) -> Iterator[tuple[Job, Future[_Loaded]]]:
    ahead: deque[tuple[Job, Future[_Loaded]]] = deque()
    for job in todo:
        ahead.append((job, reader.submit(_load, maker, job)))
        if len(ahead) > maker.batch:
            yield ahead.popleft()
    yield from ahead


def _load(maker: Maker, job: Job) -> _Loaded:
    started = time.monotonic()
    return _Loaded(job, maker.load(job), time.monotonic() - started)


def _groups(
    maker: Maker, loads: Iterator[tuple[Job, Future[_Loaded]]], behind: _Behind
) -> Iterator[list[_Loaded]]:
    """Jobs of one bucket, as many as a batch takes; fewer where the window holds no more."""
    held: dict[Hashable, list[_Loaded]] = {}
    for job, future in loads:
        try:
            loaded = future.result()
            bucket = maker.bucket(job, loaded.value)
        except Exception as error:
            behind.fail(job, error)
            yield []
            continue
        held.setdefault(bucket, []).append(loaded)
        if len(held[bucket]) >= maker.batch:
            yield held.pop(bucket)
        elif sum(map(len, held.values())) >= WINDOW * maker.batch:
            yield held.pop(max(held, key=lambda key: len(held[key])))
    yield from held.values()


def _made(maker: Maker, group: list[_Loaded], reporter: Reporter) -> tuple[list[Any], float]:
    """What was made of each, or why not; and the seconds one of them took."""
    if not group:
        return [], 0.0
    started = time.monotonic()
    made = _with_memory(maker, group, reporter)
    return made, (time.monotonic() - started) / len(group)


def _with_memory(maker: Maker, group: list[_Loaded], reporter: Reporter) -> list[Any]:
    """Out of memory, make fewer at a time, and one alone in less memory than before."""
    if len(group) > maker.batch:  # fewer fit than when it was put together
        parts = [group[at : at + maker.batch] for at in range(0, len(group), maker.batch)]
        return [made for part in parts for made in _with_memory(maker, part, reporter)]
    try:
        return list(maker.make([(one.job, one.value) for one in group]))
    except Exception as error:
        is_memory = is_out_of_memory(error)
        if len(group) == 1 and not is_memory:
            return [error]
    if not is_memory:
        # One of them cannot be made: alone, each answers for itself.
        return [made for one in group for made in _with_memory(maker, [one], reporter)]
    # Outside the handler, whose traceback keeps every tensor of the failed attempt alive.
    _free()
    if maker.batch > 1:
        maker.batch = max(1, maker.batch // 2)
        reporter.warn(f"out of memory; from here on {maker.batch} at a time")
        return _with_memory(maker, group, reporter)
    (one,) = group
    return [_alone(maker, one, reporter)]


def _alone(maker: Maker, one: _Loaded, reporter: Reporter) -> Any:
    """Out of memory for one, ask for less and less of it, which holds for the rest of the run."""
    how = maker.shrink()
    name = one.job.inputs[0].path.name
    reporter.warn(
        f"{name}: out of memory; once more, with all freed that can be"
        if how is None
        else f"out of memory; from here on {how}"
    )
    while True:
        try:
            (made,) = maker.make([(one.job, one.value)])
            return made
        except Exception as error:
            if not is_out_of_memory(error):
                return error
        _free()
        how = None if how is None else maker.shrink()
        if how is None:
            return too_large(one.job)
        reporter.warn(f"out of memory; from here on {how}")


class _Behind:
    """Results whose files are being written, in the order they were made."""

    def __init__(self, maker: Maker, writer: ThreadPoolExecutor) -> None:
        self._maker = maker
        self._writer = writer
        self._waiting: deque[tuple[Job, float, Future[Mapping[str, Any]]]] = deque()
        self._patience = 0.0

    def write(self, group: Sequence[_Loaded], made: Sequence[Any], seconds: float) -> None:
        """Hand over what was made of a group, each of which took so long."""
        for one, value in zip(group, made, strict=True):
            if isinstance(value, Exception):
                self.fail(one.job, value, seconds + one.seconds)
            else:
                future = self._writer.submit(self._maker.save, one.job, value)
                self._waiting.append((one.job, seconds + one.seconds, future))
        self._patience = seconds * PATIENCE

    def fail(self, job: Job, error: Exception, seconds: float = 0.0) -> None:
        """A job of which there is nothing to write."""
        failed: Future[Mapping[str, Any]] = Future()
        failed.set_exception(error)
        self._waiting.append((job, seconds, failed))

    def finished(self) -> Iterator[Result]:
        """What is written; an item that took long is waited for, so that its row is not late."""
        wait([future for *_, future in self._waiting], timeout=self._patience)
        while self._waiting and (
            self._waiting[0][2].done() or len(self._waiting) > 2 * self._maker.batch
        ):
            yield self._next()

    def rest(self) -> Iterator[Result]:
        """All the others."""
        while self._waiting:
            yield self._next()

    def _next(self) -> Result:
        job, seconds, future = self._waiting.popleft()
        started = time.monotonic()
        try:
            details = future.result()
        except (ItemError, MemoryExhaustedError) as error:
            return Result(job, "failed", seconds, error)
        except StyleError:
            raise
        except Exception as error:
            # A fault of ours in one item must not cost a night's run the others.
            known = too_large(job) if is_out_of_memory(error) else unforeseen(error)
            return Result(job, "failed", seconds, known)
        return Result(job, "done", seconds + time.monotonic() - started, details=details)


def unforeseen(error: Exception) -> StyleError:
    """A failure that is a fault of this program, with the place it came from."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" in {frame[0].name}, line {frame[0].lineno}" if frame else ""
    return StyleError(
        f"unexpected {type(error).__name__}{where}: {str(error).partition(chr(10))[0]}",
        fix="report it",
    )


def too_large(job: Job) -> MemoryExhaustedError:
    """A job that does not fit the memory, alone."""
    return MemoryExhaustedError(
        f"{job.inputs[0].path.name}: out of memory",
        fix="lower sampling.size, or use a recipe for less memory",
    )


def is_out_of_memory(error: Exception) -> bool:
    # Not all of torch raises its own kind: CPUs and CUDA's libraries raise a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
