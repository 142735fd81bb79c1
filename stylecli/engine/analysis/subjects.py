"""Which pictures are looked at with which LoRAs, and whose domain each of them belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from stylecli.engine import painting
from stylecli.engine.analysis.asked import Asked, split
from stylecli.engine.inputs import Row, at, expand, table
from stylecli.engine.painting import Part
from stylecli.engine.plan import Input
from stylecli.engine.request import Contents
from stylecli.errors import InputError, UsageError

Domain = Literal["in", "out", ""]
COLUMNS = ("content", "lora", "style", "domain")


@dataclass(frozen=True, slots=True)
class Look:
    """A LoRA as one picture meets it.

    Attributes:
        domain: Whether the picture is of the LoRA's own; empty where nobody says.
    """

    part: Part
    domain: Domain

    @property
    def key(self) -> tuple[str, str]:
        """What tells the LoRA from others: a picture under another caption is another."""
        return self.part.look.sha256, self.part.caption.sha256 if self.part.caption else ""

    @property
    def files(self) -> list[Input]:
        return [item for item in (self.part.look, self.part.caption) if item]


@dataclass(frozen=True, slots=True)
class Subject:
    """One picture and every LoRA that it is to be seen with.

    Attributes:
        folder: Of the picture, below the one that was named.
        home: The stem of the LoRA whose domain it was named in; else empty.
        typed: The picture was named by itself.
    """

    content: Input
    looks: tuple[Look, ...]
    folder: str = ""
    home: str = ""
    typed: bool = False


def subjects(asked: Asked, weight: float, output: Path) -> list[Subject]:
    """Every picture once, with all LoRAs it is to be seen with.

    Pictures of contents and domains meet every LoRA named; a row of a manifest meets its own, or
    every one that was named where it has none.

    Args:
        asked: What was typed.
        weight: Strength of every LoRA.
        output: Results in this folder are not pictures to look at.

    Raises:
        InputError: Nothing was named, or something that does not exist.
        UsageError: No LoRA was named, or a picture is said to be in and out of its domain.
    """
    found = _named(asked, weight, output)
    if asked.manifest is not None:
        parts = _parts(asked, weight)
        for path, subject in _of_manifest(asked.manifest, parts, weight):
            found[path] = _merged(found[path], subject) if path in found else subject
    if not found:
        raise InputError(
            "no picture was named", fix="give pictures, --domain PICTURES=LORA or --manifest FILE"
        )
    if any(not subject.looks for subject in found.values()):
        raise UsageError("no LoRA was named", fix="give --lora FILE or --domain PICTURES=FILE")
    return list(found.values())


def _named(asked: Asked, weight: float, output: Path) -> dict[Path, Subject]:
    """Those of the command line."""
    own: dict[Path, list[Look]] = {}
    rows: dict[Path, Row] = {}
    for domain in asked.domains:
        pictures, name = split(domain)
        look = Look(painting.part(name, weight), "in")
        for row in Contents(arguments=[pictures]).rows(output):
            own.setdefault(row.content, []).append(look)
            rows[row.content] = row
    if asked.contents:
        contents = Contents(arguments=asked.contents, stdin=asked.stdin, nul=asked.nul)
        rows = {row.content: row for row in contents.rows(output)} | rows
    otherwise: Domain = "out" if asked.domains else ""
    usual = [Look(part, otherwise) for part in (_parts(asked, weight) if rows else ())]
    found = {}
    for path, row in rows.items():
        mine = {look.key: look for look in own.get(path, ())}
        found[path] = Subject(
            content=Input.of_content(path),
            looks=tuple(mine.get(look.key, look) for look in usual),
            folder=row.folder,
            home=next((look.part.look.path.stem for look in mine.values()), ""),
            typed=not mine,
        )
    return found


def _parts(asked: Asked, weight: float) -> list[Part]:
    """The LoRAs of the command line, each once."""
    parts = [painting.part(split(domain)[1], weight) for domain in asked.domains]
    parts += [Part(Input.of("lora", painting.existing_lora(path)), weight) for path in asked.loras]
    parts += [painting.part(str(path), weight) for path in expand(asked.styles)]
    return list({Look(part, "").key: part for part in reversed(parts)}.values())[::-1]


def _of_manifest(
    path: Path, parts: Sequence[Part], weight: float
) -> Iterator[tuple[Path, Subject]]:
    """Its rows; the same picture in several of them with the LoRAs of all."""
    found: dict[Path, Subject] = {}
    for number, entry in table(path, COLUMNS):
        place = f"{path}:{number}"
        with at(place):
            content, subject = _row(path.parent, entry, parts, weight)
            found[content] = _merged(found[content], subject) if content in found else subject
    if not any(content.is_file() for content in found):
        missing = next(iter(found))
        raise InputError(
            f"{path}: {missing} does not exist, and no other content does",
            fix=f"names count from {path.parent}",
        )
    yield from found.items()


def _row(
    folder: Path, entry: Mapping[str, Any], parts: Sequence[Part], weight: float
) -> tuple[Path, Subject]:
    cells = {column: entry.get(column) or "" for column in COLUMNS}
    for column, value in cells.items():
        if not isinstance(value, str):
            raise InputError(f"{column} is {value!r}", fix="give text")
    if not cells["content"]:
        raise InputError("no 'content'", fix=f"columns: {', '.join(COLUMNS)}")
    if cells["domain"] not in ("", "in", "out"):
        raise InputError(f"domain {cells['domain']!r} is unknown", fix="use in or out")
    domain = cast(Domain, cells["domain"])
    own = []
    if cells["lora"]:
        path = painting.existing_lora(folder / cells["lora"])
        own.append(Part(Input.of("lora", path), weight))
    if cells["style"]:
        own.append(painting.part(str(folder / cells["style"]), weight))
    name = Path(cells["content"])
    leaves = name.is_absolute() or ".." in name.parts
    place = name.parent.name if leaves else name.parent.as_posix()
    looks = tuple(Look(part, domain) for part in own or parts)
    return folder / name, Subject(Input.of_content(folder / name), looks, place)


def _merged(first: Subject, second: Subject) -> Subject:
    """One picture that was named twice, with the LoRAs of both times.

    Raises:
        UsageError: Of one LoRA's domain at one time, and not at the other.
    """
    looks = {look.key: look for look in first.looks}
    for look in second.looks:
        known = looks.setdefault(look.key, look)
        if known.domain != look.domain:
            raise UsageError(
                f"{first.content.path} is said to be once of the domain of "
                f"{look.part.look.path.name}, and once not",
                fix="give each picture and LoRA one domain",
            )
    return replace(first, looks=tuple(looks.values()))
