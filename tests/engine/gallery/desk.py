"""A tiny model, pictures of two colours, and galleries made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylecli.engine.gallery.prepare import gallery
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.runs.making import Result
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe
from tests import small
from tests.cli.conftest import draw
from tests.engine.jobs import Listener

SETTINGS: dict[str, Any] = {
    "device.name": "cpu",
    "sampling.size": 32,
    "dfcc.steps": 2,
    "dfcc.k": 3,
    "dfcc.merge_distance": 0.0,
    "dfcc.min_cells": 4,
    "dfcc.depth": "none",
    "matching.semantics": "features",
    "gallery.steps": 2,
}


def recipe(**changes: Any) -> Recipe:
    """A recipe of a few steps; dots in keys are written ``__``."""
    own = {key.replace("__", "."): value for key, value in changes.items()}
    return load(flags={"backbone.id": str(small.folder()), **SETTINGS, **own}).recipe


class Desk:
    """Pictures in a folder, and what is made of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = Listener()
        sizes = [(48, 40), (40, 48), (48, 40), (48, 40)]
        self.contents = [
            draw(folder / f"photo{i}.png", seed=i, size=size) for i, size in enumerate(sizes)
        ]
        sizes = [(44, 44), (40, 48), (60, 40)]
        self.refs = [
            draw(folder / "refs" / f"look{i}.png", seed=10 + i, size=size)
            for i, size in enumerate(sizes)
        ]

    def prepare(
        self,
        out: str,
        contents: Sequence[Path] = (),
        *,
        refs: Sequence[Path] = (),
        settings: Recipe | None = None,
        explain: bool = False,
        dump: bool = False,
        **destination: Any,
    ) -> Prepared:
        return gallery(
            settings or recipe(),
            Contents(arguments=[str(path) for path in contents or self.contents[:1]]),
            Destination(output=str(self.folder / out) + "/" * ("." not in out), **destination),
            self.listener,
            refs=[str(path) for path in refs or [self.folder / "refs"]],
            explain=explain,
            dump=f"{self.folder if '.' in out else self.folder / out}/" if dump else None,
        )

    def rows(self, settings: Recipe, *rows: dict[str, Any]) -> Prepared:
        """A manifest whose rows restyle the first content, unless they name another."""
        file = self.folder / "jobs.jsonl"
        written = [
            {"content": "photo0.png", "output": f"{at}.png", **row} for at, row in enumerate(rows)
        ]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in written))
        return gallery(
            settings,
            Contents(manifest=file),
            Destination(output=f"{self.folder}/rows/"),
            self.listener,
            refs=[str(self.folder / "refs")],
        )

    def make(self, out: str, contents: Sequence[Path] = (), **options: Any) -> list[Result]:
        results = list(self.prepare(out, contents, **options).run())
        for result in results:
            assert result.status in ("done", "skipped"), result.error
        return results

    def pixels(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.folder / name)).astype(int)


def painted(path: Path, colours: Sequence[str], size: tuple[int, int] = (48, 40)) -> Path:
    """A mask of vertical stripes."""
    width, height = size
    image = Image.new("RGB", size)
    for at, colour in enumerate(colours):
        box = (at * width // len(colours), 0, (at + 1) * width // len(colours), height)
        image.paste(colour, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path
