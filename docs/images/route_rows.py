"""The file of figures, a JSON line for each edit, and the pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts import images


def read(file: Path) -> list[dict[str, Any]]:
    """Whole rows of a file; of an edit done twice, by other weights, the later one counts."""
    if not file.exists():
        return []
    # Of one that was being written nothing is known.
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
    rows = [_row(line) for line in whole.splitlines()]
    return list({(row["way"], row["id"]): row for row in rows if row is not None}.values())


def note(file: Path, who: Mapping[str, str], figures: Mapping[str, Any]) -> None:
    """One more row, behind whatever is torn off at the end."""
    row = {**who, **{k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}}
    is_torn = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
    with file.open("a", encoding="utf-8") as rows:
        rows.write("\n" * is_torn + json.dumps(row) + "\n")


def save(path: Path, *pictures: Float[Tensor, "3 h w"]) -> None:
    """Before, after, and the truth, side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images.to_pixels(torch.cat(pictures, dim=2)).numpy()).save(path)


def _row(line: str) -> dict[str, Any] | None:
    """None of what was torn."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found
