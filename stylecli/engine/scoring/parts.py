"""Rows shared among processes: each scores some of the tasks into a file of its own.

Nothing is passed between them but files. A part is known by digests of its ids, so processes agree
untold, whatever the order of the rows; all methods' rows of an id, and the copies made for it, are
in one part. The report is made by one process that finds every number in those files.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from stylecli.artifacts.features import FeatureStore, lock_of
from stylecli.artifacts.locks import Shard
from stylecli.engine.context import Reporter
from stylecli.errors import StyleError

_NAME = re.compile(r"scores-(\d+)-of-(\d+)\.sqlite")
# How often a process says how far it is.
SAID_SECONDS = 0.2

# Scores a part of the rows on a device, and calls back after each; sent to other processes.
Work = Callable[[Shard, str, Callable[[], None]], None]


def file_of(folder: Path, part: Shard) -> Path:
    """Where a part's numbers are kept until the report is made."""
    return folder / f"scores-{part[0]}-of-{part[1]}.sqlite"


def belongs(id_: str, part: Shard | None) -> bool:
    """Whether a task is of this part; None is all of them.

    >>> [[belongs(name, (i, 2)) for name in "abc"] for i in (1, 2)]
    [[False, False, True], [True, True, False]]
    """
    if part is None:
        return True
    digest = hashlib.sha256(id_.encode(errors="surrogateescape")).hexdigest()
    return int(digest, 16) % part[1] == part[0] - 1


def within(part: Shard | None, count: int) -> list[Shard]:
    """A part cut into so many smaller ones.

    >>> within(None, 2), within((2, 3), 2)
    ([(1, 2), (2, 2)], [(2, 6), (5, 6)])
    """
    index, of = part or (1, 1)
    return [(index + of * k, of * count) for k in range(count)]


def gather(folder: Path, part: Shard | None, store: FeatureStore, reporter: Reporter) -> None:
    """Take over what the parts of this part left in the folder, and remove their files.

    Raises:
        UsageError: The disk is full, or the store cannot be written.
    """
    index, of = part or (1, 1)
    for path in sorted(folder.glob("scores-*.sqlite")):
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        its_index, its_count = int(match[1]), int(match[2])
        if its_count % of or its_index % of != index % of or (its_index, its_count) == part:
            continue
        if not store.absorb(path):
            reporter.warn(f"{path} is damaged; what it held is computed anew")
        # A journal without its file would be taken for that of the next file of the name.
        for scrap in (path, path.with_name(f"{path.name}-journal"), lock_of(path)):
            scrap.unlink(missing_ok=True)


def devices(device: torch.device, count: int) -> list[str]:
    """One for each process: the GPUs in turn, unless one was named."""
    if str(device) != "cuda":
        return [str(device)] * count
    return [f"cuda:{k % torch.cuda.device_count()}" for k in range(count)]


def together(
    work: Work, shares: Sequence[Shard], on: Sequence[str], rows: int, reporter: Reporter
) -> None:
    """Score every share in a process of its own.

    One that was killed leaves the rest of its rows to whoever asks for them next.

    Args:
        work: Can be pickled.
        shares: Which part of the rows each takes.
        on: Their devices.
        rows: How many there are in all, for the progress that is shown.
        reporter: Hears of processes that were lost.

    Raises:
        StyleError: What ended one of the processes; the others are ended too.
    """
    threads = torch.get_num_threads()
    cores = os.cpu_count() or 1
    if on[0] == "cpu" and threads * len(shares) > max(cores, threads):
        reporter.warn(
            f"{len(shares)} processes of {threads} threads on {cores} cores get in each other's "
            f"way: set OMP_NUM_THREADS={max(1, cores // len(shares))}"
        )
    # Not by forking: a CUDA context does not survive it.
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    heard: dict[Connection, int] = {}
    try:
        for share, device in zip(shares, on, strict=True):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_worker, args=(work, share, device, threads, theirs), daemon=True
            )
            process.start()
            theirs.close()
            heard[ours] = len(processes)
            processes.append(process)
        done: set[int] = set()
        with reporter.task("rows", rows) as task:
            while heard:
                for connection in wait(list(heard)):
                    assert isinstance(connection, Connection)  # noqa: S101  what was given
                    try:
                        said = connection.recv()
                    except EOFError:
                        del heard[connection]
                        continue
                    if isinstance(said, StyleError):
                        raise said
                    if said is None:
                        done.add(heard[connection])
                    else:
                        task.advance(said)
        if len(done) < len(processes):
            reporter.warn(
                f"{len(processes) - len(done)} of {len(processes)} processes ended before their "
                "work was done; what they left is done here"
            )
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _worker(work: Work, share: Shard, device: str, threads: int, to: Connection) -> None:
    """One of the processes; it ends with its parent, to whom it can say nothing more then."""
    # Ctrl-C reaches all; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As many as without it: how many threads add up a sum decides its last digits.
    torch.set_num_threads(threads)
    counted, said = 0, time.monotonic()

    def each() -> None:
        nonlocal counted, said
        counted += 1
        if time.monotonic() - said > SAID_SECONDS:
            to.send(counted)
            counted, said = 0, time.monotonic()

    with contextlib.suppress(BrokenPipeError):
        try:
            work(share, device, each)
            to.send(counted)
            to.send(None)
        except StyleError as error:
            to.send(error)
