"""What the schema allows, in words; and the key someone probably meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from stylecli.recipe.schema import Recipe
from stylecli.recipe.source import Path, dotted

Schema = Mapping[str, Any]


@cache
def recipe_schema() -> Schema:
    """JSON Schema of a recipe, as pydantic writes it."""
    return Recipe.model_json_schema()


def schema_at(path: Path) -> Schema | None:
    """The part of the schema that governs one key; None where there is no such key."""
    here: Schema | None = recipe_schema()
    for part in path:
        if here is None:
            return None
        here = _step(_deref(here), part)
    return None if here is None else _deref(here)


def _step(schema: Schema, part: str | int) -> Schema | None:
    options = [_deref(option) for option in schema.get("anyOf", (schema,))]
    for option in options:
        if isinstance(part, str) and part in option.get("properties", {}):
            found: Schema = option["properties"][part]
            return found
        if isinstance(part, int) and isinstance(option.get("items"), Mapping):
            items: Schema = option["items"]
            return items
    return None


def _deref(schema: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].rpartition("/")[2]
    target: Schema = recipe_schema()["$defs"][name]
    return target


def is_section(schema: Schema) -> bool:
    """Holds keys of its own, and cannot be null."""
    return "properties" in _deref(schema)


def is_text(schema: Schema) -> bool:
    """Takes any text, perhaps also null."""
    options = [_deref(option) for option in schema.get("anyOf", (schema,))]
    kinds = {option.get("type") for option in options}
    return "string" in kinds <= {"string", "null"} and not any("enum" in o for o in options)


def is_nullable(schema: Schema) -> bool:
    """Takes null."""
    return any(_deref(option).get("type") == "null" for option in schema.get("anyOf", ()))


def leaves(path: Path = ()) -> Iterator[Path]:
    """Every key that holds a value, in the order of the schema."""
    schema = schema_at(path)
    if schema is not None and is_section(schema):
        for name in schema["properties"]:
            yield from leaves((*path, name))
    else:
        yield path


def allowed(schema: Schema, *, many: bool = False) -> str:
    """What a key accepts, in words.

    >>> allowed({"type": "integer", "minimum": 1})
    'a whole number of 1 or more'
    >>> allowed({"anyOf": [{"enum": ["none", "all"]}, {"type": "number", "exclusiveMinimum": 0}]})
    'one of none, all or a number above 0'
    """
    schema = _deref(schema)
    if "anyOf" in schema:
        return " or ".join(allowed(option) for option in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    match schema.get("type"):
        case "integer" | "number" as kind:
            noun = "whole number" if kind == "integer" else "number"
            return (f"{noun}s" if many else f"a {noun}") + _range(schema)
        case "boolean":
            return "true or false"
        case "array":
            kind = "a non-empty list" if schema.get("minItems") else "a list"
            return f"{kind} of {allowed(schema.get('items', {}), many=True)}"
        case "null":
            return "null"
        case "object":
            return "a section with keys of its own"
        case _:
            such = ", ".join(map(str, schema.get("examples", ())))
            return ("texts" if many else "text") + (f" such as {such}" if such else "")


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    parts = []
    if above is not None:
        parts.append(f" above {_number(above)}")
    if low is not None:
        parts.append(f" of {_number(low)} or more")
    if below is not None:
        parts.append(f" below {_number(below)}")
    if high is not None:
        parts.append(f" of at most {_number(high)}")
    return " and".join(parts)


def _number(value: float) -> str:
    return f"{value:g}"


def shown(value: object) -> str:
    """A value as it appears in a message, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(path: Path) -> str | None:
    """The valid key someone probably meant by an unknown one.

    >>> nearest(("sampling", "guidence")), nearest(("guidance",)), nearest(("zzz",))
    ('sampling.guidance', 'sampling.guidance', None)
    """
    *section, last = path
    known = [dotted(key) for key in leaves()]
    parent = schema_at(tuple(section))
    siblings = parent.get("properties", {}) if parent is not None else {}
    if near := difflib.get_close_matches(str(last), siblings, n=1, cutoff=0.7):
        return dotted((*section, near[0]))
    if same := [key for key in known if key.rpartition(".")[2] == last]:
        return same[0]
    names = {key.rpartition(".")[2]: key for key in reversed(known)}
    for candidates, word in ((known, dotted(path)), (list(names), str(last))):
        if near := difflib.get_close_matches(word, candidates, n=1, cutoff=0.7):
            return names.get(near[0], near[0])
    return None
