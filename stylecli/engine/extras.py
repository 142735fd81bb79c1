"""Packages that come with an extra, and what to say where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stylecli.errors import UsageError


@contextmanager
def drawing_icons() -> Iterator[None]:
    """Around imports of what draws icons.

    Raises:
        UsageError: The package that does is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "resvg_py":
            raise
        raise UsageError(
            "drawing icons needs resvg-py, which is not installed",
            fix="pip install 'stylecli[pocket]'",
        ) from error
