"""A recipe file or name, the environment and the command line -> one frozen `Recipe`.

Later layers win: built-in defaults (of a local model, its own size), the recipe, ``STYLE_*``
variables, ``--set``, a command's own flags. Every fault of every layer is reported at once, where
it was written.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from stylecli.errors import RecipeError
from stylecli.recipe import native, words
from stylecli.recipe.faults import validate
from stylecli.recipe.layers import PREFIX, Entry, Merged, from_environment, from_overrides
from stylecli.recipe.presets import layered
from stylecli.recipe.schema import Backbone, Recipe
from stylecli.recipe.shorthand import unfold
from stylecli.recipe.source import Fault, Path, dotted, read

# Names of ours that are not settings; everything else needs a double underscore to be one.
NOT_KEYS = frozenset(
    {
        *("STYLE_RECIPE", "STYLE_CACHE_DIR", "STYLE_CACHE_SIZE", "STYLE_WEIGHTS_DIR"),
        *("STYLE_SHARDS", "STYLE_RAY_ACTORS", "STYLE_EXIT_STATUS", "STYLE_COMMAND"),
    }
)
# The name of what no recipe was laid on.
DEFAULTS = "defaults"
# First words of origins that are nearer to a run than its recipe.
BESIDE = ("environment", "--set", "flag")
_MEMORY = re.compile(r"-(cpu|(\d+)gb)$")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe and where each of its values came from.

    Attributes:
        name: The shipped name, the path as it was typed, or ``defaults``.
        origin: Dotted key -> ``default``, ``recipe FILE:LINE``, ``environment STYLE_X``, ``--set``
            or ``flag``, or ``model FOLDER`` for what a local model says of its own size; one entry
            for every value.
        notes: What the user should hear although it is no fault.
        assumed: Which recipe was taken for a backbone that was named without one, as a sentence.
    """

    recipe: Recipe
    origin: Mapping[str, str]
    name: str
    notes: tuple[str, ...] = ()
    assumed: str = ""

    def decided(self) -> frozenset[str]:
        """Keys that the user set for this run, beside the recipe's file."""
        return frozenset(
            key for key, origin in self.origin.items() if origin.partition(" ")[0] in BESIDE
        )

    def with_values(self, values: Mapping[str, Any], origin: str) -> Resolved:
        """The same with other values, which are known to be right, and where they came from."""
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
        changed = {
            section: getattr(self.recipe, section).model_copy(update=update)
            for section, update in sections.items()
        }
        return replace(
            self,
            recipe=self.recipe.model_copy(update=changed),
            origin={**self.origin, **dict.fromkeys(values, origin)},
        )


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
    own = [Entry(tuple(k.split(".")), v, "flag", "flag") for k, v in (flags or {}).items()]
    layers = (from_environment(environ), from_overrides(overrides), own)
    above = [entry for layer in layers for entry in layer]

    named = name_or_path or environ.get("STYLE_RECIPE")
    name = named or _default_name(above)
    below, faults = _from_file(name) if name is not None else ([], [])
    merged = Merged()
    for entry in layered(below, above):
        merged.put(entry)
    _fill_from_model(merged)
    unread = unfold(merged)
    recipe, more = validate(merged)
    faults = sorted([*faults, *unread, *more], key=_reading_order)
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
    assumed = ""
    if named is None and any(entry.path == ("backbone", "id") for entry in above):
        assumed = f"recipe  {name or 'built-in settings'} at {recipe.sampling.size} px for "
        assumed += f"{recipe.backbone.id}; --recipe chooses another"
    return Resolved(recipe, origin, name or DEFAULTS, tuple(_doubts(environ)), assumed)


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
        RecipeError: Neither a shipped name nor a file, or a folder.
    """
    names = shipped()
    if name_or_path in names:
        return names[name_or_path], f"{name_or_path}.yaml"
    path = FilePath(name_or_path).expanduser()
    if path.is_file():
        return path, name_or_path
    if path.is_dir():
        raise RecipeError(f"recipe {name_or_path!r} is a folder", fix="name a file in it")
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise RecipeError(
        f"recipe {name_or_path!r} is neither a shipped name nor a file",
        fix=f"{hint}`style recipes list` names them all",
    )


def schema_json() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **words.recipe_schema()}


def _from_file(name: str) -> tuple[list[Entry], list[Fault]]:
    path, label = find(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeError(f"{label} is not UTF-8 text", fix="save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(
            f"{label} cannot be read: {error.strerror}", fix="check its permissions"
        ) from error
    document = read(text, label)

    def entries(value: Any, at: Path) -> Iterator[Entry]:
        place = f"{label}:{document.lines[at]}" if at else label
        schema = words.schema_at(at)
        if value is None and schema is not None and words.is_section(schema):
            value = {}  # a section whose keys are all commented out
        if isinstance(value, dict):
            if at:
                yield Entry(at, {}, place, f"recipe {place}")
            for key, inner in value.items():
                yield from entries(inner, (*at, key))
            return
        yield Entry(at, value, place, f"recipe {place}")

    return list(entries(document.values, ())), list(document.faults)


def _default_name(above: Sequence[Entry]) -> str | None:
    """The shipped recipe of the chosen backbone that needs the least memory."""
    chosen = [entry.value for entry in above if entry.path == ("backbone", "id")]
    # An editor that was made of a model goes by the model's.
    backbone = str(chosen[-1]).removesuffix("-edit") if chosen else Backbone().id
    fitting = [
        (int(memory[2] or 0), name)
        for name in shipped()
        if (memory := _MEMORY.search(name)) and name[: memory.start()] == backbone
    ]
    return min(fitting)[1] if fitting else None


def _fill_from_model(merged: Merged) -> None:
    """What nobody set and a local model knows better than the built-in defaults."""
    backbone = merged.values.get("backbone")
    chosen = backbone.get("id") if isinstance(backbone, dict) else None
    if not isinstance(chosen, str):
        return
    folder = FilePath(chosen).expanduser()
    origin = f"model {chosen}"
    for path, value in native.defaults(folder):
        if path not in merged.entries:
            merged.put(Entry(path, value, origin, origin))


def _doubts(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like ours and are not; they may belong to another program."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_KEYS or "__" in name:
            continue
        if near := words.nearest((name[len(PREFIX) :].lower(),)):
            variable = PREFIX + near.replace(".", "__").upper()
            yield f"environment {name} has no effect; did you mean {variable}?"


def _reading_order(fault: Fault) -> tuple[bool, int]:
    file, _, line = fault.place.rpartition(":")
    return (not file, int(line) if file and line.isdigit() else 0)
