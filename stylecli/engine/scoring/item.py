"""One output of one method, and what a manifest may say of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILES = ("output", "content", "style", "mask", "target")
WORDS = (
    *("prompt", "region_text", "style_text", "style_content", "negative_style", "style_family"),
    "content_group",
)
COLUMNS = ("id", "method", *FILES, *WORDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One output of one method.

    Attributes:
        id: Equal across methods for the same task.
        place: Where it was named, for messages.
    """

    id: str
    method: str
    output: Path
    place: str
    content: Path | None = None
    style: tuple[Path, ...] = ()
    mask: Path | None = None
    target: Path | None = None
    prompt: str = ""
    region_text: str = ""
    style_text: str = ""
    style_content: str = ""
    negative_style: str = ""
    style_family: str = ""
    content_group: str = ""

    def has(self, column: str) -> bool:
        """Whether the manifest gave it."""
        return bool(getattr(self, column))
