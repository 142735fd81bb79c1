"""One record for each output, as the page's script gets it; pictures are found by their digests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from safetensors import SafetensorError, safe_open

from stylecli.artifacts.files import to_json
from stylecli.artifacts.locate import Locator, near
from stylecli.artifacts.store import PICTURE_SUFFIXES, read_provenance
from stylecli.engine.plan import SHEETS, sheet_path
from stylecli.engine.provenance import carrier, without_folders
from stylecli.engine.report.journals import Entry, file_below, mapping, number, text
from stylecli.engine.report.scores import Scores
from stylecli.engine.report.thumbnails import Thumbnails

# Figures of a row that are no figures of merit.
PLAIN_DETAILS = ("height", "width")
# What a page lists of the things that went in; a caption is part of its style.
SHOWN_ROLES = (
    *("content", "style", "lora", "accelerator", "negative", "predictor"),
    *("mask", "prompt", "report"),
)
PICTURED_ROLES = ("content", "style", "mask")
TRIGGER = "modelspec.trigger_phrase"

Settings = Mapping[str, str]


@dataclass(slots=True)
class Gatherer:
    """Makes records out of entries, and remembers what several of them share.

    Attributes:
        base: The page's folder; only files below it are linked to.
        settings: Each different set of settings once; a record names its number.
        links: Number of a picture -> its file, from the page.
        not_found: Names of pictures and LoRAs that went in and lie nowhere that was searched.
    """

    base: Path
    locator: Locator
    scores: Scores
    thumbnails: Thumbnails
    settings: dict[tuple[tuple[str, str], ...], int] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)
    not_found: dict[tuple[str, str], None] = field(default_factory=dict)

    def record(self, entry: Entry, folder: int) -> dict[str, Any]:
        """All that the page shows of one output; `folder` is the number of its folder."""
        row = entry.row
        details = mapping(row.get("details"))
        made = {
            "name": entry.name,
            "folder": folder,
            "status": entry.status,
            "command": text(row.get("command")) or "unknown",
            "finished": text(row.get("finished"))[:19],
            "seconds": number(row.get("seconds")),
            # Longer than the numbers of a browser.
            "seed": str(row["seed"]) if number(row.get("seed")) is not None else None,
            "inputs": [self._input(one, details) for one in _inputs(row)],
            "metrics": _figures(details) | self.scores.of(entry),
            "error": _error(entry) if entry.status == "failed" else None,
        }
        if entry.file is not None:
            made |= self._made(entry, entry.file)
        return made

    def _made(self, entry: Entry, file: Path) -> dict[str, Any]:
        shown = _shown_by(entry, file)
        picture = None
        if shown is not None:
            picture = self._picture(shown, *_identity(entry, shown))
        provenance = read_provenance(carrier(file))
        return {
            "picture": picture,
            # A sheet of several pictures does not lie over its content.
            "compares": shown == file and "figure" not in mapping(entry.row.get("details")),
            "file": link(self.base, file),
            "trigger": _trigger(file) if file.suffix == ".safetensors" else None,
            "settings": self._settings(provenance or {}),
        }

    def _input(self, one: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
        role, name = text(one.get("role")), PurePath(text(one.get("name"))).name
        if role == "prompt":
            return {"role": role, "name": text(details.get("prompt")) or name}
        path = self.locator.find(name, text(one.get("sha256")))
        if path is None:
            self.not_found[role, name] = None
        made: dict[str, Any] = {"role": role, "name": name}
        if role == "lora":
            made["trigger"] = None if path is None else _trigger(path)
        if role in PICTURED_ROLES and path is not None:
            made["picture"] = self._picture(path, text(one.get("sha256")))
        return made

    def _picture(self, path: Path, *identity: str) -> int:
        at = self.thumbnails.add(path, *identity)
        if at not in self.links and (address := link(self.base, path)):
            self.links[at] = address
        return at

    def _settings(self, provenance: Mapping[str, Any]) -> int | None:
        flat = flatten(
            {
                **mapping(provenance.get("recipe")),
                "model": provenance.get("model"),
                "version": provenance.get("versions"),
            }
        )
        flat.pop("description", None)
        if not flat:
            return None
        return self.settings.setdefault(tuple(sorted(flat.items())), len(self.settings))


def link(base: Path, path: Path) -> str | None:
    """The address of a file from a page in `base`; None for one that is not below it.

    >>> link(Path("out"), Path("out/a b.png")), link(Path("out"), Path("in/a.png"))
    ('./a%20b.png', None)
    """
    relative = Path(os.path.relpath(path.absolute(), base.absolute()))
    if relative.is_absolute() or ".." in relative.parts:
        return None
    return "./" + quote(os.fsencode(relative.as_posix()))


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key -> its value in words; what is not set is left out.

    >>> flatten({"sampling": {"steps": 50, "prompt": None}, "on": True})
    {'sampling.steps': '50', 'on': 'true'}
    """
    found: dict[str, str] = {}
    for key, one in value.items():
        if isinstance(one, Mapping):
            found |= flatten(one, f"{prefix}{key}.")
        elif one not in (None, ""):
            found[prefix + key] = without_folders(one if isinstance(one, str) else to_json(one))
    return found


def places(given: Sequence[str], outputs: Sequence[Path]) -> list[Path]:
    """Where inputs are looked for: what was given, else what lies near and is no archive."""
    if given:
        return [Path(one).expanduser() for one in given]
    return near([*(one.absolute().parent for one in outputs), Path.cwd()])


def _inputs(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    inputs = row.get("inputs")
    found = [mapping(one) for one in inputs] if isinstance(inputs, list) else []
    # Of hundreds of references those that a picture took something from, where its row says which.
    used = mapping(row.get("details")).get("references")
    return [
        one
        for one in found
        if one.get("role") in SHOWN_ROLES
        and (one.get("role") != "style" or not isinstance(used, list) or one.get("name") in used)
    ]


def _figures(details: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: number(value) for name, value in details.items()}
    return {n: v for n, v in numbers.items() if v is not None and n not in PLAIN_DETAILS}


def _error(entry: Entry) -> dict[str, str]:
    error = mapping(entry.row.get("error"))
    names = [Path(entry.name), *(Path(text(one.get("name"))) for one in _inputs(entry.row))]
    said = {key: without_folders(text(error.get(key)), names) for key in ("code", "what", "fix")}
    return said | {"what": said["what"] or "it failed, and the journal does not say why"}


def _identity(entry: Entry, shown: Path) -> tuple[str, ...]:
    """By what it holds, where the journal says so and it still looks like that."""
    row = entry.row
    if shown == entry.file and text(row.get("sha256")) and row.get("bytes") == shown.stat().st_size:
        return (text(row["sha256"]),)
    return text(row.get("key")), entry.folder.label, shown.name


def _shown_by(entry: Entry, file: Path) -> Path | None:
    if file.suffix.lower() in PICTURE_SUFFIXES:
        return file
    # The picture for people, where the output itself is none.
    kind = SHEETS.get(text(entry.row.get("command")))
    sheet = text(entry.row.get("sheet"))
    if not sheet and kind and PurePath(entry.name).name:
        sheet = sheet_path(Path(entry.name), kind).as_posix()
    found = file_below(entry.folder.path, sheet) if sheet else None
    return found if found is not None and found.is_file() else None


@lru_cache(maxsize=1024)
def _trigger(path: Path) -> str | None:
    """The words that call a LoRA, where its header says them."""
    try:
        with safe_open(path, framework="np") as stream:
            return (stream.metadata() or {}).get(TRIGGER)
    except (OSError, SafetensorError):  # a folder, or no LoRA at all
        return None
