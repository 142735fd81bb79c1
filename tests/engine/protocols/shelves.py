"""Where sources put their files in tests, and tables in the layouts that are published."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Memory:
    """Files by name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def drop(self, name: str) -> None:
        del self.files[name]


def encoded(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def said(styles: int = 3, contents: int = 6) -> list[dict[str, str]]:
    """Captions and styles as MegaStyle calls them, each thing in each style."""
    return [
        {"content": f"a thing number {content}", "style": f"style of kind {style}"}
        for style in range(styles)
        for content in range(contents)
    ]


def megastyle(file: Path, rows: Sequence[dict[str, Any]], images: Sequence[bytes]) -> Path:
    """A parquet table with pictures in it."""
    import pyarrow as pa
    from pyarrow import parquet

    pictures = [{"bytes": data, "path": None} for data in images]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    parquet.write_table(pa.table({"image": pictures, **columns}), file, row_group_size=4)
    return file


def lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A list with pictures beside it."""
    found = []
    for number, row in enumerate(rows):
        name = f"img/{number:03}.png"
        (file.parent / "img").mkdir(parents=True, exist_ok=True)
        (file.parent / name).write_bytes(encoded(number))
        found.append(json.dumps({"image": name, **row}))
    file.write_text("\n".join(found) + "\n")
    return file
