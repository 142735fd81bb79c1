"""RegionRoute's tasks: one object of each photograph in each style, none that was learned from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylecli.engine.protocols.regions import RULES, Regions
from stylecli.engine.protocols.tasks import TASKS
from stylecli.engine.route.data.prepare import listing
from stylecli.methods.regionroute.styles import PAPER
from tests.engine.protocols.shelves import Memory
from tests.engine.route.data import photos

LAYOUTS = {
    "coco": photos.coco,
    "grounded": photos.grounded,
    "voc": photos.voc,
    "big": photos.big,
}


def regions(source: Path, folder: Path, rule: str = "big", **more: Any) -> Regions:
    given: dict[str, Any] = {"styles": PAPER, "seed": 0, "excluded": (), "images": None, **more}
    return Regions([listing(source)], folder, data=RULES[rule], **given)


@pytest.fixture(params=LAYOUTS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    layout: Callable[[Path], Path] = LAYOUTS[request.param]
    return layout(tmp_path / "data")


def test_every_photograph_comes_in_every_style_with_its_own_mask(
    source: Path, tmp_path: Path
) -> None:
    folder, shelf = tmp_path / "tasks", Memory()
    folder.mkdir()
    made = regions(source, folder)
    tasks = list(made.tasks(shelf))
    assert len(tasks) == made.count() == 4 * 4
    assert len({task.row["id"] for task in tasks}) == 16
    assert len({task.row["output"] for task in tasks}) == 16
    for task in tasks:
        run, row = task.run[TASKS], task.row
        assert (folder / row["content"]).is_file()
        assert run["content"] == row["content"]
        assert run["output"] == row["output"]
        assert run["object"] == [row["region_text"]]
        assert run["style_name"][0].replace("-", " ") == row["style_text"]
        box = photos.BOXES[photos.NAMES.index(row["region_text"])]
        if row["region_text"] == "dog" and "103" in row["id"]:
            box = photos.SECOND
        mask = np.array(Image.open(io.BytesIO(shelf.files[row["mask"]])))
        assert np.array_equal(mask, photos.inside(box) == 1)
    assert len(shelf.files) == 4


def test_nothing_that_was_learned_from_comes_out(source: Path, tmp_path: Path) -> None:
    ids = {photograph.id for photograph in listing(source)}
    learned = sorted(ids)[:2]
    made = regions(source, tmp_path, excluded=learned)
    left = {task.row["id"].split("/")[1] for task in made.tasks(Memory())}
    assert left == ids - set(learned)
    assert made.left_out == {"in the set that is excluded": 2}


def test_the_seed_draws_and_more_photographs_keep_the_first(tmp_path: Path) -> None:
    source = photos.coco(tmp_path / "data")

    def drawn(seed: int, images: int | None) -> list[str]:
        made = regions(source, tmp_path, seed=seed, images=images, styles=PAPER[:1])
        return [f"{t.row['id']} {t.row['region_text']}" for t in made.tasks(Memory())]

    assert drawn(0, 2) == drawn(0, None)[:2]
    assert drawn(0, None) == drawn(0, None)
    assert len({tuple(drawn(seed, None)) for seed in range(6)}) > 1


def test_coco_has_the_rule_of_training_and_others_were_picked_by_people(tmp_path: Path) -> None:
    source = photos.voc(tmp_path / "data")
    small = np.zeros((photos.HIGH, photos.WIDE), dtype=np.uint8)
    small[:9, :9] = 255
    Image.fromarray(small).save(next(source.glob("*_gt.png")))
    assert regions(source, tmp_path, "voc").count() == 16
    strict = regions(source, tmp_path, "coco")
    assert strict.count() == 12
    assert strict.left_out == {"whose object is too small": 1}


@pytest.mark.parametrize("fill", [0, 255])
def test_a_mask_of_nothing_or_of_everything_is_no_task(tmp_path: Path, fill: int) -> None:
    source = photos.voc(tmp_path / "data")
    whole = np.full((photos.HIGH, photos.WIDE), fill, dtype=np.uint8)
    Image.fromarray(whole).save(next(source.glob("*_gt.png")))
    made = regions(source, tmp_path, "voc")
    assert made.count() == 12
    assert sum(made.left_out.values()) == 1


def test_what_decides_the_tasks_is_in_the_facts(tmp_path: Path) -> None:
    source = photos.coco(tmp_path / "data")

    def facts(**more: Collection[str] | int) -> str:
        return json.dumps(dict(regions(source, tmp_path, **more).facts))

    assert facts() == facts()
    changed = [facts(seed=1), facts(images=2), facts(excluded=["1"]), facts(styles=PAPER[:1])]
    assert len({facts(), *changed}) == 5
