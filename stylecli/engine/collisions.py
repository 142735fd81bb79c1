"""Two jobs that would write one file, and outputs that are inputs: refused before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from stylecli.errors import UsageError

if TYPE_CHECKING:
    from stylecli.engine.plan import Job


def refuse(jobs: Sequence[Job]) -> None:
    """Look at every place that jobs would write to.

    Raises:
        UsageError: Two are one, or an input.
    """
    seen: dict[str, Job] = {}
    # A link is followed where it is read, and replaced where it is written.
    inputs = {_place(path) for path in {item.path for job in jobs for item in job.inputs}}
    for job in jobs:
        for file in (job.output, job.sheet, *job.beside):
            if file is None:
                continue
            target = _place(file, is_read=False)
            if target in seen:
                other = seen[target]
                fields = "{folder}, {content}, {ext} or {style}"
                fields += ", or {key}" * (job.key != other.key)
                raise UsageError(
                    f"{job.inputs[0].path} and {other.inputs[0].path} would both write {file}",
                    fix=f"use --name with {fields}; in a manifest, the column output",
                )
            if target in inputs:
                raise UsageError(
                    f"{file} is one of the inputs", fix="write to another file or folder"
                )
            seen[target] = job


def _place(path: Path, *, is_read: bool = True) -> str:
    """The one name of a file, by which any other name of it is known."""
    text = str(path)
    if is_read and os.path.islink(text):  # noqa: PTH114  a tenth of the time, 100,000 times
        return os.path.realpath(text)
    folder, name = os.path.split(text)
    return f"{_real_folder(folder)}/{name}"


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
