"""A resolved recipe as YAML that loads again, with the origin of every value beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylecli.recipe.load import Resolved


def render(resolved: Resolved) -> str:
    """YAML of every value; read back, it gives an equal recipe."""
    from stylecli.recipe.shares import as_written  # with the schema, which --help need not wait for

    lines: list[str] = []
    _section(as_written(resolved.recipe), "", resolved, lines)
    return "\n".join(lines)


def _section(values: dict[str, Any], prefix: str, resolved: Resolved, lines: list[str]) -> None:
    indent = "  " * prefix.count(".")
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:")
            _section(value, f"{key}.", resolved, lines)
            continue
        # JSON is YAML, and leaves no doubt about what is text.
        line = f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}"
        lines.append(f"{line:<44}  # {resolved.origin[key]}{_counted(key, resolved)}")


def _counted(key: str, resolved: Resolved) -> str:
    """What a share of the steps came to."""
    if key not in resolved.recipe.shares:
        return ""
    section, name = key.split(".")
    return f", {getattr(getattr(resolved.recipe, section), name)} steps"
