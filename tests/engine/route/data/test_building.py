"""A set is whole after any interruption, the same as one that was never interrupted."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stylecli.artifacts import journal, store
from stylecli.artifacts.locks import WriteLock
from stylecli.engine.route.data import items
from stylecli.engine.route.data.building import PLAN, SHEET
from stylecli.engine.route.data.making import Subject, View
from stylecli.errors import DiskFullError, InputError, LockedError, OutputDiffersError
from stylecli.recipe.route import Data
from tests.engine.route.data.sets import WORDS, Negative, Noise, build, made


def files(folder: Path) -> dict[str, bytes]:
    """All of a set but what tells of runs."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "runs.jsonl" and file.suffix != ".lock"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "set"
    assert made(folder).status == "done"
    return files(folder)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("count", range(2 * len(WORDS)))
def test_a_build_that_was_stopped_ends_in_the_same_bytes(
    count: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    hand = Negative(stop_at=count)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, hand=hand)
    assert not (tmp_path / items.MARK).exists()
    if count:
        with (tmp_path / items.NAME).open("ab") as stream:
            stream.write(b'{"id": "half a li')
    again = Negative()
    assert made(tmp_path, hand=again).status == "done"
    assert len(hand.made) + len(again.made) == 2 * len(WORDS)
    assert files(tmp_path) == whole
    told = journal.latest(tmp_path)
    assert {row["status"] for row in told.values()} == {"done"}
    assert len(told) == 2 * len(WORDS)


def test_a_set_that_is_there_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path)
    before = files(tmp_path)
    hand = Negative()
    done = made(tmp_path, hand=hand)
    assert (done.status, hand.made) == ("skipped", [])
    assert done.about["samples"] == 2 * len(WORDS)
    assert files(tmp_path) == before


@pytest.mark.mostly_slow
@pytest.mark.parametrize("is_cut", [False, True], ids=["gone", "cut"])
@pytest.mark.parametrize("part", ["images", "masks", "targets"])
def test_what_is_gone_or_changed_is_made_again_and_nothing_else(
    part: str, is_cut: bool, whole: dict[str, bytes], tmp_path: Path
) -> None:
    made(tmp_path)
    file = next(file for file in sorted((tmp_path / part).rglob("*.png")))
    if is_cut:
        file.write_bytes(file.read_bytes()[:-20])
    else:
        file.unlink()
    # Nor is it a set while a run that was killed has left it so.
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, hand=Negative(stop_at=0))
    assert not (tmp_path / items.MARK).exists()
    hand = Negative()
    assert made(tmp_path, hand=hand).status == "done"
    assert len(hand.made) == (1 if part == "targets" else 2)
    assert files(tmp_path) == whole


@pytest.mark.mostly_slow
@pytest.mark.parametrize("change", [{"source": "/a.png"}, {"edits": 5}, {"prompt": "other"}])
def test_a_line_that_is_no_sample_is_made_again(
    change: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    made(tmp_path)
    first, *others = (tmp_path / items.NAME).read_text().splitlines()
    first = json.dumps(json.loads(first) | change)
    (tmp_path / items.NAME).write_text("\n".join([first, *others]) + "\n")
    hand = Negative()
    assert made(tmp_path, hand=hand).status == "done"
    assert len(hand.made) == 1
    assert files(tmp_path) == whole


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **said: Any) -> Any:
        if (self.name, mode) == (items.NAME, "ab"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *args, **said)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DiskFullError, match=r"samples\.jsonl cannot be written"):
            made(tmp_path)
    assert made(tmp_path).status == "done"
    assert files(tmp_path) == whole


class Damaged(Noise):
    """One mask cannot be read since it was chosen, and another one is empty."""

    def view(self, subject: Subject) -> View:
        seen = super().view(subject)
        if subject.image_id == "p1":
            raise InputError("annotation 5: `segmentation` is damaged", fix="mend it")
        nothing = torch.zeros_like(seen.mask)
        return replace(seen, mask=nothing) if subject.image_id == "p2" else seen


def test_a_mask_that_was_damaged_since_it_was_chosen_costs_no_other_picture(tmp_path: Path) -> None:
    done = made(tmp_path, Damaged())
    assert [one.key.split("/")[1] for one in done.failed] == ["p1", "p1", "p2", "p2"]
    assert "annotation 5" in done.failed[0].error["what"]
    assert "nothing of the object is seen" in done.failed[2].error["what"]
    assert {one.image_id for one in items.read(tmp_path).samples} == {"p0"}


def test_pictures_that_fail_are_told_and_tried_again(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    done = made(tmp_path, Noise(broken=["p1"]))
    assert [one.key for one in done.failed] == [
        "pixel_art/p1/dining-table", "line_art/p1/dining-table",
    ]  # fmt: skip
    assert done.failed[0].error["what"] == "p1: damaged"
    assert done.about["failed"] == 2
    # What could be made is a set, and its excluded pictures are all that were chosen.
    assert len(items.read(tmp_path).samples) == 4
    assert items.excluded(tmp_path)["train"] == ("p1", "p2")
    assert (tmp_path / PLAN).exists()
    hand = Negative()
    assert made(tmp_path, hand=hand).status == "done"
    assert hand.made == ["pixel_art/p1", "line_art/p1"]
    assert files(tmp_path) == whole


def test_where_nothing_can_be_made_there_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample could be made: p0: damaged"):
        made(tmp_path, Noise(broken=["p0", "p1", "p2"]))
    assert not (tmp_path / items.MARK).exists()


def test_another_set_gives_way_only_when_told_to(tmp_path: Path, whole: dict[str, bytes]) -> None:
    made(tmp_path, Noise(["cat", "dog"]))
    with pytest.raises(OutputDiffersError, match="made from something else"):
        made(tmp_path)
    assert made(tmp_path, overwrite=True).status == "done"
    assert files(tmp_path) == whole


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "name",
    [
        "images/mine.png",
        "runs.jsonl",
        "samples.jsonl",
        "dataset.json",
        "excluded_ids.json",
        "contact.png",
    ],
)
def test_files_of_others_stay_whatever_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputDiffersError, match="no set of ours"):
        made(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"


def test_every_setting_that_changes_a_set_makes_another(tmp_path: Path) -> None:
    keys = {
        build(tmp_path, data=data).claim.key
        for data in (
            Data(),
            Data(templates="canonical"),
            Data(include_style_word=True),
            Data(feather_px=1.0),
        )
    }
    assert len(keys) == 4
    assert build(tmp_path, data=Data(cache=False)).claim.key in keys


def test_a_second_run_is_refused_while_one_writes(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path)
    lock.take(wait=False)
    try:
        with pytest.raises(LockedError):
            made(tmp_path)
    finally:
        lock.release()
    assert made(tmp_path).status == "done"


def test_a_picture_is_brought_in_once_for_all_its_styles(tmp_path: Path) -> None:
    source = Noise()
    made(tmp_path, source)
    assert source.seen == ["p0", "p1", "p2"]
    assert len(list((tmp_path / "images").iterdir())) == 3
    assert len(list((tmp_path / "masks").iterdir())) == 3


def test_the_sheet_says_what_made_it_and_nothing_says_where(tmp_path: Path) -> None:
    made(tmp_path)
    about = json.loads((tmp_path / items.MARK).read_text())
    said = store.read_provenance(tmp_path / SHEET)
    assert said == {"command": "route-data", "version": about["created_with"]["version"],
                    "key": about["key"]}  # fmt: skip
    texts = [content for name, content in files(tmp_path).items() if name.endswith(".json")]
    assert not [text for text in texts if str(tmp_path).encode() in text]
