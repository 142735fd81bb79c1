"""A recipe file or name, the environment and the command line -> one frozen `Recipe`.

Later layers win: built-in defaults, the recipe, ``STYLE_*`` variables, ``--set``, a command's own
flags. Every fault of every layer is reported at once, where it was written.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from stylecli.errors import RecipeError
from stylecli.recipe import words
from stylecli.recipe.schema import Backbone, Recipe
from stylecli.recipe.source import Fault, Path, dotted, read, scalar

PREFIX = "STYLE_"
# Names of ours that are not settings; everything else needs a double underscore to be one.
NOT_KEYS = frozenset({"STYLE_RECIPE", "STYLE_CACHE_DIR", "STYLE_WEIGHTS_DIR"})
_MEMORY = re.compile(r"-(cpu|(\d+)gb)$")
_LEADING_KEY = re.compile(r"^([a-z_0-9]+(?:\.[a-z_0-9]+)+)[ :]+(.*)$")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe and where each of its values came from.

    Attributes:
        name: The shipped name, the path as it was typed, or ``defaults``.
        origin: Dotted key -> ``default``, ``recipe FILE:LINE``, ``environment STYLE_X``, ``--set``
            or ``flag``; one entry for every value.
        notes: What the user should hear although it is no fault.
    """

    recipe: Recipe
    origin: Mapping[str, str]
    name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """One value somebody gave."""

    path: Path
    value: Any
    place: str
    origin: str


@dataclass(slots=True)
class _Merged:
    """All layers on top of one another."""

    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[Path, _Entry] = field(default_factory=dict)

    def put(self, entry: _Entry) -> None:
        if isinstance(entry.value, dict):
            self.entries.setdefault(entry.path, entry)
            self._slot(entry.path, create=True)
            return
        *parents, last = entry.path
        section = self._slot(tuple(parents), create=True)
        # A section that somebody filled with a plain value stays, to be reported.
        if section is not None:
            section[last] = entry.value
            self.entries[entry.path] = entry

    def _slot(self, path: Path, *, create: bool) -> dict[str | int, Any] | None:
        here: Any = self.values
        for part in path:
            if part not in here and create:
                here[part] = {}
            here = here[part]
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


def load(
    name_or_path: str | None = None,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Resolved:
    """Put the layers on top of one another and check the result.

    Args:
        name_or_path: A shipped name or a YAML file. None means ``$STYLE_RECIPE``, else the shipped
            recipe of the chosen backbone for the smallest memory.
        overrides: ``key.path=value`` each, the value in YAML.
        environ: ``STYLE_SAMPLING__GUIDANCE`` sets ``sampling.guidance``; empty means unset.
        flags: Dotted key -> value of a command's own option, only those that were given.

    Raises:
        RecipeError: Every unknown key, wrong type and value out of range, one a line.
    """
    environ = environ or {}
    above = [*_from_environment(environ), *_from_overrides(overrides)]
    above += [_Entry(tuple(k.split(".")), v, "flag", "flag") for k, v in (flags or {}).items()]

    name = name_or_path or environ.get("STYLE_RECIPE") or _default_name(above)
    below, faults = _from_file(name) if name is not None else ([], [])
    merged = _Merged()
    for entry in (*below, *above):
        merged.put(entry)
    recipe, more = _validate(merged)
    faults = sorted([*faults, *more], key=_reading_order)
    if recipe is None or faults:
        raise RecipeError(
            "\n".join(map(str, faults)),
            fix=f"`style recipes show {name or 'NAME'} --resolved` lists every key and its value"
            if name in shipped()
            else "`style recipes show pocket-cpu --resolved` lists every key",
        )
    origin = {
        dotted(path): merged.entries[path].origin if path in merged.entries else "default"
        for path in words.leaves()
    }
    return Resolved(recipe, origin, name or "defaults", tuple(_doubts(environ)))


def shipped() -> dict[str, FilePath]:
    """Names of the recipes that come with the package, and their files."""
    package = FilePath(__file__).resolve().parent.parent
    folder = package / "_recipes"
    if not folder.is_dir():  # a checkout, not a wheel
        folder = package.parent / "recipes"
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find(name_or_path: str) -> tuple[FilePath, str]:
    """The file behind a name or path, and what to call it in messages.

    Raises:
        RecipeError: Neither a shipped name nor a file.
    """
    names = shipped()
    if name_or_path in names:
        return names[name_or_path], f"{name_or_path}.yaml"
    path = FilePath(name_or_path).expanduser()
    if path.is_file():
        return path, name_or_path
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise RecipeError(
        f"recipe {name_or_path!r} is neither a shipped name nor a file",
        fix=f"{hint}`style recipes list` names them all",
    )


def schema_json() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **words.recipe_schema()}


def _from_file(name: str) -> tuple[list[_Entry], list[Fault]]:
    path, label = find(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{label} is not UTF-8 text", fix="save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{label} cannot be read: {error.strerror}") from error
    document = read(text, label)

    def entries(value: Any, at: Path) -> Iterator[_Entry]:
        place = f"{label}:{document.lines[at]}" if at else label
        schema = words.schema_at(at)
        if value is None and schema is not None and words.is_section(schema):
            value = {}  # a section whose keys are all commented out
        if isinstance(value, dict):
            if at:
                yield _Entry(at, {}, place, f"recipe {place}")
            for key, inner in value.items():
                yield from entries(inner, (*at, key))
            return
        yield _Entry(at, value, place, f"recipe {place}")

    return list(entries(document.values, ())), list(document.faults)


def _from_environment(environ: Mapping[str, str]) -> list[_Entry]:
    return [
        _typed(tuple(name[len(PREFIX) :].lower().split("__")), text, f"environment {name}")
        for name, text in sorted(environ.items())
        if name.startswith(PREFIX) and "__" in name and text
    ]


def _from_overrides(overrides: Sequence[str]) -> list[_Entry]:
    entries = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(
                f"--set {text} is not KEY=VALUE", fix="such as --set sampling.guidance=7.5"
            )
        entries.append(_typed(tuple(key.strip().split(".")), value, "--set"))
    return entries


def _typed(path: Path, text: str, origin: str) -> _Entry:
    value = scalar(text)
    schema = words.schema_at(path)
    takes_text = schema is not None and words.is_text(schema)
    if takes_text and not isinstance(value, str | None):
        value = text  # `--set lora.prompt=1984` is text although YAML reads a number
    return _Entry(path, value, origin, origin)


def _default_name(above: Sequence[_Entry]) -> str | None:
    """The shipped recipe of the chosen backbone that needs the least memory."""
    chosen = [entry.value for entry in above if entry.path == ("backbone", "id")]
    backbone = chosen[-1] if chosen else Backbone().id
    fitting = []
    for name in shipped():
        if (memory := _MEMORY.search(name)) and name[: memory.start()] == backbone:
            fitting.append((int(memory[2] or 0), name))
    return min(fitting)[1] if fitting else None


def _doubts(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like ours and are not; they may belong to another program."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_KEYS or "__" in name:
            continue
        if near := words.nearest((name[len(PREFIX) :].lower(),)):
            variable = PREFIX + near.replace(".", "__").upper()
            yield f"environment {name} has no effect; did you mean {variable}?"


def _validate(merged: _Merged) -> tuple[Recipe | None, list[Fault]]:
    # Through JSON because strict mode then takes a list for a tuple and a whole number for a float,
    # but neither "7" for 7 nor true for 1.
    text = json.dumps(merged.values, default=str)
    try:
        return Recipe.model_validate_json(text, strict=True), []
    except ValidationError as error:
        faults: dict[Path | str, Fault] = {}
        for problem in error.errors(include_url=False):
            for key, fault in _explain(problem["type"], problem["loc"], problem["msg"], merged):
                faults.setdefault(key, fault)
        return None, list(faults.values())


def _explain(
    kind: str, loc: Path, message: str, merged: _Merged
) -> Iterator[tuple[Path | str, Fault]]:
    if kind == "value_error":  # a check across keys; each line opens with the key to change
        for line in message.removeprefix("Value error, ").splitlines():
            if match := _LEADING_KEY.match(line):
                place = merged.place(tuple(match[1].split(".")))
                yield line, Fault(place, match[1], match[2])
            else:
                yield line, Fault(merged.place(loc), dotted(loc), line)
        return
    path = _without_branches(loc)
    place, key = merged.place(path), dotted(path)
    if kind == "extra_forbidden":
        near = words.nearest(path)
        parent = words.schema_at(path[:-1]) or {}
        known = f"; known here: {', '.join(parent.get('properties', ()))}"
        yield path, Fault(place, key, f"unknown key{f'; did you mean {near}?' if near else known}")
        return
    # A fault in one branch of a union is a fault of the whole key: say all it accepts, once.
    schema = words.schema_at(path) or {}
    if kind == "missing":
        yield path, Fault(place, key, f"is required: {words.allowed(schema)}")
        return
    given: Any = merged.values
    for part in path:
        given = given[part]
    yield path, Fault(place, key, f"must be {words.allowed(schema)}, not {words.shown(given)}")


def _reading_order(fault: Fault) -> tuple[bool, int]:
    file, _, line = fault.place.rpartition(":")
    return (not file, int(line) if file and line.isdigit() else 0)


def _without_branches(loc: Path) -> Path:
    """A pydantic location without the names of union branches, cut where the schema ends."""
    path: Path = ()
    for i, part in enumerate(loc):
        is_last = i == len(loc) - 1
        schema = words.schema_at(path) or {}
        if words.schema_at((*path, part)) is not None:
            if "anyOf" in schema and isinstance(part, int):
                break
            path = (*path, part)
        elif is_last and words.is_section(schema):
            path = (*path, part)
    return path
