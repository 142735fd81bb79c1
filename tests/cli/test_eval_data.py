"""`style eval-data`: from a paper's data to a script that runs a method and rows that score it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import draw
from tests.conftest import Style
from tests.engine.protocols.shelves import lines, said
from tests.engine.route.data import photos

FREE = ("--metrics", "ssim,color_sw", "--no-anchors")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """As a user would, with `style` on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", str(script), *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}, timeout=500,
    )  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(3):
        draw(tmp_path / "contents" / f"c{index}.png", index, (48, 40))
    for family in ("Cubism", "Van Gogh"):
        for index in range(2):
            draw(tmp_path / "families" / family / f"{index}.png", 20 + index)
    return tmp_path


def test_the_same_data_give_the_same_bytes_and_others_are_not_mixed(
    style: Style, tmp_path: Path
) -> None:
    source = photos.coco(tmp_path / "coco")
    command = ("eval-data", "coco", source, "-o", tmp_path / "t", "--images", 3)
    done = style(*command, "--json")
    assert done.status == 0, done.err
    row, _ = done.rows
    assert (row["tasks"], row["protocol"], row["left_out"]) == (12, "coco", {})
    first = files(tmp_path / "t")
    assert set(first) >= {"protocol.json", "run.sh", "tasks.jsonl", "rows.jsonl"}
    assert json.loads(first["protocol.json"])["is_whole"] is True
    assert "--exclude" in done.err
    assert "style evaluate results/ --manifest" in " ".join(done.err.split())
    (tmp_path / "t" / "rows.jsonl").unlink()
    assert style(*command).status == 0
    assert files(tmp_path / "t") == first
    (tmp_path / "t" / "mine.txt").write_text("kept")
    refused = style(*command, "--seed", 5)
    assert refused.status == 3
    assert "other tasks" in refused.err
    assert files(tmp_path / "t")["rows.jsonl"] == first["rows.jsonl"]
    assert style(*command, "--seed", 5, "--overwrite").status == 0
    assert (tmp_path / "t" / "mine.txt").read_text() == "kept"
    found = files(tmp_path / "t")
    assert len([name for name in found if name.startswith("masks/")]) == 3
    assert found["tasks.jsonl"] != first["tasks.jsonl"]


def test_a_source_that_cannot_be_used_leaves_nothing_and_blocks_nothing(
    style: Style, tmp_path: Path
) -> None:
    lines(tmp_path / "few.jsonl", said(1, 2))
    wrong = style("eval-data", "megastyle", tmp_path / "few.jsonl", "-o", tmp_path / "t")
    assert wrong.status == 2
    assert not (tmp_path / "t").exists()
    source = photos.voc(tmp_path / "voc")
    # As a killed run leaves it.
    (tmp_path / "t" / "masks").mkdir(parents=True)
    (tmp_path / "t" / "masks" / "old.png").write_bytes(b"")
    (tmp_path / "t" / "protocol.json").write_text('{"key": "another", "is_whole": false}')
    assert style("eval-data", "voc", source, "-o", tmp_path / "t").status == 0
    assert not (tmp_path / "t" / "masks" / "old.png").exists()
    own = style("eval-data", "voc", source, "-o", source)
    assert (own.status, "is one of the sources" in own.err) == (2, True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tasks.jsonl").write_text("{}")
    assert style("eval-data", "voc", source, "-o", tmp_path / "other").status == 3


def test_two_tasks_of_one_name_are_refused(style: Style, tmp_path: Path) -> None:
    for content in ("a", "a__b"):
        draw(tmp_path / "contents" / f"{content}.png", 1)
    for look in ("b__c", "c"):
        draw(tmp_path / "styles" / f"{look}.png", 2)
    done = style(
        "eval-data", "styles", tmp_path / "contents", tmp_path / "styles", "-o", tmp_path / "t"
    )
    assert done.status == 2
    assert "two tasks would both be called a__b__c.png" in done.err
    assert not (tmp_path / "t").exists()


def test_a_dry_run_counts_and_writes_nothing(style: Style, tmp_path: Path) -> None:
    source = photos.voc(tmp_path / "voc")
    done = style("eval-data", "voc", source, "-o", tmp_path / "t", "--dry-run", "--json")
    assert done.status == 0, done.err
    assert done.rows[0]["tasks"] == 16
    assert not (tmp_path / "t").exists()


def test_what_a_set_was_made_of_is_left_out(style: Style, tmp_path: Path) -> None:
    source = photos.grounded(tmp_path / "grounded")
    learned = {"train": ["000000000100"], "val": ["000000000103"]}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "excluded_ids.json").write_text(json.dumps(learned))
    for exclude in (tmp_path / "set", tmp_path / "set" / "excluded_ids.json"):
        folder = tmp_path / f"t-{exclude.name}"
        done = style("eval-data", "coco", source, "-o", folder, "--exclude", exclude)
        assert done.status == 0, done.err
        rows = (folder / "rows.jsonl").read_text()
        assert not any(one in rows for ids in learned.values() for one in ids)
        assert "000000000101" in rows
        assert "2 pictures left out in the set that is excluded" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("vocc", "x"), "did you mean voc?"),
        (("styles", "contents"), "takes a folder of contents and a folder of styles, and 1"),
        (("styles", "contents", "families/Cubism", "--exclude", "x"), "--exclude is for coco, voc"),
        (("styles", "contents", "families/Cubism", "--seed", "1"), "--seed is for"),
        (("families", "contents", "contents"), "c0.png is in no family"),
        (("voc", "contents"), "no pairs of NAME_im"),
        (("voc", "gone"), "gone: no such file or folder"),
        (("coco", "families"), "no pairs"),
        (("coco", "gone.jsonl"), "gone.jsonl: no such file"),
        (("megastyle", "contents/c0.png"), "is neither a .jsonl list nor a .parquet table"),
        (("voc", "voc", "--style-name", "!!"), "has nothing in it to name files by"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    style: Style, pictures: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(pictures)
    photos.voc(pictures / "voc")
    done = style("eval-data", *arguments, "-o", "t")
    assert done.status == 2
    assert said in " ".join(done.err.split())
    assert len(done.err.splitlines()) == 2
    assert not (pictures / "t").exists()


def test_a_list_whose_pictures_are_elsewhere_says_so(style: Style, tmp_path: Path) -> None:
    source = photos.coco(tmp_path / "coco")
    shutil.move(tmp_path / "coco" / "train2017", tmp_path / "pictures")
    done = style("eval-data", "coco", source, "-o", tmp_path / "t")
    assert done.status == 2
    assert "4 whose picture is missing or damaged" in done.err
    there = ("--pictures", tmp_path / "pictures")
    assert style("eval-data", "coco", source, "-o", tmp_path / "t", *there).status == 0


def evaluated(style: Style, results: Path, tasks: Path, *more: str) -> Any:
    done = style(
        *("evaluate", results, "--manifest", tasks / "rows.jsonl", "-o", results.parent / "report"),
        *(more or FREE),
    )
    assert done.status == 0, done.err
    return json.loads((results.parent / "report" / "aggregate.json").read_text())


@pytest.mark.slow
def test_regions_run_and_are_scored(style: Style, tmp_path: Path) -> None:
    source = photos.coco(tmp_path / "coco")
    tasks, results = tmp_path / "t", tmp_path / "ours"
    made = ("eval-data", "coco", source, "-o", tasks, "--images", 2, "--style-name", "line-art")
    assert style(*made).status == 0
    done = run(tasks / "run.sh", results, "--steps", 2, "--set", "sampling.size=64")
    assert done.returncode == 0, done.stderr
    found = evaluated(style, results, tasks, "--recipe", "eval-regionroute")
    assert found["methods"]["ours"]["mse_bg"]["n"] == 2
    assert found["methods"]["ours"]["pocket-rsm"]["n"] == 2
    assert "vlm_q1" in (results.parent / "report" / "table.md").read_text()


@pytest.mark.slow
def test_families_run_and_are_scored(style: Style, pictures: Path) -> None:
    tasks, results = pictures / "t", pictures / "ours"
    made = style(
        *("eval-data", "families", pictures / "contents", pictures / "families", "-o", tasks),
        *("--images", 1),
    )
    assert made.status == 0, made.err
    small = ("--set", "gallery.steps=2", "--set", "sampling.size=64")
    done = run(tasks / "run.sh", results, *small)
    assert done.returncode == 0, done.stderr
    found = evaluated(style, results, tasks)
    assert found["methods"]["ours"]["color_sw"]["n"] == 2


@pytest.mark.slow
def test_a_grid_runs_and_a_command_that_fails_is_told(style: Style, pictures: Path) -> None:
    tasks, results = pictures / "t", pictures / "ours"
    made = style(
        *("eval-data", "styles", pictures / "contents", pictures / "families" / "Cubism"),
        *("-o", tasks),
    )
    assert made.status == 0, made.err
    small = ("--steps", 2, "--set", "sampling.size=64", "--set", "lora.steps=1")
    done = run(tasks / "run.sh", results, *small)
    assert done.returncode == 0, done.stderr
    found = evaluated(style, results, tasks)
    assert found["methods"]["ours"]["ssim"]["n"] == 6
    assert run(tasks / "run.sh", results, "--nonsense").returncode == 2
    assert run(tasks / "run.sh").returncode != 0


@pytest.mark.slow
def test_items_of_megastyle_run_and_are_scored(style: Style, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", said())
    tasks, results = tmp_path / "t", tmp_path / "ours"
    made = style("eval-data", "megastyle", source, "-o", tasks, "--images", 2, "--references", 2)
    assert made.status == 0, made.err
    done = run(tasks / "run.sh", results, "--steps", 2)
    assert done.returncode == 0, done.stderr
    metrics = ("--metrics", "pocket-clip-text,t_ssim", "--set", "evaluate.aspect=squash")
    found = evaluated(style, results, tasks, *metrics)
    assert found["methods"]["ours"]["pocket-clip-text"]["n"] == 2
