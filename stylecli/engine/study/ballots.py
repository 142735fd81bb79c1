"""Files of votes: read as the page wrote them, checked against its key, each vote once."""

from __future__ import annotations

import csv
import glob
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylecli.engine.study.design import Place
from stylecli.engine.study.key import Key
from stylecli.errors import InputError

COLUMNS = ("study", "rater", "item", "question", "choice", "order", "shown_ms")
RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
AGAIN = "download the answers again from the page, and leave the file as it is"


@dataclass(frozen=True, slots=True)
class Vote:
    """One answer of one rater.

    Attributes:
        choice: A, B or tie, as it was shown.
        shown_ms: How long the item was in sight, for all its questions together.
        source: File and line, for messages.
    """

    rater: str
    place: Place
    question: str
    choice: str
    shown_ms: int
    source: str


@dataclass(frozen=True, slots=True)
class Ballots:
    """All votes, by rater, item and question in the order in which they were read.

    Attributes:
        files: How many there were.
        repeated: Votes that came more than once and were counted once.
        contradicted: Rater -> votes that came again with another choice; the first one counts.
    """

    votes: Sequence[Vote]
    files: int
    repeated: int
    contradicted: Mapping[str, int]


def read(names: Sequence[str], key: Key) -> Ballots:
    """Votes of files, folders of them and globs.

    Raises:
        InputError: Nothing was found, a file is not of votes, they are of another study, or a vote
            cannot have been cast on this page.
    """
    paths = list(dict.fromkeys(path for name in names for path in _found(name)))
    questions = {question.key for question in key.questions}
    known: dict[str, dict[str, Place]] = {}
    first: dict[tuple[str, str, str], Vote] = {}
    repeated = 0
    contradicted: dict[str, int] = {}
    for path in paths:
        for source, row in _rows(path):
            vote = _vote(source, row, key, questions, known)
            kept = first.setdefault((vote.rater, vote.place.item, vote.question), vote)
            if kept is vote:
                continue
            repeated += 1
            if kept.choice != vote.choice:
                contradicted[vote.rater] = contradicted.get(vote.rater, 0) + 1
    if not first:
        raise InputError(f"no votes in {', '.join(map(str, paths))}", fix=AGAIN)
    return Ballots(list(first.values()), len(paths), repeated, contradicted)


def _found(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
    elif path.exists() or not glob.has_magic(name):
        found = [path]
    else:
        found = sorted(map(Path, glob.glob(str(path))))  # noqa: PTH207  may be absolute
    if not found:
        raise InputError(f"{name} matches no file of votes", fix="give the .csv files of raters")
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: {reason}", fix="give the .csv files of raters") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        if tuple(head) != COLUMNS:
            raise InputError(
                f"{path}: not a file of votes: its first line is not {','.join(COLUMNS)}", fix=AGAIN
            )
        for cells in reader:
            source = f"{path}:{reader.line_num}"
            if len(cells) not in (0, len(COLUMNS)):
                raise InputError(f"{source}  {len(cells)} cells of {len(COLUMNS)}", fix=AGAIN)
            if cells:
                yield source, dict(zip(COLUMNS, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}  {error}", fix=AGAIN) from error


def _vote(
    source: str,
    row: Mapping[str, str],
    key: Key,
    questions: set[str],
    known: dict[str, dict[str, Place]],
) -> Vote:
    if row["study"] != key.study:
        raise InputError(
            f"{source}  a vote of another study: {row['study']!r}, and this one is {key.study}",
            fix="give the folder of the page on which it was cast",
        )
    rater = row["rater"]
    if not RATER.fullmatch(rater):
        raise InputError(f"{source}  {rater!r} is no id of a rater", fix=AGAIN)
    if rater not in known:
        known[rater] = {place.item: place for place in key.design.places(rater)}
    place = known[rater].get(row["item"])
    if place is None or row["order"] != str(place.order):
        # A spreadsheet makes 7 of 007; then the places, and with them the sides, would be wrong.
        raise InputError(
            f"{source}  {rater!r} did not see the item {row['item']!r} at place {row['order']!r}",
            fix=AGAIN,
        )
    if row["question"] not in questions:
        raise InputError(f"{source}  no question is called {row['question']!r}", fix=AGAIN)
    if row["choice"] not in ("A", "B", *(["tie"] if key.ties else [])):
        raise InputError(f"{source}  the choice {row['choice']!r} was not offered", fix=AGAIN)
    # Not isdecimal(): that takes digits which int() and people read differently.
    if not re.fullmatch(r"[0-9]{1,12}", row["shown_ms"]):
        raise InputError(f"{source}  {row['shown_ms']!r} are no milliseconds", fix=AGAIN)
    return Vote(rater, place, row["question"], row["choice"], int(row["shown_ms"]), source)
