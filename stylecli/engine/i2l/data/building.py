"""Building a set: parts that a killed run leaves whole, and at the end one list of all of them.

While it is built, `.parts/` holds the items of every finished unit. `dataset.json` comes last: a
folder that has it is a set, and `.parts/` is left only where pictures failed, to be tried again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import torch

from stylecli import __version__
from stylecli.artifacts import store
from stylecli.artifacts.files import replacing, to_json, write_atomic
from stylecli.artifacts.locks import WriteLock
from stylecli.engine.claims import Claim, as_text
from stylecli.engine.context import Reporter
from stylecli.engine.i2l.data import contact, items
from stylecli.engine.i2l.data.making import IMAGES, Failed, LeftOut, Made, Source
from stylecli.errors import InputError

SCHEMA_VERSION = 1
MARK, PARTS, PLAN, SHEET = "dataset.json", ".parts", "plan.json", "sheet.png"


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a set.

    Attributes:
        status: done, or skipped where it was there already.
        about: What `dataset.json` says.
        failed: Pictures that are missing from it.
    """

    status: str
    about: Mapping[str, Any]
    failed: list[Failed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A set that is to be in a folder, and nothing else.

    Attributes:
        workers: Threads; each holds a few pictures at a time.
        overwrite: A set of something else gives way.
    """

    source: Source
    folder: Path
    workers: int
    reporter: Reporter
    overwrite: bool = False
    wait: bool = False

    @property
    def key(self) -> str:
        """Equal keys make equal sets."""
        return store.digest(self.source.facts)

    def check(self) -> None:
        """See that the folder is free for this set; nothing is done.

        Raises:
            OutputDiffersError: It holds another set, or files that are none of ours.
        """
        self._claim.check()

    def run(self) -> Built:
        """Make what is missing, and the list of all.

        Raises:
            DiskFullError: What was finished stays, and the next run goes on from there.
            InputError: No picture at all could be had.
            LockedError: Another run writes to the folder.
            OutputDiffersError: As `check`.
        """
        lock = WriteLock(self.folder)
        lock.take(wait=self.wait)
        try:
            self.check()
            self._claim.clear(self._others())
            if (about := self._finished()) is not None:
                shutil.rmtree(self.folder / PARTS, ignore_errors=True)
                return Built("skipped", about, [])
            self._claim.begin()
            self._make()
            return self._conclude()
        finally:
            lock.release()

    @property
    def _claim(self) -> Claim:
        return Claim(
            folder=self.folder,
            key=self.key,
            mark=MARK,
            plan=f"{PARTS}/{PLAN}",
            taken=(items.NAME, IMAGES, PARTS),
            overwrite=self.overwrite,
        )

    def _others(self) -> Iterator[Path]:
        """All that a set consists of, its mark apart."""
        for file in (items.NAME, SHEET, *self.source.extras(), IMAGES):
            yield self.folder / file
        yield from (self.folder / PARTS).glob("*.jsonl")

    def _finished(self) -> Mapping[str, Any] | None:
        about = self._claim.finished()
        try:
            if about is not None:
                items.read(self.folder)
        except InputError:
            # Its list or a picture is gone since, and is made again.
            return None
        return about

    def _make(self) -> None:
        """Every unit that is not there whole; at most two a worker are under way."""
        done = {unit: self._whole(unit) for unit in range(len(self.source.unit_names))}
        todo = iter([unit for unit, count in done.items() if count is None])
        stop = Event()
        with self._pool() as pool, self.reporter.task("pictures", self.source.total) as task:
            task.advance(sum(count or 0 for count in done.values()))
            under_way: set[Future[int]] = set()
            try:
                while True:
                    for unit in islice(todo, 2 * self.workers - len(under_way)):
                        under_way.add(pool.submit(self._make_unit, unit, stop))
                    if not under_way:
                        return
                    ready, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    for one in ready:
                        task.advance(one.result())
            finally:
                # Whoever is interrupted should not wait for whole units.
                stop.set()

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that are the only ones: each works on pictures too small to be shared out."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(self.workers, thread_name_prefix="pictures") as pool:
                yield pool
        finally:
            torch.set_num_threads(threads)

    def _make_unit(self, unit: int, stop: Event) -> int:
        made: list[dict[str, Any]] = []
        for one in self.source.make(unit, self.folder):
            if stop.is_set():
                return 0
            made.append(_row(one))
        write_atomic(self._part(unit), "".join(f"{to_json(row)}\n" for row in made).encode())
        return len(made)

    def _part(self, unit: int) -> Path:
        return self.folder / PARTS / f"{unit:06}.jsonl"

    def _whole(self, unit: int) -> int | None:
        """How many rows it has, if all its pictures were had and are still there."""
        if not self._part(unit).is_file():
            return None
        rows = list(self._rows(unit))
        is_whole = all(
            "failed" not in row and ("image" not in row or (self.folder / row["image"]).is_file())
            for row in rows
        )
        return len(rows) if is_whole else None

    def _rows(self, unit: int) -> Iterator[dict[str, Any]]:
        with self._part(unit).open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)

    def _conclude(self) -> Built:
        """Write the list, the sheet, and last of all what says that the set is there."""
        counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("splits", "licences", "left_out")
        }
        seen: dict[str, str] = {}
        failed: list[Failed] = []
        with replacing(self.folder / items.NAME) as stream:
            for unit in range(len(self.source.unit_names)):
                for row in self._rows(unit):
                    if "failed" in row:
                        failed.append(Failed(**row["failed"]))
                    elif "left_out" in row:
                        counts["left_out"][row["left_out"]] += 1
                    else:
                        counts["splits"][row["split"]] += 1
                        counts["licences"][row.get("licence", "unknown")] += 1
                        seen[row["style_id"]] = row["split"]
                        stream.write(to_json(row).encode() + b"\n")
        if not counts["splits"]:
            (self.folder / items.NAME).unlink()
            what = f"{failed[0].error['what']}" if failed else "all were left out"
            raise InputError(f"no picture could be had: {what}", fix="mend the source")
        for name, text in self.source.extras().items():
            write_atomic(self.folder / name, text.encode())
        about = {
            "schema_version": SCHEMA_VERSION,
            "command": "i2l-data",
            "version": __version__,
            "key": self.key,
            "facts": self.source.facts,
            "items": counts["splits"].total(),
            "styles": len(seen),
            "splits": dict(counts["splits"]),
            "styles_by_split": dict(Counter(seen.values())),
            "licences": dict(counts["licences"]),
            "left_out": dict(counts["left_out"]),
            "failed": len(failed),
            **self.source.about(),
        }
        contact.draw(
            items.listed(self.folder / items.NAME),
            seen,
            self.folder / SHEET,
            title=f"{about['items']} pictures of {about['styles']} styles",
            note=", ".join(f"{count} {name}" for name, count in counts["splits"].items()),
            said={"command": "i2l-data", "version": __version__, "key": self.key},
        )
        write_atomic(self.folder / MARK, as_text(about))
        if not failed:
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        return Built("done", about, failed)


def _row(made: Made) -> dict[str, Any]:
    if isinstance(made, Failed):
        return {"failed": {"key": made.key, "error": dict(made.error)}}
    if isinstance(made, LeftOut):
        return {"left_out": made.why}
    return made.row()
