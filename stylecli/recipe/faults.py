"""Check merged settings against the schema, and say what is wrong as its author would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from stylecli.recipe import shares, words
from stylecli.recipe.layers import Merged
from stylecli.recipe.schema import Recipe
from stylecli.recipe.source import Fault, Path, dotted

_LEADING_KEY = re.compile(r"^([a-z_0-9]+(?:\.[a-z_0-9]+)+)[ :]+(.*)$")


def validate(merged: Merged) -> tuple[Recipe | None, list[Fault]]:
    """A recipe of these values, in which shares of the steps are counted, or what is wrong."""
    written, beyond = shares.count(merged)
    # Through JSON because strict mode then takes a list for a tuple and a whole number for a float,
    # but neither "7" for 7 nor true for 1.
    text = json.dumps(merged.values, default=str)
    try:
        recipe = Recipe.model_validate_json(text, strict=True).with_shares(written)
        return (None if beyond else recipe), beyond
    except ValidationError as error:
        faults: dict[Path | str, Fault] = {}
        for problem in error.errors(include_url=False):
            for key, fault in _explain(problem["type"], problem["loc"], problem["msg"], merged):
                faults.setdefault(key, fault)
        # A list whose item is wrong may also count as too short: the item says it.
        parents = {key[:-1] for key in faults if isinstance(key, tuple)}
        return None, [*beyond, *(fault for key, fault in faults.items() if key not in parents)]


def _explain(
    kind: str, loc: Path, message: str, merged: Merged
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
