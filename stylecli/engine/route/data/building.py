"""Building a set: a sample is in the list once its files are there, and the mark comes last.

`samples.jsonl` grows by a line a sample, in the order of the source; `runs.jsonl` tells of each
besides. A run that was killed leaves both, and the next one makes what they lack. A folder that has
`dataset.json` is a set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stylecli import __version__
from stylecli.artifacts import store
from stylecli.artifacts.files import replacing, to_json, unwritable, write_atomic
from stylecli.artifacts.journal import Journal
from stylecli.engine.claims import Claim, as_text, said
from stylecli.engine.context import Reporter
from stylecli.engine.route.data import contact, items
from stylecli.engine.route.data.making import Hands, Source, sample_id
from stylecli.engine.route.data.samples import IMAGES, MASKS, TARGETS, Failed, made
from stylecli.errors import InputError
from stylecli.recipe.route import Data

PLAN, SHEET, JOURNAL = ".plan.json", "contact.png", "runs.jsonl"
CACHE = "cache"
COMMAND = "route-data"


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a set.

    Attributes:
        status: done, or skipped where it was there already.
        about: What `dataset.json` says.
        failed: Samples that are missing from it.
    """

    status: str
    about: Mapping[str, Any]
    failed: list[Failed]


@dataclass(frozen=True, kw_only=True)
class Build:
    """A set that is to be in a folder, and nothing else.

    Attributes:
        hands: Who makes each style; their order is that of a picture's samples.
        data: How commands are worded, and how objects are pasted.
        overwrite: A set of something else gives way.
    """

    source: Source
    hands: Hands
    data: Data
    folder: Path
    reporter: Reporter
    overwrite: bool = False
    wait: bool = False

    @property
    def facts(self) -> Mapping[str, Any]:
        """All that decides what the set will be, without names of folders."""
        return {
            **self.source.facts,
            "styles": [[style.id, style.phrase, hand.facts] for style, hand in self.hands.items()],
            "templates": self.data.templates,
            "include_style_word": self.data.include_style_word,
            "feather_px": self.data.feather_px,
        }

    @property
    def total(self) -> int:
        """How many samples it will have."""
        return len(self.source.subjects) * len(self.hands)

    @property
    def claim(self) -> Claim:
        """What it needs of its folder."""
        return Claim(
            folder=self.folder,
            key=store.digest(self.facts),
            mark=items.MARK,
            plan=PLAN,
            taken=(items.NAME, items.MARK, items.EXCLUDED, SHEET, IMAGES, MASKS, TARGETS, JOURNAL),
            overwrite=self.overwrite,
        )

    def run(self) -> Built:
        """Make what is missing, and the list of all.

        Raises:
            DiskFullError: What was finished stays, and the next run goes on from there.
            InputError: No sample at all could be made.
            LockedError: Another run writes to the folder.
            MemoryExhaustedError: An editor has too little; likewise, what was finished stays.
            OutputDiffersError: The folder holds something else.
        """
        claim = self.claim
        with Journal(self.folder, wait=self.wait) as journal:
            claim.check()
            claim.clear(
                self.folder / name
                for name in (items.NAME, items.EXCLUDED, SHEET, IMAGES, MASKS, TARGETS, CACHE,
                             JOURNAL)
            )  # fmt: skip
            if (about := self._finished(claim)) is not None:
                (self.folder / PLAN).unlink(missing_ok=True)
                return Built("skipped", about, [])
            claim.begin()
            done = self._whole()
            journal.note("started", command=COMMAND, version=__version__, items=self.total,
                         todo=self.total - len(done))  # fmt: skip
            failed = self._make(journal, done)
            about = self._conclude(claim.key, failed)
            journal.note("ended", failed=len(failed))
        return Built("done", about, failed)

    def _finished(self, claim: Claim) -> Mapping[str, Any] | None:
        """What the mark says, where all that it speaks of is there as it was made."""
        about = claim.finished()
        if about is None:
            return None
        try:
            samples = items.read(self.folder).samples
        except InputError:
            # A list or a picture is gone since, and is made again.
            return None
        is_whole = len(samples) == about.get("samples") == len(self._unspoilt(samples))
        return about if is_whole else None

    def _whole(self) -> set[str]:
        """Samples that are listed and whose files are as they were made; other lines go."""
        file, mark = self.folder / items.NAME, self.folder / items.MARK
        listed = list(self._listed(file)) if file.is_file() else []
        kept = {sample.id for sample in self._unspoilt(sample for sample, _ in listed)}
        if said(mark).get("samples") != len(kept):
            # Until the list is as long again, nobody is to take the folder for a set.
            mark.unlink(missing_ok=True)
        if file.is_file():
            _write(file, [row for sample, row in listed if sample.id in kept])
        return kept

    def _unspoilt(self, samples: Iterable[items.Sample]) -> list[items.Sample]:
        """Those whose files hold what they were made with, and were made of what is there now."""

        @cache
        def is_as_made(file: Path, sha256: str) -> bool:
            try:
                return store.file_sha256(file) == sha256
            except (OSError, ValueError):  # a name that no file can have
                return False

        def is_of_the_same(one: items.Sample) -> bool:
            origin = self.source.origin(one.image_id)
            # What was made of a picture outlives it.
            return (
                origin is None or not origin.is_file() or is_as_made(origin, one.sha256["source"])
            )

        return [
            one
            for one in samples
            if is_as_made(one.source, one.sha256["source"])
            and is_as_made(one.target, one.sha256["target"])
            and all(is_as_made(edit.mask, one.sha256["mask"]) for edit in one.edits)
            and is_of_the_same(one)
        ]

    def _listed(self, file: Path) -> Iterator[tuple[items.Sample, dict[str, Any]]]:
        """Samples of this set that a list names, each once, and their lines."""
        styles, wanted = {style.id: style for style in self.hands}, set(self._places())
        for row in _lines(file):
            try:
                sample = items.read_line(self.folder, file.name, row, styles)
            except InputError:
                continue
            if sample.id in wanted:
                wanted.remove(sample.id)
                yield sample, row

    def _places(self) -> dict[str, int]:
        """Samples in their order."""
        every = (
            sample_id(subject, style) for subject in self.source.subjects for style in self.hands
        )
        return {one: place for place, one in enumerate(every)}

    def _make(self, journal: Journal, done: set[str]) -> list[Failed]:
        failed = []
        with self.reporter.task("pictures", self.total) as task:
            for subject in self.source.subjects:
                hands = {
                    style: hand
                    for style, hand in self.hands.items()
                    if sample_id(subject, style) not in done
                }
                task.advance(len(self.hands) - len(hands))
                for one in made(self.folder, self.source, subject, hands, self.data):
                    task.advance()
                    if isinstance(one, Failed):
                        failed.append(one)
                        journal.append({"key": one.key, "status": "failed", "error": one.error})
                        continue
                    self._append(one)
                    journal.append(
                        {"key": one["id"], "output": one["target"], "status": "done",
                         "sha256": one["sha256"]["target"], "seed": one["seed"]}
                    )  # fmt: skip
        return failed

    def _append(self, row: Mapping[str, Any]) -> None:
        file = self.folder / items.NAME
        try:
            with file.open("ab") as stream:
                stream.write(to_json(row).encode() + b"\n")
        except OSError as error:
            raise unwritable(file, error) from error

    def _conclude(self, key: str, failed: Sequence[Failed]) -> Mapping[str, Any]:
        """Put the list in order, and write last of all what says that the set is there."""
        file = self.folder / items.NAME
        places = self._places()
        listed = list(_lines(file)) if file.is_file() else []
        if not listed:
            raise InputError(
                f"no sample could be made: {failed[0].error['what']}", fix="mend the source"
            )
        # What failed in an earlier run, and was made in this one, stands at the end.
        ordered = sorted(listed, key=lambda row: places[row["id"]])
        if ordered != listed:
            _write(file, ordered)
        splits: dict[str, list[str]] = {name: [] for name in items.SPLITS}
        for subject in self.source.subjects:
            splits[subject.split].append(subject.image_id)
        write_atomic(self.folder / items.EXCLUDED, as_text(splits))
        about = {
            "format": items.FORMAT,
            "styles": [
                {"id": style.id, "phrase": style.phrase, "text": style.text,
                 "aliases": style.aliases}
                for style in self.hands
            ],
            "created_with": {"command": COMMAND, "version": __version__, "facts": self.facts},
            "resolution_note": "sources, masks and targets have the size of the source",
            "key": key,
            "samples": len(ordered),
            "splits": dict(Counter(row["split"] for row in ordered)),
            "left_out": dict(self.source.left_out),
            "failed": len(failed),
            **self.source.about(),
        }  # fmt: skip
        maker = {"command": COMMAND, "version": __version__, "key": key}
        contact.draw(self.folder, ordered, list(self.hands), self.folder / SHEET, maker)
        write_atomic(self.folder / items.MARK, as_text(about))
        if not failed:
            (self.folder / PLAN).unlink(missing_ok=True)
        return about


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a list that a run wrote; one that was torn is as if it were not there."""
    with file.open("rb") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _write(file: Path, listed: Sequence[Mapping[str, Any]]) -> None:
    with replacing(file) as stream:
        for row in listed:
            stream.write(to_json(row).encode() + b"\n")
