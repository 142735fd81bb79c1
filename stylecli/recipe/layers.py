"""What each layer says, one entry a value, and all of them on top of one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stylecli.errors import RecipeError
from stylecli.recipe import words
from stylecli.recipe.source import Path, scalar

PREFIX = "STYLE_"


@dataclass(frozen=True, slots=True)
class Entry:
    """One value somebody gave."""

    path: Path
    value: Any
    place: str
    origin: str


@dataclass(slots=True)
class Merged:
    """All layers on top of one another."""

    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[Path, Entry] = field(default_factory=dict)

    def put(self, entry: Entry) -> None:
        """Lay a value on top; a mapping adds its keys and leaves the others."""
        if isinstance(entry.value, dict):
            self.entries.setdefault(entry.path, entry)
            self._section(entry.path)
            for key, value in entry.value.items():
                self.put(replace(entry, path=(*entry.path, key), value=value))
            return
        section = self._section(entry.path[:-1])
        # A section that somebody filled with a plain value stays, to be reported.
        if section is not None:
            section[entry.path[-1]] = entry.value
            self.entries[entry.path] = entry

    def _section(self, path: Path) -> dict[str | int, Any] | None:
        here: Any = self.values
        for part in path:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                return None
        found: dict[str | int, Any] = here
        return found

    def place(self, path: Path) -> str:
        """Where a value was given, or the closest thing that holds it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.entries:
                return self.entries[path[:length]].place
        return ""


def from_environment(environ: Mapping[str, str]) -> list[Entry]:
    """``STYLE_LORA__RANK=4`` -> ``lora.rank``; an empty variable counts as unset."""
    return [
        typed(tuple(name[len(PREFIX) :].lower().split("__")), text, f"environment {name}")
        for name, text in sorted(environ.items())
        if name.startswith(PREFIX) and "__" in name and text
    ]


def from_overrides(overrides: Sequence[str]) -> list[Entry]:
    """``lora.rank=4`` each.

    Raises:
        RecipeError: Not of that form.
    """
    entries = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(
                f"--set {text} is not KEY=VALUE", fix="such as --set sampling.guidance=7.5"
            )
        entries.append(typed(tuple(key.strip().split(".")), value, "--set"))
    return entries


def typed(path: Path, text: str, origin: str) -> Entry:
    value = scalar(text)
    schema = words.schema_at(path)
    if schema is not None and words.is_text(schema):
        # `--set lora.prompt=1984` is text although YAML reads a number, and nothing is no text.
        is_null = value is None and text.strip() and words.is_nullable(schema)
        value = value if isinstance(value, str) or is_null else text
    return Entry(path, value, origin, origin)
