"""The reference is a second opinion only as long as it asks nobody on our side."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
ALLOWED = {
    "__future__",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "math",
    "torch",
    "typing",
}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            # The folder is also `stylecli._reference` in a wheel, so its files name no parent.
            assert node.level == 1, "only the files beside it"
            found |= {f".{node.module or alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_these_are_all_of_them() -> None:
    assert [path.stem for path in FILES] == [
        "attention",
        "attention_distillation",
        "ddim",
        "diffstyler",
        "imagereward",
        "joint",
        "mixture",
        "regionroute",
        "rle",
        "stylegallery",
        "stylegallery_matching",
        "stylegallery_regions",
        "styleid",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_reference_imports_nothing_of_the_package_it_judges(path: Path) -> None:
    beside = {f".{file.stem}" for file in FILES}
    names = imported(path) - beside
    assert {name.partition(".")[0] for name in names} <= ALLOWED
    assert "importlib" not in path.read_text(encoding="utf-8")
    assert "stylecli" not in path.read_text(encoding="utf-8")
