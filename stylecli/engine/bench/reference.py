"""The plain reference, which the tests judge by and the benchmark measures against."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from stylecli.errors import UsageError

PACKAGE = "stylecli._reference"


def module(name: str) -> Any:
    """A module of the reference: ``diffstyler`` or ``ddim``.

    A wheel carries the files; in a checkout they lie with the tests.

    Raises:
        UsageError: This installation has neither.
    """
    if PACKAGE not in sys.modules:
        own = Path(__file__).resolve().parents[2]
        folders = own / "_reference", own.parent / "tests" / "reference"
        folder = next((f for f in folders if (f / "diffstyler.py").is_file()), None)
        if folder is None:
            raise UsageError(
                "the plain reference is not part of this installation",
                fix="install the package again from a wheel, or leave out the case `plain`",
            )
        spec = ModuleSpec(PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[PACKAGE] = module_from_spec(spec)
    return importlib.import_module(f"{PACKAGE}.{name}")
