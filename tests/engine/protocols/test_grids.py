"""Contents by styles, and contents in families of references."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from stylecli.engine.protocols.grids import Families, Grid
from stylecli.engine.protocols.tasks import TASKS
from stylecli.errors import InputError
from tests.cli.conftest import draw
from tests.engine.protocols.shelves import Memory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for index in range(6):
        draw(tmp_path / "contents" / f"city {index}.png", index)
    for family in ("Cubism", "Van Gogh", "it's"):
        for index in range(3):
            draw(tmp_path / "families" / family / f"{index}.jpg", 20 + index)
    return tmp_path


def test_a_grid_is_each_with_each(data: Path) -> None:
    grid = Grid(data / "contents", data / "families" / "Cubism", data / "tasks")
    tasks = list(grid.tasks(Memory()))
    assert len(tasks) == grid.count() == 18
    one = tasks[4]
    assert one.run[TASKS] == {
        "content": "../contents/city 1.png",
        "style": "../families/Cubism/1.jpg",
        "output": "city 1__1.png",
    }
    assert one.row["id"] == "city 1__1"
    assert one.row["style"] == ["../families/Cubism/1.jpg"]


def test_families_bring_all_their_references_and_the_same_number_of_contents(data: Path) -> None:
    families = Families(data / "contents", data / "families", data / "t", images=4, seed=0)
    tasks = list(families.tasks(Memory()))
    assert len(tasks) == families.count() == 12
    assert Counter(task.row["style_family"] for task in tasks) == {
        "Cubism": 4, "Van Gogh": 4, "it's": 4,
    }  # fmt: skip
    drawn: dict[str, set[str]] = {}
    for task in tasks:
        ((manifest, run),) = task.run.items()
        family = task.row["style_family"]
        assert manifest == f"tasks/{family}.jsonl"
        assert task.row["output"] == f"{family}/{run['output']}"
        assert [Path(name).parent.name for name in task.row["style"]] == [family] * 3
        assert run["content"] == f"../{task.row['content']}"
        drawn.setdefault(family, set()).add(run["content"])
    assert len({frozenset(own) for own in drawn.values()}) > 1
    again = Families(data / "contents", data / "families", data / "t", images=4, seed=0)
    assert list(again.tasks(Memory())) == tasks
    other = Families(data / "contents", data / "families", data / "t", images=4, seed=1)
    assert list(other.tasks(Memory())) != tasks
    whole = Families(data / "contents", data / "families", data / "t", images=None, seed=1)
    assert whole.count() == 18


def test_the_script_survives_names_with_blanks_and_quotes(data: Path) -> None:
    families = Families(data / "contents", data / "families", data / "t", images=None, seed=0)
    script = families.script()
    assert script[1] == (
        """style gallery --refs "$here"/'../families/Van Gogh' --manifest """
        """"$here"/'tasks/Van Gogh.jsonl' -o "$out"/'Van Gogh' "$@\""""
    )
    assert "'it'\"'\"'s'" in script[2]


def test_what_is_no_family_or_no_name_is_refused(data: Path, tmp_path: Path) -> None:
    draw(data / "families" / "loose.png", 1)
    with pytest.raises(InputError, match=r"loose\.png is in no family"):
        Families(data / "contents", data / "families", data / "t", images=None, seed=0)
    (data / "empty").mkdir()
    with pytest.raises(InputError, match="holds no folder"):
        Families(data / "contents", data / "empty", data / "t", images=None, seed=0)
    with pytest.raises(InputError, match="no such folder"):
        Families(data / "contents", data / "gone", data / "t", images=None, seed=0)
    draw(data / "contents" / "more" / "city 1.jpg", 1)
    with pytest.raises(InputError, match="two pictures have one name"):
        Grid(data / "contents", data / "families" / "Cubism", data / "t")
