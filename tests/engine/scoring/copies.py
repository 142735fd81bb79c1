"""A manifest of any length over a few small pictures: what a hundred thousand rows cost, and how
they are shared, does not depend on what they show."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import draw

OUTPUTS, CONTENTS, STYLES = 20, 7, 9


def manifest(folder: Path, rows: int, outputs: int = OUTPUTS) -> Path:
    """Rows of one method, each a task of its own."""
    for kind, count in (("outputs", outputs), ("contents", CONTENTS), ("styles", STYLES)):
        for index in range(count):
            draw(folder / kind / f"{index}.png", seed=len(kind) * 10_000 + index)
    path = folder / f"copies-{rows}.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for index in range(rows):
            row = {
                "id": f"task-{index:06}",
                "method": "copies",
                "output": f"outputs/{index % outputs}.png",
                "content": f"contents/{index % CONTENTS}.png",
                "style": f"styles/{index // CONTENTS % STYLES}.png",
            }
            stream.write(json.dumps(row) + "\n")
    return path
