"""Pictures of two methods, scored without any file that does not ship."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.artifacts.features import FeatureStore
from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.items import Asked, collect
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.scoring.rows import Bench
from stylecli.evaluation.table import choose
from stylecli.recipe.scoring import Evaluate
from tests.cli.conftest import draw
from tests.engine.scoring import blended

CONTENTS, STYLES = ("apple", "boat", "cow"), ("ink", "oil")


@dataclass(frozen=True)
class World:
    """Folders of contents, styles, and of two methods' results."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "all.jsonl"

    def items(self, **settings: Any) -> list[Item]:
        return collect(Asked(manifest=self.manifest), Evaluate(**settings))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    for index, name in enumerate(CONTENTS):
        draw(root / "contents" / f"{name}.png", index)
    for index, name in enumerate(STYLES):
        draw(root / "styles" / f"{name}.png", 10 + index, (40, 40))
    rows = []
    for method, share in (("near", 0.3), ("far", 0.7)):
        for content in CONTENTS:
            for style in STYLES:
                output = root / method / f"{content}__{style}.png"
                blended.save(
                    output,
                    root / "contents" / f"{content}.png",
                    root / "styles" / f"{style}.png",
                    share,
                )
                rows.append(
                    {
                        "id": f"{content}-{style}",
                        "method": method,
                        "output": f"{method}/{output.name}",
                        "content": f"contents/{content}.png",
                        "style": f"styles/{style}.png",
                        "prompt": content,
                    }
                )
    (root / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return World(root)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore(tmp_path / "features.sqlite") as opened:
        yield opened


@pytest.fixture(scope="session")
def networks() -> Networks:
    return Networks({}, torch.device("cpu"))


@pytest.fixture
def bench(store: FeatureStore, networks: Networks) -> Bench:
    return Bench(Evaluate(batch=4), choose("pocket").metrics, networks, store)
