"""`style gallery` as it is typed: what it writes, refuses, and survives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from stylecli.artifacts.store import read_provenance
from tests.cli.conftest import draw, finish, start
from tests.cli.test_processes import pictures, wait_for
from tests.conftest import Outcome, Style

pytestmark = pytest.mark.slow

# Four updates, and regions of a picture of a few cells.
FEW = ("--set", "gallery.steps=4", "--set", "dfcc.steps=3", "--set", "dfcc.min_cells=0",
       "--set", "dfcc.depth=none", "--set", "matching.semantics=features")  # fmt: skip


class Desk:
    """A photograph, a folder of two references, and somewhere to write to."""

    def __init__(self, style: Style, recipe: Path, folder: Path) -> None:
        self.style = style
        self.folder = folder
        self.content = draw(folder / "photo.png", seed=1)
        self.refs = folder / "paintings"
        draw(self.refs / "a.png", seed=2, size=(70, 66))
        draw(self.refs / "b.png", seed=3, size=(120, 60))
        self.settings = ("-r", recipe, *FEW)

    def gallery(self, out: str, *more: object) -> Outcome:
        place = f"{self.folder / out}{'/' if out.endswith('/') else ''}"
        return self.style(
            "gallery", self.content, "--refs", self.refs, "-o", place, *self.settings, *more
        )


@pytest.fixture
def desk(style: Style, recipe: Path, tmp_path: Path) -> Desk:
    return Desk(style, recipe, tmp_path)


def test_a_picture_says_what_made_it_and_is_not_made_twice(desk: Desk) -> None:
    done = desk.gallery("out.png", "--explain", "--json")
    assert done.status == 0, done.err
    assert done.summary["counts"] == {"done": 1, "items": 1}
    assert Image.open(desk.folder / "out.png").size == (38, 32)
    report = json.loads((desk.folder / "out.regions.json").read_text())
    assert {match["content"] for match in report["matches"]} == {
        region["id"] for region in report["content"]["regions"]
    }
    assert Image.open(desk.folder / "out.regions.png").size[0] > 2 * 38
    made_by = read_provenance(desk.folder / "out.png")
    assert made_by is not None
    assert [item["role"] for item in made_by["inputs"]] == ["content", "style", "style"]
    assert desk.gallery("out.png", "--explain", "--json").summary["counts"] == {
        "items": 1,
        "skipped": 1,
    }
    changed = desk.gallery("out.png", "--json", "--set", "gallery.content_weight=0.1")
    assert (changed.status, changed.rows[0]["error"]["code"]) == (3, "output_differs")


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (("--match", "sky"), 2, "sky"),
        (("--match", "1=ref9:1"), 2, "ref9"),
        (("--strength", "1=much"), 2, "much"),
        (("--exclude", "ref9"), 2, "ref9"),
        (("--profile", "loud"), 2, "one of sound, paper, reference"),
        (("--refresh", "0"), 2, "gallery.refresh"),
        (("--mask", "nowhere.png"), 2, "nowhere.png"),
        (("--set", "dfcc.depth=/nowhere"), 4, "/nowhere"),
        (("--set", "gallery.preset=lcm"), 2, "gallery.accelerator"),
        (("--set", "gallery.layers=[99]"), 2, "gallery.layers: layer 99 does not exist"),
        (("--dump", "t.npz"), 2, "t.npz"),
    ],
)
def test_what_cannot_be_done_is_refused_in_two_lines(
    desk: Desk, more: tuple[str, ...], status: int, said: str
) -> None:
    done = desk.gallery("out.png", "-q", *more)
    assert done.status == status, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (desk.folder / "out.png").exists()


def test_references_have_to_be_pictures(desk: Desk, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    for refs in (empty, tmp_path / "none.png", tmp_path / "no*.png", broken):
        done = desk.style(
            "gallery", desk.content, "--refs", refs, "-o", desk.folder / "x.png", *desk.settings
        )
        assert done.status in (2, 3), (refs, done.err)
        assert refs.name in done.err
        assert "Traceback" not in done.err


def test_a_dry_run_shows_the_plan_and_writes_nothing(desk: Desk) -> None:
    before = sorted(desk.folder.rglob("*"))
    done = desk.gallery("out/", "--dry-run")
    assert done.status == 0, done.err
    assert "gallery" in done.out
    assert sorted(desk.folder.rglob("*")) == before


def test_a_killed_run_is_finished_by_the_same_command(recipe: Path, tmp_path: Path) -> None:
    for seed in range(3):
        draw(tmp_path / "in" / f"{seed}.png", seed=seed)
    draw(tmp_path / "refs" / "a.png", seed=9, size=(64, 64))

    def command(out: str) -> tuple[object, ...]:
        return ("gallery", tmp_path / "in", "--refs", tmp_path / "refs", "-o", f"{tmp_path}/{out}/",
                "-r", recipe, *FEW, "--explain", "--json")  # fmt: skip

    whole = finish(start(*command("whole")))
    assert whole.status == 0, whole.err
    process = start(*command("cut"))
    wait_for(lambda: any(".regions" not in name for name in pictures(tmp_path / "cut")), process)
    process.kill()
    assert finish(process).status < 0
    again = finish(start(*command("cut")))
    assert again.status == 0, again.err
    counts = again.summary["counts"]
    assert counts["items"] == 3
    assert counts.get("skipped", 0) >= 1
    assert pictures(tmp_path / "cut") == pictures(tmp_path / "whole")
