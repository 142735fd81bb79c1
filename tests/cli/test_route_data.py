"""`style route-data`: sets of icon scenes and of photographs, and what is refused at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stylecli.artifacts import glyphs
from stylecli.engine.route.data import items
from stylecli.tensors.filters import FILTERS
from tests.cli.conftest import finish, start
from tests.conftest import Outcome, Style
from tests.engine.route.data import families, photos
from tests.engine.route.data.test_building import files
from tests.engine.route.data.test_stylists import Negative

pytestmark = pytest.mark.slow

LOADED = {"dtype": "torch.float32"}
SMALL = ("--images", 3, "--val", 1, "--size", 48)


@pytest.fixture(scope="session")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.packages(tmp_path_factory.mktemp("icons"))


def test_icons_become_a_set_whose_truth_is_known(style: Style, icons: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    named = ("--style-name", "Pixel Art", "--style-name", "black and white")
    done = style("route-data", "--icons", icons, "-o", folder, *SMALL, *named, "--json")
    assert done.status == 0, done.err
    row, summary = done.rows
    assert (row["status"], row["samples"], row["splits"]) == ("done", 8, {"train": 6, "val": 2})
    assert summary["counts"] == {"done": 1, "items": 1}
    data = items.read(folder)
    assert [one.id for one in data.styles] == ["pixel_art", "fluent-emoji-high-contrast"]
    for sample in data.samples:
        (edit,) = sample.edits
        assert glyphs.content_is_held_out(edit.object.replace(" ", "-")) == (sample.split == "val")
        before, after = items.picture(sample.source), items.picture(sample.target)
        inside = items.mask_of(edit) == 1
        assert torch.equal(before[:, ~inside], after[:, ~inside])
        assert before.shape == (3, 48, 48)
        if sample.style_id == "pixel_art":
            truth = (FILTERS["pixel_art"](before) * 255).round() / 255
            assert torch.equal(after[:, inside], truth[:, inside])
        else:
            assert "in black and white style" in sample.prompt or "black and white" in sample.prompt
    assert (folder / "contact.png").is_file()
    about = json.loads((folder / items.MARK).read_text())
    assert {one["prefix"] for one in about["families"]} == {
        prefix for prefix, family in glyphs.FAMILIES.items() if not family.is_held_out
    }
    again = style("route-data", "--icons", icons, "-o", folder, *SMALL, *named, "--json")
    assert (again.status, again.rows[0]["status"]) == (0, "skipped")


def test_photographs_become_a_set_and_another_one_excludes_it(style: Style, tmp_path: Path) -> None:
    lists = photos.coco(tmp_path / "coco")
    common = ("--stylist", "filter", "--style-name", "line art", "--val", 0)
    train, test = tmp_path / "train", tmp_path / "test"
    done = style("route-data", lists, "-o", train, "--images", 2, *common)
    assert done.status == 0, done.err
    done = style("route-data", lists, "-o", test, "--images", 2, "--exclude", train, *common)
    assert done.status == 0, done.err
    assert "2 pictures left out in the set that is excluded" in done.err
    used, others = (
        {one.image_id for one in items.read(folder).samples} for folder in (train, test)
    )
    assert not used & others
    # Sources are the files themselves, to the byte.
    for sample in items.read(train).samples:
        original = tmp_path / "coco" / "train2017" / sample.source.name
        assert sample.source.read_bytes() == original.read_bytes()


def test_photographs_are_restyled_by_the_backbones_editor(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = Negative()
    opened: list[Any] = []

    def opening(recipe: Any, *_: object, **said: object) -> SimpleNamespace:
        opened.append((recipe.backbone.id, said["kinds"]))
        context = SimpleNamespace(dtype=torch.float32)
        return SimpleNamespace(editor=editor, fingerprint="f", context=context, precision=LOADED)

    monkeypatch.setattr("stylecli.engine.route.data.prepare.Session.open", opening)
    done = style("route-data", photos.voc(tmp_path / "voc"), "-o", tmp_path / "set", "--images", 2,
                 "--val", 1, "--style-name", "oil painting", "--style-name", "cyberpunk",
                 "--set", "route.apply.steps=7", "--set", "route.text_length=64")  # fmt: skip
    assert done.status == 0, done.err
    assert opened == [("pocket", ("edit-unet", "flux1-kontext"))]
    data = items.read(tmp_path / "set")
    assert [(one.id, one.phrase) for one in data.styles] == [
        ("oil_painting", "oil painting"), ("cyberpunk", "cyberpunk"),
    ]  # fmt: skip
    assert ["make the image into oil painting style"] in editor.asked
    assert {one[1]["steps"] for one in editor.asked if isinstance(one, tuple)} == {7}
    about = json.loads((tmp_path / "set" / items.MARK).read_text())
    facts = about["created_with"]["facts"]["styles"][0][2]
    loaded = {"model": "f", "text_length": 64, **LOADED}
    assert loaded.items() <= facts.items()


def test_too_little_memory_for_the_editor_has_a_status_of_its_own(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(Negative):
        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    opened = SimpleNamespace(
        editor=Large(),
        fingerprint="f",
        context=SimpleNamespace(dtype=torch.float32),
        precision=LOADED,
    )
    monkeypatch.setattr("stylecli.engine.route.data.prepare.Session.open", lambda *_, **__: opened)
    done = style("route-data", photos.voc(tmp_path / "voc"), "-o", tmp_path / "set", "--images", 2,
                 "--val", 1)  # fmt: skip
    assert done.status == 6, done.err
    assert "out of memory" in done.err
    assert not (tmp_path / "set" / items.MARK).exists()


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(
    style: Style, icons: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    done = style("route-data", "--icons", icons, "-o", folder, *SMALL, "--dry-run")
    assert done.status == 0, done.err
    assert done.out == f"16 samples of 4 pictures into {folder}, nothing made\n"
    assert not folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give either --icons or lists"),
        (("--icons", "{icons}", "{coco}"), "give either --icons or lists"),
        (("{coco}", "--size", 64), "--size is for --icons"),
        (("{coco}", "--stylist", "drawing"), "--stylist drawing is for --icons"),
        (("--icons", "{icons}", "--pictures", "."), "--pictures is for photographs"),
        (("--icons", "{icons}", "--exclude", "."), "--exclude is for photographs"),
        (("--icons", "{icons}", "--set", "route.data.min_side_px=9"), "min_side_px is for photo"),
        (("--icons", "{icons}", "--device", "cpu"), "--device or --dtype is for an editor"),
        (("--icons", "{icons}", "--tries", 2), "--tries is for an editor"),
        (("--icons", "{icons}", "--allow-download"), "--allow-download is for an editor"),
        (("--icons", "{icons}", "--style-name", "pixle art"), "did you mean pixel art?"),
        (("--icons", "{icons}", "--style-name", "thick outline"), "nobody here draws"),
        (("{coco}", "--stylist", "filter", "--style-name", "oil"), "nobody here draws"),
        (("--icons", "{icons}", "--stylist", "filter", "--style-name", "bold flat"), "no rule for"),
        (("--icons", "{icons}", "--stylist", "drawing"), "pixel art is none"),
        (("{coco}", "--stylist", "filter"), "4 photographs will do, and 160 are asked for"),
        (("{voc}", "--pictures", ".", "--stylist", "filter"), "pairs name their own"),
        (("{coco}", "--pictures", "nowhere", "--stylist", "filter"), "nowhere: no such folder"),
        (("{coco}", "--exclude", ".", "--stylist", "filter"), "no finished set"),
        (("nothing/*.json", "--stylist", "filter"), "nothing/*.json: matches nothing"),
        (("--icons", "nowhere"), "no icon family at nowhere"),
        (("{coco}", "--images", 2, "--val", 1, "--backbone", "sd15"), "sd15"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    words: tuple[object, ...], said: str, style: Style, icons: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {"{icons}": icons, "{coco}": "", "{voc}": ""}
    if "{coco}" in words:
        places["{coco}"] = photos.coco(tmp_path / "coco")
    if "{voc}" in words:
        places["{voc}"] = photos.voc(tmp_path / "voc")
    done = style("route-data", *(places.get(str(word), word) for word in words), "-o", "set")
    assert done.status == 2, done.err
    assert said in done.err
    assert not Path("set").exists()


def test_names_come_from_globs_and_from_standard_input(
    style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = photos.grounded(tmp_path / "a")
    monkeypatch.setattr("sys.stdin.read", lambda: f"{lists}\n", raising=False)
    few = ("--images", 2, "--val", 1, "--stylist", "filter", "--dry-run")
    for source in (tmp_path / "*" / "*.jsonl", "-"):
        done = style("route-data", source, "-o", tmp_path / "set", *few)
        assert done.status == 0, done.err


def test_a_damaged_picture_is_told_and_mended_by_the_same_command(
    style: Style, tmp_path: Path
) -> None:
    folder = photos.big(tmp_path / "big")
    picture = next(folder.rglob("dog*_im.jpg"))
    whole = picture.read_bytes()
    # Its header is all there.
    picture.write_bytes(whole[: len(whole) // 2])
    words = ("route-data", folder, "-o", tmp_path / "set", "--images", 3, "--val", 1,
             "--stylist", "filter", "--style-name", "line-art", "--json")  # fmt: skip
    done = style(*words)
    assert done.status == 3, done.err
    assert [row["status"] for row in done.rows[:-1]] == ["failed", "done"]
    assert done.rows[0]["key"].startswith("line_art/dog")
    picture.write_bytes(whole)
    again = style(*words)
    assert (again.status, again.rows[0]["status"]) == (0, "done"), again.err
    assert len(items.read(tmp_path / "set").samples) == 4


def test_what_was_made_of_a_picture_that_was_exchanged_is_made_again(
    style: Style, tmp_path: Path
) -> None:
    folder = photos.big(tmp_path / "big")
    words = ("route-data", folder, "-o", tmp_path / "set", "--images", 3, "--val", 1,
             "--stylist", "filter", "--style-name", "line-art", "--json")  # fmt: skip
    assert style(*words).status == 0
    before = {one.id: dict(one.sha256) for one in items.read(tmp_path / "set").samples}
    assert style(*words).rows[0]["status"] == "skipped"
    picture = next(folder.rglob("dog*_im.jpg"))
    photos.photograph(picture, 77)
    again = style(*words)
    assert again.status == 0, again.err
    after = {one.id: dict(one.sha256) for one in items.read(tmp_path / "set").samples}
    changed = [id_ for id_ in before if before[id_] != after[id_]]
    assert len(changed) == 1
    assert "dog" in changed[0]
    assert before[changed[0]]["mask"] == after[changed[0]]["mask"]


@pytest.mark.skipif(os.name != "posix", reason="kills")
def test_a_set_that_was_killed_is_completed_to_the_same_bytes(
    style: Style, icons: Path, tmp_path: Path
) -> None:
    words = ("route-data", "--icons", icons, *SMALL)
    process = start(*words, "-o", tmp_path / "killed")
    listed = tmp_path / "killed" / items.NAME
    while process.poll() is None and not (listed.is_file() and listed.stat().st_size > 2000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    done: Outcome = finish(process)
    assert done.status in (-signal.SIGKILL, 0)
    for folder in ("killed", "whole"):
        assert style(*words, "-o", tmp_path / folder).status == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
