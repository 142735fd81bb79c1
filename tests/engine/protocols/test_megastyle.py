"""i2L's items: a prompt, and pictures of the style that show other things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stylecli.engine.i2l.data.rows import open_rows
from stylecli.engine.protocols.megastyle import LORAS, MegaStyle
from stylecli.engine.protocols.tasks import TASKS, Task
from stylecli.errors import ImageError, InputError
from tests.engine.protocols.shelves import Memory, encoded, lines, megastyle, said


def items(*files: Path, folder: Path, count: int = 9, **more: Any) -> MegaStyle:
    given = {"references": 2, "seed": 0, **more}
    return MegaStyle([open_rows(file) for file in files], folder, count=count, **given)


def made(*files: Path, folder: Path, **more: Any) -> tuple[list[Task], Memory]:
    shelf = Memory()
    return list(items(*files, folder=folder, **more).tasks(shelf)), shelf


def test_references_are_of_the_style_and_show_something_else(tmp_path: Path) -> None:
    rows = said()
    tasks, shelf = made(lines(tmp_path / "a.jsonl", rows), folder=tmp_path / "t")
    assert len(tasks) == 9
    assert shelf.files == {}
    of = {f"../img/{number:03}.png": row for number, row in enumerate(rows)}
    for number, task in enumerate(tasks):
        target = of[task.row["target"]]
        assert task.row["prompt"] == target["content"] == task.run[TASKS]["prompt"]
        assert task.row["style_text"] == target["style"]
        refs = [of[name] for name in task.row["style"]]
        assert len(refs) == len(set(task.row["style"])) == 2
        assert {ref["style"] for ref in refs} == {target["style"]}
        assert target["content"] not in {ref["content"] for ref in refs}
        assert task.run[LORAS] == {"id": f"{number:05}", "refs": task.row["style"]}
        assert task.run[TASKS]["lora"] == f"loras/{number:05}.safetensors"


def test_a_table_gives_the_same_items_and_only_their_pictures(tmp_path: Path) -> None:
    rows = said()
    pictures = [encoded(n, ("PNG", "JPEG", "WEBP")[n % 3]) for n in range(len(rows))]
    table = megastyle(tmp_path / "a.parquet", rows, pictures)
    tasks, shelf = made(table, folder=tmp_path / "t", count=3)
    listed, _ = made(lines(tmp_path / "a.jsonl", rows), folder=tmp_path / "t", count=3)
    assert [t.row["prompt"] for t in tasks] == [t.row["prompt"] for t in listed]
    used = {name for task in tasks for name in (task.row["target"], *task.row["style"])}
    assert used == shelf.files.keys()
    for name, data in shelf.files.items():
        assert data == pictures[int(Path(name).stem)]
        assert Path(name).suffix == (".png", ".jpg", ".webp")[int(Path(name).stem) % 3]


def test_several_files_are_one_table(tmp_path: Path) -> None:
    rows = said()
    pictures = [encoded(n) for n in range(len(rows))]
    whole = megastyle(tmp_path / "whole.parquet", rows, pictures)
    parts = [
        megastyle(tmp_path / f"{k}.parquet", rows[k * 9 : k * 9 + 9], pictures[k * 9 : k * 9 + 9])
        for k in range(2)
    ]
    one, _ = made(whole, folder=tmp_path)
    two, _ = made(*parts, folder=tmp_path)
    assert [task.row for task in one] == [task.row for task in two]


def test_held_out_rows_come_alone_where_there_are_any(tmp_path: Path) -> None:
    rows = [row | {"split": ("train", "test")[n % 2]} for n, row in enumerate(said(3, 8))]
    file = lines(tmp_path / "a.jsonl", rows)
    source = items(file, folder=tmp_path)
    tasks = list(source.tasks(Memory()))
    named = {name for task in tasks for name in (task.row["target"], *task.row["style"])}
    assert all(int(Path(name).stem) % 2 for name in named)
    assert source.left_out["of the training split"] == 12


def test_copies_of_the_target_are_no_reference(tmp_path: Path) -> None:
    rows = said(1, 4)
    pictures = [encoded(0), encoded(1), encoded(0), encoded(3)]
    tasks, shelf = made(megastyle(tmp_path / "a.parquet", rows, pictures), folder=tmp_path, count=4)
    for task in tasks:
        data = [shelf.files[name] for name in (task.row["target"], *task.row["style"])]
        assert data[0] not in data[1:]


def test_the_same_caption_in_other_marks_is_the_same_thing(tmp_path: Path) -> None:
    rows = said(1, 4)
    rows[1]["content"] = "A thing, number 0!"
    source = items(lines(tmp_path / "a.jsonl", rows), folder=tmp_path, count=4, references=2)
    for task in source.tasks(Memory()):
        shown = [rows[int(Path(name).stem)]["content"] for name in task.row["style"]]
        if "0" in task.row["prompt"]:
            assert not any("0" in one for one in shown)


def test_too_few_items_are_told_with_what_would_do(tmp_path: Path) -> None:
    rows = [*said(2, 5), {"content": "alone", "style": "of its kind"}]
    file = lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match="10 items will do, and 50 are asked for") as failure:
        items(file, folder=tmp_path, count=50).count()
    assert "1 whose style has too few other pictures" in failure.value.what
    assert failure.value.fix == "--images 10"
    assert items(file, folder=tmp_path, count=10).count() == 10


def test_a_row_without_a_picture_is_named(tmp_path: Path) -> None:
    table = megastyle(tmp_path / "a.parquet", said(1, 4), [b"GIF89a"] * 4)
    with pytest.raises(ImageError, match=r"a\.parquet:\d: its picture is none of"):
        made(table, folder=tmp_path, count=1)
