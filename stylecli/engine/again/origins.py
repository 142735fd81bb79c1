"""What made a file: by its own word, else by the journal that its run left beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stylecli.artifacts import journal, store
from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.engine import inputs
from stylecli.engine.provenance import carrier
from stylecli.errors import InputError

# What may say of itself what made it.
SUFFIXES = (*store.PICTURE_SUFFIXES, ".safetensors", ".json")


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of how a file was made.

    Attributes:
        source: Who says so. A journal says less: no settings and no versions.
        facts: The provenance in the file, or the journal's row.
    """

    source: Literal["file", "journal"]
    facts: Mapping[str, Any]


class Origins:
    """Looks up what made files; every journal is read once."""

    def __init__(self) -> None:
        self._journals: dict[Path, dict[str, dict[str, Any]]] = {}

    def of(self, path: Path) -> Origin:
        """Who made a file, or a LoRA that is a folder.

        A journal, of the file's folder or of one above it, is believed only where the file's bytes
        are those it tells of.

        Raises:
            InputError: Nobody says.
        """
        found = self.find(path)
        if found is not None:
            return found
        if not path.exists():
            raise InputError(f"{path} does not exist", fix="check the name")
        if self._row(path) is not None:
            raise InputError(
                f"{path} is not the file that its journal tells of: it was changed or replaced",
                fix="make it again with the command that made it",
            )
        raise InputError(
            f"{path} does not say what made it, and no journal beside it does",
            fix="give a file that `style` made; one without metadata needs its name and runs.jsonl",
        )

    def find(self, path: Path) -> Origin | None:
        """As `of`, None where nobody says."""
        if not path.exists():
            return None
        file = carrier(path)
        facts = store.read_provenance(file)
        if facts is not None:
            return Origin("file", facts)
        row = self._row(path)
        if row is None or not file.is_file() or row.get("sha256") != store.file_sha256(file):
            return None
        return Origin("journal", row)

    def row_of(self, path: Path, key: str) -> Mapping[str, Any] | None:
        """The journal's row about a file, if it is about what has this key."""
        row = self._row(path)
        return row if row is not None and row["key"] == key else None

    def _row(self, path: Path) -> dict[str, Any] | None:
        """The last row that names the file as its output, of the nearest journal that has one."""
        whole = path.absolute()
        for folder in whole.parents:
            row = self._written(folder).get(whole.relative_to(folder).as_posix())
            if row is not None:
                return row
        return None

    def _written(self, folder: Path) -> Mapping[str, dict[str, Any]]:
        if folder not in self._journals:
            done = [row for row in journal.rows(folder) if row.get("status") == "done"]
            done.sort(key=lambda row: str(row.get("finished", "")))
            self._journals[folder] = {str(row.get("output")): row for row in done}
        return self._journals[folder]


def files_named(
    arguments: Sequence[str], origins: Origins, *, stdin: Callable[[], str], nul: bool = False
) -> list[Path]:
    """The files that a command line names, each once.

    A folder that is a LoRA is one of them; any other stands for the files below it of which
    somebody says what made them.

    Raises:
        InputError: An argument that matches nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument).expanduser()
        if not path.is_dir():
            found.update(dict.fromkeys(inputs.expand([argument], stdin=stdin, nul=nul)))
        elif (path / PEFT_WEIGHTS).is_file():
            found[path] = None
        else:
            found.update(dict.fromkeys(_below(path, origins)))
    return list(found)


def _below(folder: Path, origins: Origins) -> list[Path]:
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not file.name.startswith(".")
        and origins.find(file) is not None
    ]
    if not files:
        raise InputError(f"folder {folder} holds no file that `style` made", fix="check the name")
    return files
