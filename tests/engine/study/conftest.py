"""Results of three methods, a study of them, and raters who vote without a browser."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stylecli.engine.scoring.items import Asked
from stylecli.engine.study import making
from stylecli.engine.study.ballots import COLUMNS
from stylecli.engine.study.design import Place
from stylecli.engine.study.key import COPY, Key
from stylecli.engine.study.making import Made, Wanted
from stylecli.recipe.scoring import Evaluate
from tests.cli.conftest import draw
from tests.engine.report.conftest import Nobody, browser  # noqa: F401  a fixture

# Such as no picture in letters holds by accident.
METHODS = ("ours-quixotic", "rival-zephyr", "rival-jackdaw")
OURS, ZEPHYR, JACKDAW = METHODS
# Whom a rater prefers, of two methods and on a question; None is a tie.
Taste = Callable[[str, str, str], str | None]


@dataclass
class Bench:
    """A folder of results, and studies of them."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def fill(self, tasks: int = 4, methods: Sequence[str] = METHODS) -> Bench:
        for task in range(tasks):
            content = draw(self.folder / "in" / f"photo{task}.png", task)
            style = draw(self.folder / "in" / f"look{task % 2}.png", 50 + task % 2)
            for at, method in enumerate(methods):
                output = draw(self.folder / method / f"{task}.png", 100 + 10 * task + at)
                row = {"id": f"task-{task}", "method": method, "output": output}
                self.rows.append(row | {"content": content, "style": [style]})
        return self

    @property
    def manifest(self) -> Path:
        file = self.folder / "all.jsonl"
        file.write_text("".join(json.dumps(row, default=str) + "\n" for row in self.rows))
        return file

    def make(self, **wishes: Any) -> Made:
        wanted = {"output": self.folder / "study", "ours": OURS, "side_px": 32} | wishes
        asked = Asked(manifest=self.manifest)
        return making.make(asked, Wanted(**wanted), Evaluate(), Nobody())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path).fill()


def prefers(*methods: str) -> Taste:
    """Earlier ones before later ones, and anything before the content itself."""
    order = [*methods, *(m for m in METHODS if m not in methods), COPY]
    return lambda a, b, _: min(a, b, key=order.index)


def answers(key: Key, rater: str, taste: Taste, *, ms: int = 5000) -> list[list[str]]:
    """Rows as the page writes them."""
    found = []
    for place in key.design.places(rater):
        for question in key.questions:
            choice = _letter(key, place, taste, question.key)
            found.append(
                [key.study, rater, place.item, question.key, choice, str(place.order), str(ms)]
            )
    return found


def _letter(key: Key, place: Place, taste: Taste, question: str) -> str:
    pair = key.pairs[place.shown]
    chosen = taste(pair.first, pair.second, question)
    return "tie" if chosen is None else "A" if (chosen == pair.second) == place.is_swapped else "B"


def save(path: Path, rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(buffer.getvalue())
    return str(path)


@pytest.fixture
def votes(tmp_path: Path) -> Callable[..., str]:
    """Save the votes of one rater; the file's name."""

    def cast(key: Key, rater: str, taste: Taste, **options: Any) -> str:
        return save(tmp_path / "votes" / f"{rater}.csv", answers(key, rater, taste, **options))

    return cast
