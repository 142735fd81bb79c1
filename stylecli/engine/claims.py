"""A folder that is to hold one set and nothing else: whose it is, and how another one gives way.

While a set is made, its plan says whose the folder is; once it is whole, its mark does. A run that
was killed leaves the plan, so the next one knows its own work, and that of others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts.files import to_json, write_atomic
from stylecli.errors import OutputDiffersError

CLEARING = "is_clearing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a set needs of its folder.

    Attributes:
        key: Equal keys make equal sets.
        mark: Says that a set is whole; JSON with its `key`.
        plan: Says that one is being made, and goes when it is whole.
        taken: Names in the folder that are its own.
        overwrite: A set of something else gives way.
    """

    folder: Path
    key: str
    mark: str
    plan: str
    taken: tuple[str, ...]
    overwrite: bool = False

    def check(self) -> None:
        """See that the folder is free for this set; nothing is done.

        Raises:
            OutputDiffersError: It holds another set, or files that are none of ours.
        """
        known = self._known()
        if known == self.key or (known is not None and self.overwrite):
            return
        if known is not None:
            raise OutputDiffersError(
                f"{self.folder} holds a set that was made from something else",
                fix="--overwrite replaces it; or choose another --output",
            )
        for name in self.taken:
            if (self.folder / name).exists():
                raise OutputDiffersError(
                    f"{self.folder} holds {name}, and no set of ours",
                    fix="choose another --output",
                )

    def finished(self) -> Mapping[str, Any] | None:
        """What the mark says, once nothing failed."""
        about = said(self.folder / self.mark)
        return about if about.get("failed") == 0 else None

    def begin(self) -> None:
        """Say whose the folder is from here on.

        Raises:
            ItemError: It cannot be written.
        """
        write_atomic(self.folder / self.plan, as_text({"key": self.key}))

    def clear(self, files: Iterable[Path]) -> None:
        """Remove a set of something else, or what a run that was killed left of one.

        Args:
            files: And folders, that sets are made of.
        """
        plan = said(self.folder / self.plan)
        if self._known() in (None, self.key) and not plan.get(CLEARING):
            return
        # From here on what is there is ours, half gone or not.
        write_atomic(self.folder / self.plan, as_text({"key": self.key, CLEARING: True}))
        for file in (self.folder / self.mark, *files):
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)

    def _known(self) -> str | None:
        """The key of the set that is there, or is being made."""
        for name in (self.plan, self.mark):
            if isinstance(key := said(self.folder / name).get("key"), str):
                return key
        return None


def said(file: Path) -> Mapping[str, Any]:
    """A file's JSON object; empty where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def as_text(value: object) -> bytes:
    """JSON that a person can read."""
    return json.dumps(json.loads(to_json(value)), indent=1).encode() + b"\n"
