"""The page: a template, a script and a style sheet that ship, and the data of some runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from markupsafe import Markup

from stylecli.artifacts.files import write_atomic
from stylecli.artifacts.locate import Locator
from stylecli.engine.context import Reporter, Task
from stylecli.engine.report import html, journals, summary, words
from stylecli.engine.report.items import Gatherer, places
from stylecli.engine.report.scores import Scores
from stylecli.engine.report.thumbnails import Thumbnails
from stylecli.engine.runs import pace
from stylecli.errors import InputError

NAME = "report.html"
# Above this a page would take long to load; its pictures and data then lie beside it.
INLINE_ITEMS = 1_000
CHUNK_ITEMS = 1_000
T = TypeVar("T")
OURS = re.compile(r"[0-9a-f]{24}\.thumb|items-[0-9a-f]{16}\.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a report is about and where it goes.

    Attributes:
        outputs: Folders that runs wrote to, or single results.
        page: Default: `report.html` in the only folder, or here when there are several.
        contents: Where contents lie.
        styles: Where styles and LoRAs lie.
        scores: What `style evaluate` wrote.
    """

    outputs: Sequence[str]
    page: Path | None = None
    contents: Sequence[str] = ()
    styles: Sequence[str] = ()
    scores: Path | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A report that is there.

    Attributes:
        not_found: Names of what went in and was in none of the places searched.
    """

    page: Path
    counts: Mapping[str, int]
    not_found: Sequence[str]


def write(wanted: Wanted, reporter: Reporter) -> Written:
    """Write the page, and beside it a folder of its pictures when there are too many for one file.

    The same journals, files and places give the same bytes.

    Raises:
        InputError: A folder without a journal, or with an empty one; scores that are none.
        UsageError: The page's name is taken by another file, or is not one of a page.
        ItemError: It cannot be written; a page that was there is as it was.
    """
    folders = journals.folders(wanted.outputs)
    page = _place(wanted.page, folders)
    scores = Scores() if wanted.scores is None else Scores.read(wanted.scores)
    entries = [(one, at) for at, folder in enumerate(folders) for one in journals.entries(folder)]
    if not entries:
        names = ", ".join(wanted.outputs)
        raise InputError(f"{names}: the journal has no items", fix="run a command on it first")
    given = [*wanted.contents, *wanted.styles]
    locator = Locator(places(given, [folder.path for folder in folders]))
    gatherer = Gatherer(page.parent, locator, scores, Thumbnails())
    tally = summary.Tally()
    lines = []
    with reporter.task("items", len(entries)) as task:
        for entry, at in entries:
            record = gatherer.record(entry, at)
            tally.add(record)
            lines.append(html.json_text(record))
            task.advance()
    title = wanted.title or ", ".join(folder.label for folder in folders)
    told = _told(title, folders, gatherer, tally, scores)
    with reporter.task("thumbnails", len(gatherer.thumbnails.originals)) as task:
        if len(lines) <= INLINE_ITEMS:
            pictures = _advancing(gatherer.thumbnails.inline(), task)
            _render(page, told, {}, _listed(lines), _listed(_pairs(pictures, gatherer)))
        else:
            beside = page.with_suffix(".files")
            pictures = _advancing(gatherer.thumbnails.beside(beside), task)
            sources = _chunks(beside, lines, list(_pairs(pictures, gatherer)))
            extra = {"beside": f"./{quote(os.fsencode(beside.name))}/", "sources": sources}
            _render(page, told, extra, iter(["[]"]), iter(["[]"]))
            _tidy(beside, {*sources, *(one.name for one in gatherer.thumbnails.originals)})
    missing = [name for _, name in gatherer.not_found]
    return Written(page, tally.counts, missing)


def _place(page: Path | None, folders: Sequence[journals.Folder]) -> Path:
    if page is None:
        page = (folders[0].path if len(folders) == 1 else Path()) / NAME
    elif page.is_dir():
        page = page / NAME
    return html.check_place(page)


def _told(
    title: str,
    folders: Sequence[journals.Folder],
    gatherer: Gatherer,
    tally: summary.Tally,
    scores: Scores,
) -> dict[str, Any]:
    """What the template says in words, and what the script needs besides the items."""
    sets = [dict(pairs) for pairs in gatherer.settings]
    common, differing, own = summary.settings(sets, tally.used)
    metrics = tally.metrics(scores)
    told_runs, per_minute = summary.runs(folders)
    return {
        "title": title,
        "counts": Counter(tally.counts),
        "total": tally.counts.total(),
        "commands": sorted(tally.commands),
        "when": words.span(tally.times),
        "rate": pace.rate(per_minute),
        "seconds": tally.seconds,
        "runs": told_runs,
        "failures": tally.failures(),
        "metrics": metrics,
        "common": common,
        "differing": differing,
        "not_found": sorted({name for _, name in gatherer.not_found}),
        "data": {
            "folders": [folder.label for folder in folders],
            "settings": own,
            "better": {one["name"]: one["better"] for one in metrics},
        },
    }


def _render(
    page: Path,
    told: Mapping[str, Any],
    extra: Mapping[str, Any],
    items: Iterator[str],
    pictures: Iterator[str],
) -> None:
    parts = {
        "data": html.script_data({**told["data"], **extra}),
        "items": map(Markup, items),
        "pictures": map(Markup, pictures),
    }
    html.write(page, "report", ["report.css"], {**told, **parts})


def _chunks(folder: Path, items: Sequence[str], pictures: Sequence[str]) -> list[str]:
    """Data as scripts, since a page opened from a disk may load nothing else; their names."""
    names = []
    for at in range(0, max(len(items), len(pictures)), CHUNK_ITEMS):
        some, shown = items[at : at + CHUNK_ITEMS], pictures[at : at + CHUNK_ITEMS]
        data = f'{{"at":{at},"items":[{",".join(some)}],"pictures":[{",".join(shown)}]}}'
        text = f"(self.styleReport=self.styleReport||[]).push({data});\n".encode()
        name = f"items-{hashlib.sha256(text).hexdigest()[:16]}.js"
        write_atomic(folder / name, text)
        names.append(name)
    return names


def _tidy(folder: Path, kept: set[str]) -> None:
    """Remove what an earlier page of this name needed; files that are not ours stay."""
    for file in folder.iterdir():
        if OURS.fullmatch(file.name) and file.name not in kept:
            file.unlink(missing_ok=True)


def _pairs(sources: Iterable[str | None], gatherer: Gatherer) -> Iterator[str]:
    """Each picture's thumbnail, and the address of the file itself where the page may link it."""
    for at, source in enumerate(sources):
        yield html.json_text([source, gatherer.links.get(at)])


def _advancing(things: Iterable[T], task: Task) -> Iterator[T]:
    for thing in things:
        task.advance()
        yield thing


def _listed(things: Iterable[str]) -> Iterator[str]:
    """A JSON list, piece by piece."""
    yield "["
    for at, thing in enumerate(things):
        yield f",\n{thing}" if at else thing
    yield "]"
