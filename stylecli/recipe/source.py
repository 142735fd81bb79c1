"""YAML text -> plain values that remember their line.

Reads the core of YAML 1.2: ``2e-4`` is a number, ``no`` and ``2026-01-01`` are text, a key given
twice is a fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]

_STANDARD = "tag:yaml.org,2002:"
_KINDS = frozenset({"map", "seq", "str", "int", "float", "bool", "null"})
# Far beyond any recipe, far below what a file of nested aliases expands to.
MAX_NODES = 10_000
MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, where, and what would be right."""

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return "  ".join(part for part in (self.place, self.key, self.message) if part)


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"{_STANDARD}{kind}", re.compile(pattern), list(first))


_resolve("bool", r"^(true|True|TRUE|false|False|FALSE)$", "tTfF")
_resolve("int", r"^[-+]?(0|[1-9][0-9]*)$", "-+0123456789")
_resolve("float", r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", "-+.0123456789")
_resolve("float", r"^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$", "-+.")
_resolve("null", r"^(~|null|Null|NULL|)$", "~nN")
_Loader.yaml_implicit_resolvers.setdefault("", []).append((f"{_STANDARD}null", re.compile(r"^$")))


@dataclass(frozen=True, slots=True)
class Document:
    """A file's values, the line of each, and what is wrong with it as YAML."""

    values: dict[str, Any]
    lines: dict[Path, int]
    faults: tuple[Fault, ...]


def read(text: str, name: str) -> Document:
    """Parse a recipe file; never raises for what the text says.

    Args:
        text: The whole file.
        name: What to call the file in faults.
    """
    walk = _Walk(name)
    values: Any = {}
    loader = _Loader(text) if _is_printable(text) else None
    try:
        if loader is None:
            walk.faults.append(Fault(name, "", "not YAML: it holds control characters"))
        elif (node := loader.get_single_node()) is not None:
            values = walk.value(loader, node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        walk.faults.append(Fault(place, "", f"not YAML: {error.problem or error.context}"))
    except (yaml.YAMLError, ValueError) as error:
        walk.faults.append(Fault(name, "", f"not YAML: {str(error).splitlines()[0]}"))
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, dict):
        if values is not None:
            walk.faults.append(Fault(f"{name}:1", "", "a recipe is a mapping of sections"))
        values = {}
    return Document(values, walk.lines, tuple(walk.faults))


def scalar(text: str) -> Any:
    """The value behind a piece of YAML typed at the shell; text that is not YAML is text.

    >>> scalar("2e-4"), scalar("[to_q, to_k]"), scalar("no"), scalar("a: b: c")
    (0.0002, ['to_q', 'to_k'], 'no', 'a: b: c')
    """
    document = read(f"v: {text}", "")
    if document.faults or set(document.values) != {"v"}:
        return text
    return document.values["v"]


class _Walk:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Path, int] = {}
        self.faults: list[Fault] = []
        self.nodes = 0

    def value(self, loader: _Loader, node: yaml.Node, path: Path) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise ValueError("too large or too deep for a recipe")
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if node.tag.removeprefix(_STANDARD) not in _KINDS:
            self.faults.append(
                Fault(f"{self.name}:{line}", dotted(path), f"tag {node.tag} is not data")
            )
            return None
        if isinstance(node, yaml.MappingNode):
            values: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                here = (*path, key)
                key_line = key_node.start_mark.line + 1
                if key in values:
                    first = self.lines[here]
                    self.faults.append(
                        Fault(
                            f"{self.name}:{key_line}",
                            dotted(here),
                            f"given twice; first on line {first}",
                        )
                    )
                    continue
                self.lines[here] = key_line
                values[key] = self.value(loader, value_node, here)
            return values
        if isinstance(node, yaml.SequenceNode):
            return [self.value(loader, item, (*path, i)) for i, item in enumerate(node.value)]
        return loader.construct_object(node)


def dotted(path: Path) -> str:
    """A path as users write it.

    >>> dotted(("lora", "targets", 1))
    'lora.targets[1]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _is_printable(text: str) -> bool:
    return yaml.reader.Reader.NON_PRINTABLE.search(text) is None
