"""`style route-apply` as it is typed: what it writes, refuses, and survives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylecli.artifacts.store import read_provenance
from tests.cli.conftest import draw, finish, start
from tests.cli.test_processes import pictures, wait_for
from tests.conftest import Outcome, Style
from tests.engine.route.applying import desk as small_world

pytestmark = pytest.mark.slow

FEW = ("--set", "route.apply.size=32", "--steps", "2", "--device", "cpu")
CAT = "make the cat pixel-art style"


class Desk:
    """A photograph, a folder of experts, and somewhere to write to."""

    def __init__(self, style: Style, folder: Path) -> None:
        self.style = style
        self.folder = folder
        self.content = draw(folder / "photo.png", seed=1)
        small_world.make_experts(folder / "experts")
        self.settings = ("--backbone", small_world.folder(), *FEW)

    def apply(self, out: str, *more: object, content: object = None) -> Outcome:
        place = f"{self.folder / out}{'/' if out.endswith('/') else ''}"
        words = () if "--experts" in more else ("--experts", self.folder / "experts")
        return self.style(
            "route-apply", content or self.content, *words, "-o", place, *self.settings, *more
        )


@pytest.fixture
def desk(style: Style, tmp_path: Path) -> Desk:
    return Desk(style, tmp_path)


def test_a_picture_says_what_made_it_and_is_not_made_twice(desk: Desk) -> None:
    done = desk.apply("out.png", "--instruction", CAT, "--explain", "--json")
    assert done.status == 0, done.err
    assert "make the cat in pixel-art style, keep other area unchanged" in done.err
    assert done.summary["counts"] == {"done": 1, "items": 1}
    row = done.rows[0]
    assert row["details"]["model_size"] == [32, 32]
    assert row["details"]["edits"][0]["experts"] == {"pixel_art": 1.0}
    # As large as the photograph.
    assert Image.open(desk.folder / "out.png").size == (48, 40)
    assert Image.open(desk.folder / "out.attention.png").size[0] > 4 * 32
    with np.load(desk.folder / "out.attention.npz") as arrays:
        assert arrays["maps"].shape[:2] == (1, 2)
    for name in ("out.png", "out.attention.png", "out.attention.npz"):
        made_by = read_provenance(desk.folder / name)
        assert made_by is not None
        assert [item["role"] for item in made_by["inputs"]] == ["content", "lora"]
        assert made_by["edits"][0]["object"] == "cat"
    again = desk.apply("out.png", "--instruction", CAT, "--explain", "--json")
    assert again.summary["counts"] == {"items": 1, "skipped": 1}
    changed = desk.apply("out.png", "--instruction", "make the cat line-art style", "--json")
    assert (changed.status, changed.rows[0]["error"]["code"]) == (3, "output_differs")


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ((), 2, "nothing says what to do"),
        (("--instruction", "make the cat in mosaic style"), 2, "pixel-art"),
        (("--instruction", "pixel art"), 2, "nothing to give it to"),
        (("--instruction", ""), 2, "empty"),
        (("--instruction", CAT, "--object", "cat"), 2, "--instruction says object and style"),
        (("--object", "cat"), 2, "0 --style-name"),
        (("--object", "cat", "--style-name", "mosaic"), 2, "mosaic"),
        (("--object", "cat", "--style-name", "the cat pixel-art"), 2, "more than one"),
        (("--instruction", CAT, "--soft-route"), 2, "--soft-route"),
        (("--instruction", CAT, "--experts", "nowhere"), 2, "style route-train"),
        (("--instruction", CAT, "--experts", "photo.png"), 2, "is a file"),
        (("--instruction", CAT, "--profile", "loud"), 2, "one of sound, paper, reference"),
        (("--instruction", CAT, "--set", "route.loss.layers=nope"), 2, "nope"),
        (("--instruction", "make the " + "cat " * 40 + "pixel-art"), 2, "fewer words"),
        (("--instruction", CAT, "--backbone", "sd15"), 2, "flux1-kontext"),
    ],
)
def test_what_cannot_be_done_is_refused_in_two_lines(
    desk: Desk, more: tuple[str, ...], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk.folder)
    explain = ("--explain",) if "route.loss.layers=nope" in more else ()
    done = desk.apply("out.png", "-q", *more, *explain)
    assert done.status == status, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 2
    assert not (desk.folder / "out.png").exists()


def test_pictures_that_cannot_be_read_fail_alone(desk: Desk) -> None:
    draw(desk.folder / "in" / "a.png", seed=3)
    (desk.folder / "in" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    draw(desk.folder / "in" / "deep" / "c.png", seed=4, size=(20, 200))
    done = desk.apply(
        "out/", "-i", CAT, "--json", "--name", "{folder}/{content}.webp", content=desk.folder / "in"
    )
    assert done.status == 3, done.err
    assert done.summary["counts"] == {"done": 2, "failed": 1, "items": 3}
    assert Image.open(desk.folder / "out" / "deep" / "c.webp").size == (20, 200)
    rows = [json.loads(line) for line in (desk.folder / "out/runs.jsonl").read_text().splitlines()]
    assert {row["status"] for row in rows if "status" in row} == {"done", "failed"}


def test_a_dry_run_shows_the_plan_and_writes_nothing(desk: Desk) -> None:
    before = sorted(desk.folder.rglob("*"))
    done = desk.apply("out/", "--dry-run", "--object", "cat", "--style-name", "Pixel Art style")
    assert done.status == 0, done.err
    assert "photo__pixel_art.png" in done.out
    assert sorted(desk.folder.rglob("*")) == before


def test_a_made_picture_is_made_again_from_what_it_says(desk: Desk) -> None:
    both = "make the cat pixel-art and the dog line-art"
    done = desk.apply("out.jpg", "-i", both, "--explain", "--protect-background", "--seed", "5")
    assert done.status == 0, done.err
    shown = desk.style("show", desk.folder / "out.jpg")
    assert "line_art" in shown.out
    again = desk.style(
        "rerun", desk.folder / "out.jpg", "--inputs", desk.folder, "--backbone",
        small_world.folder(),
    )  # fmt: skip
    assert again.status == 0, again.err


def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path) -> None:
    small_world.make_experts(tmp_path / "experts")
    for seed in range(3):
        draw(tmp_path / "in" / f"{seed}.png", seed=seed)

    def command(out: str) -> tuple[object, ...]:
        return ("route-apply", tmp_path / "in", "--experts", tmp_path / "experts", "-i", CAT,
                "--backbone", small_world.folder(), *FEW, "--set", "route.apply.steps=20",
                "-o", f"{tmp_path}/{out}/", "--json")  # fmt: skip

    whole = finish(start(*command("whole")))
    assert whole.status == 0, whole.err
    process = start(*command("cut"))
    wait_for(lambda: bool(pictures(tmp_path / "cut")), process)
    process.kill()
    assert finish(process).status < 0
    again = finish(start(*command("cut")))
    assert again.status == 0, again.err
    counts = again.summary["counts"]
    assert counts["items"] == 3
    assert counts.get("skipped", 0) >= 1
    assert pictures(tmp_path / "cut") == pictures(tmp_path / "whole")
