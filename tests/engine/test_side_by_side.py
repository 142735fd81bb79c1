"""Several looks of one content: painted side by side, each is what it would be alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stylecli.artifacts import cache
from stylecli.backbone.model import Backbone
from stylecli.engine import restyle
from stylecli.engine.painting import in_one_look
from stylecli.engine.plan import Input
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.tasks import Task, in_order, side_by_side
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe
from tests.cli.conftest import draw
from tests.engine.jobs import Listener
from tests.engine.test_batches import made, settings

STYLES = ("ink", "oil", "riso")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    for i in range(3):
        draw(folder / "in" / f"{i}.png", seed=i, size=(48, 40))
    for i, name in enumerate(STYLES):
        draw(folder / f"{name}.png", seed=20 + i)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "cache"))


def transferred(
    recipe: Recipe, desk: Path, out: Path, styles: tuple[str, ...] = STYLES, names: str = "*"
) -> Prepared:
    return restyle.transfer(
        recipe,
        Contents(arguments=[str(desk / "in" / f"{names}.png")]),
        Destination(output=f"{out}/"),
        Listener(),
        styles=[str(desk / f"{name}.png") for name in styles],
    )


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows that the model was shown."""
    rows: list[int] = []
    predict = Backbone.predict

    def counting(self: Backbone, latents: Any, *given: Any) -> Any:
        rows.append(len(latents))
        return predict(self, latents, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "predict", counting)
        yield rows


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_looks_side_by_side_are_each_what_they_are_alone_and_share_the_content(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    recipe = settings(batch, **{"sampling.start": "inversion", "inversion.refine_iters": 0})
    with counted(monkeypatch) as shared:
        together = made(transferred(recipe, desk, tmp_path / "together"))
    assert len(together) == 9
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "other"))
    alone: dict[str, bytes] = {}
    with counted(monkeypatch) as single:
        one_by_one = recipe.model_copy(
            update={"device": recipe.device.model_copy(update={"looks": 1})}
        )
        alone = made(transferred(one_by_one, desk, tmp_path / "alone"))
    assert together == alone
    # Full batches; four steps, the last without a source; each content's passes once, not thrice.
    contents = 3 if batch == 1 else 4
    assert sum(single) - sum(shared) == 2 * 3 * contents
    recorded = json.loads((tmp_path / "together" / "runs.jsonl").read_text().splitlines()[1])
    assert recorded["status"] == "done"


@pytest.mark.slow
def test_a_resumed_run_paints_only_the_looks_that_are_missing(desk: Path, tmp_path: Path) -> None:
    recipe = settings(2, **{"sampling.start": "inversion"})
    whole = made(transferred(recipe, desk, tmp_path / "out"))
    for name in ("0__ink.png", "2__ink.png", "2__riso.png"):
        (tmp_path / "out" / name).unlink()
    results = list(transferred(recipe, desk, tmp_path / "out").run())
    assert sorted(r.job.output.name for r in results if r.status == "done") == [
        "0__ink.png", "2__ink.png", "2__riso.png",
    ]  # fmt: skip
    again = {name: (tmp_path / "out" / name).read_bytes() for name in whole}
    assert again == whole


@pytest.mark.slow
@pytest.mark.parametrize("place", ["device", "cpu", "disk"])
def test_what_a_content_leaves_may_wait_anywhere(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    more = {"sampling.start": "inversion", "device.looks": 1}
    plain = made(transferred(settings(1, **more), desk, tmp_path / "plain", names="0"))
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "other"))
    recipe = settings(1, **more, **{"device.source_cache": place})
    with counted(monkeypatch) as rows:
        waited = made(transferred(recipe, desk, tmp_path / place, names="0"))
    assert waited == plain
    guided, inverted, sources = 2 * 4 * 3, 4 * 3, 3
    trained = sum(rows) - guided - inverted - sources
    assert trained == 0
    with counted(monkeypatch) as later:
        again = restyle_again(recipe, desk, tmp_path / place)
    assert again == plain
    assert sum(later) == guided + (0 if place == "disk" else sources)
    shelf = cache.cache_dir() / cache.SOURCES
    files = list(shelf.rglob("*.safetensors")) if shelf.is_dir() else []
    assert bool(files) == (place == "disk")


def restyle_again(recipe: Recipe, desk: Path, out: Path) -> dict[str, bytes]:
    for picture in out.glob("*.png"):
        picture.unlink()
    return made(transferred(recipe, desk, out, names="0"))


@pytest.mark.slow
def test_a_damaged_file_of_what_waits_is_made_again(desk: Path, tmp_path: Path) -> None:
    recipe = settings(
        1, **{"sampling.start": "inversion", "device.source_cache": "disk", "device.looks": 1}
    )
    plain = made(transferred(recipe, desk, tmp_path / "out", names="0"))
    files = sorted((cache.cache_dir() / cache.SOURCES).rglob("*.safetensors"))
    assert len(files) == 3  # of four steps the last takes nothing
    intact = {file: file.read_bytes() for file in files}
    data = intact[files[0]]
    turned = data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]
    for harm in (data[:-9], b"", b"\xff" * 64, turned):
        files[0].write_bytes(harm)
        assert restyle_again(recipe, desk, tmp_path / "out") == plain
        assert {file: file.read_bytes() for file in files} == intact


def test_looks_that_share_follow_one_another_in_chunks_that_fit_side_by_side() -> None:
    recipe = load(flags={"sampling.start": "inversion", "device.looks": 2}).recipe

    def task(content: str, look: str, own: Recipe = recipe) -> Task:
        painted = in_one_look([Input("lora", Path(look), look)], own.sampling)
        return Task(Input("content", Path(content), content), painted, own)

    tasks = [task(content, look) for content in "ab" for look in "zyx"]

    def order(tasks: list[Task], recipe: Recipe) -> list[str]:
        return [
            task.content.sha256 + next(task.painting.parts).look.sha256
            for task in in_order(tasks, recipe.device)
        ]

    assert order(tasks, recipe) == ["ax", "ay", "bx", "by", "az", "bz"]
    assert side_by_side(tasks, recipe.device) == 2
    kept = load(flags={"device.source_cache": "cpu"}).recipe
    assert order(tasks, kept) == ["ax", "ay", "az", "bx", "by", "bz"]
    apart = load(flags={"sampling.start": "palette"}).recipe
    tasks = [task(content, look, apart) for content in "ab" for look in "zyx"]
    assert order(tasks, apart) == ["ax", "bx", "ay", "by", "az", "bz"]
    assert side_by_side(tasks, apart.device) == 1
