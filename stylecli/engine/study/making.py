"""From results of several methods to a page for raters, and the key that stays at home."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.artifacts.files import to_json, unwritable, write_atomic
from stylecli.engine.context import Reporter
from stylecli.engine.scoring import items as results
from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.items import Asked
from stylecli.engine.study import page, pairing, pictures, questions
from stylecli.engine.study.design import Design, digest
from stylecli.engine.study.key import COPY, KEY, PAGE, PICTURES, Key, Pair
from stylecli.errors import ImageError, InputError, OutputDiffersError, UsageError
from stylecli.recipe.scoring import Evaluate

NAME_DIGITS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The study that is asked for.

    Attributes:
        against: Methods to compare with ours; all others where none is named.
        all_pairs: Also those against one another.
        questions: Names of ours, or texts; see `questions.chosen`.
        per_rater: Items for each rater; None: all of them.
        items: Results at most, drawn by the seed.
        beside: Pictures in a folder beside the page instead of in it.
    """

    output: Path
    ours: str
    against: Sequence[str] = ()
    all_pairs: bool = False
    questions: Sequence[str] = ()
    ties: bool = False
    per_rater: int | None = None
    items: int | None = None
    side_px: int = 512
    beside: bool = False
    seed: int = 0
    title: str = page.TITLE
    instructions: str | None = None
    consent: str = page.CONSENT
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A study that is there.

    Attributes:
        failures: Results with a picture that cannot be read; they are not in the study.
        incomplete: Results that not every method has; they neither.
        is_new: False where the folder held the same study already.
    """

    folder: Path
    key: Key
    failures: Mapping[str, ImageError]
    incomplete: Sequence[str]
    is_new: bool


@dataclass(slots=True)
class _Gallery:
    """Encoded pictures, each once."""

    secret: str
    by_name: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> str:
        """A name that tells nothing of where the picture comes from."""
        name = digest(self.secret, hashlib.sha256(data).hexdigest())[:NAME_DIGITS]
        self.by_name[name] = data
        return name


def make(asked: Asked, wanted: Wanted, settings: Evaluate, reporter: Reporter) -> Made:
    """Write the page, its pictures and the key; the same results and wishes give the same bytes.

    Raises:
        InputError: Nothing to compare: one method only, no result that all have, no readable one.
        UsageError: Wishes that do not fit together, or a text that names a method.
        OutputDiffersError: The folder holds another study; votes may have been cast on it.
        ItemError: It cannot be written.
    """
    asking = questions.chosen(wanted.questions)
    found = results.collect(asked, settings)
    methods = pairing.methods(found, wanted.ours, wanted.against)
    texts = {wanted.title, wanted.instructions or "", wanted.consent, *wanted.questions}
    questions.check_silent(sorted(texts - {page.TITLE, page.CONSENT, *questions.KNOWN}), methods)
    tasks, incomplete = pairing.tasks(found, methods, seed=wanted.seed, most=wanted.items)
    questions.check_needs(asking, [item for task in tasks.values() for item in task.values()])
    failures: dict[str, ImageError] = {}
    hashes: dict[str, dict[str, str]] = {}
    for id_, task in tasks.items():
        try:
            hashes[id_] = _hashes(task)
        except ImageError as error:
            failures[id_] = error
    # What only those know who have the files: no reader of the page can make the names anew.
    gallery = _Gallery(digest(str(wanted.seed), to_json([methods, hashes])))
    shown: dict[str, dict[str, Any]] = {}
    with reporter.task("pictures", len(hashes)) as progress:
        for id_ in hashes:
            try:
                shown[id_] = _shown(tasks[id_], wanted.side_px, gallery)
            except ImageError as error:
                failures[id_] = error
            progress.advance()
    if not shown:
        raise InputError("no result can be shown", fix=next(iter(failures.values())).what)
    meetings = pairing.meetings(methods, all_pairs=wanted.all_pairs)
    pairs = pairing.items(list(shown), meetings, hashes, gallery.secret)
    if questions.STYLE in [question.key for question in asking]:
        having = [id_ for id_, names in shown.items() if names["content"]]
        copies = pairing.copies(having, methods, hashes, gallery.secret)
    else:
        copies = {}
    design = Design(
        seed=wanted.seed,
        items=tuple(pairs),
        copies=tuple(copies),
        per_rater=_per_rater(wanted.per_rater, len(pairs)),
    )
    told = {
        "seed": wanted.seed,
        "ties": wanted.ties,
        "perRater": design.per_rater,
        "checks": design.checks,
        "questions": [{"key": one.key, "text": one.text} for one in asking],
        "items": [_item(id_, pair, shown) for id_, pair in pairs.items()],
        "copies": [_item(id_, pair, shown) for id_, pair in copies.items()],
    }
    texts_of_page = page.Texts(wanted.title, wanted.instructions, wanted.consent)
    study, html = page.render(texts_of_page, told, gallery.by_name, beside=wanted.beside)
    files = {PAGE: html}
    if wanted.beside:
        files |= {
            f"{PICTURES}/{name}{pictures.SUFFIX}": data for name, data in gallery.by_name.items()
        }
    key = Key(
        study=study,
        methods=tuple(methods),
        questions=tuple(asking),
        ties=wanted.ties,
        design=design,
        pairs=pairs | copies,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    is_new = _write(wanted, key, files)
    return Made(wanted.output, key, failures, incomplete, is_new)


def row(made: Made) -> dict[str, Any]:
    """For programs, and for the summary."""
    design = made.key.design
    return {
        "output": str(made.folder / PAGE),
        "status": "done" if made.is_new else "skipped",
        "key": str(made.folder / KEY),
        "study": made.key.study,
        "methods": made.key.methods,
        "items": len(design.items),
        "per_rater": design.length,
        "raters_for_a_round": design.round,
    }


def notes(made: Made) -> list[str]:
    """What to know before the page is given to raters."""
    design = made.key.design
    checks = sum(design.checks)
    said = [
        f"{len(design.items)} pair{'s' * (len(design.items) > 1)}; each rater sees "
        f"{design.per_rater} and {checks} check{'s' * (checks > 1)}; keep {KEY} to yourself"
    ]
    if design.round > 1:
        said.append(
            f"call the raters 1, 2, 3, …: after every {design.round} of them each pair was seen "
            "equally often"
        )
    if made.incomplete:
        some = ", ".join(made.incomplete[:3]) + ", …" * (len(made.incomplete) > 3)
        said.append(f"left out, as not every method has them: {len(made.incomplete)} ({some})")
    return said


def _hashes(task: Mapping[str, Item]) -> dict[str, str]:
    """Of the files that the two pictures of an item may be."""
    of = {method: item.output for method, item in task.items()}
    content = next(iter(task.values())).content
    found = {}
    for method, path in (of | ({COPY: content} if content else {})).items():
        try:
            found[method] = store.file_sha256(path)
        except OSError as error:
            raise ImageError(
                f"{path}: {error.strerror or error}", fix="check the name and its permissions"
            ) from error
    return found


def _shown(task: Mapping[str, Item], side_px: int, gallery: _Gallery) -> dict[str, Any]:
    """Names of the pictures of one task."""
    any_item = next(iter(task.values()))
    content = [any_item.content] if any_item.content else []
    outputs = [item.output for item in task.values()]
    every = pictures.encoded([*content, *outputs, *any_item.style], side_px)
    names = [gallery.add(data) for data in every]
    at = len(content)
    return {
        "content": names[0] if content else None,
        "references": names[at + len(outputs) :],
        "methods": dict(zip(task, names[at:], strict=False)),
    }


def _item(id_: str, pair: Pair, shown: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """As the page has it."""
    names = shown[pair.task]
    of = {**names["methods"], COPY: names["content"]}
    return {
        "id": id_,
        "content": names["content"],
        "references": names["references"],
        "first": of[pair.first],
        "second": of[pair.second],
    }


def _per_rater(wanted: int | None, items: int) -> int:
    if wanted is not None and wanted > items:
        raise UsageError(
            f"--per-rater {wanted}, and there are {items} items", fix=f"{items} at most"
        )
    return wanted or items


def _write(wanted: Wanted, key: Key, files: Mapping[str, bytes]) -> bool:
    """Whether anything had to be written; the key comes last and says that all is there."""
    folder, text = wanted.output, key.text().encode()
    # A page without its key is one that was interrupted, if it is this one.
    for name, expected in ((KEY, text), (PAGE, files[PAGE])):
        there = _bytes(folder / name)
        if there is not None and there != expected and not wanted.overwrite:
            raise OutputDiffersError(
                f"{folder / name} is of another study, and votes may belong to it",
                fix="choose another --output, or --overwrite",
            )
    missing = {name: data for name, data in files.items() if _bytes(folder / name) != data}
    if not missing and _bytes(folder / KEY) == text:
        return False
    (folder / KEY).unlink(missing_ok=True)
    for name, data in missing.items():
        write_atomic(folder / name, data)
    for old in folder.glob(f"{PICTURES}/{'[0-9a-f]' * NAME_DIGITS}{pictures.SUFFIX}"):
        if old.relative_to(folder).as_posix() not in files:
            old.unlink(missing_ok=True)
    write_atomic(folder / KEY, text)
    return True


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritable(path, error) from error
