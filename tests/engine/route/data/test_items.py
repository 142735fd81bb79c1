"""Sets on disk: what is read back is what was written, and every fault is told with its line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylecli.engine.route.data import items
from stylecli.errors import InputError
from tests.engine.route.data.sets import WORDS, made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "set"
    made(folder)
    return folder


@pytest.fixture
def own(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "set"))


def change(folder: Path, line: int, how: Callable[[dict[str, Any]], object]) -> None:
    lines = (folder / items.NAME).read_text().splitlines()
    row = json.loads(lines[line])
    how(row)
    lines[line] = json.dumps(row)
    (folder / items.NAME).write_text("\n".join(lines) + "\n")


def test_a_set_is_read_as_it_was_made(whole: Path) -> None:
    data = items.read(whole)
    assert [style.id for style in data.styles] == ["pixel_art", "line_art"]
    assert data.styles[0].aliases
    assert len(data.samples) == 2 * len(WORDS)
    assert {one.image_id for one in data.split("val")} == set(data.excluded["val"]) == {"p0"}
    assert {one.image_id for one in data.split("train")} == set(data.excluded["train"])
    for sample in data.samples:
        (edit,) = sample.edits
        assert sample.prompt[slice(*edit.object_span)] == edit.object
        phrase = next(style.phrase for style in data.styles if style.id == edit.style_id)
        assert sample.prompt[slice(*edit.style_span)] == phrase
        before, after = items.picture(sample.source), items.picture(sample.target)
        mask = items.mask_of(edit)
        assert before.shape[1:] == after.shape[1:] == mask.shape == sample.size
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert edit.area == pytest.approx(float(mask.mean()), abs=1e-6)
        left, top, right, bottom = edit.bbox
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert torch.equal(before[:, mask == 0], after[:, mask == 0])
        with Image.open(edit.mask) as image:
            assert image.mode == "1"


def test_equal_sets_have_equal_digests_and_others_do_not(whole: Path, own: Path) -> None:
    assert items.read(own).digest == items.read(whole).digest
    change(own, 0, lambda row: row.update(seed=8))
    assert items.read(own).digest != items.read(whole).digest


def test_a_feature_of_another_kind_is_nobodys_fault(own: Path) -> None:
    """Lines may say more than is read here."""
    change(own, 0, lambda row: row.update(quality={"clip": 0.3}, note="mine"))
    assert items.read(own)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda row: row.pop("prompt"), "`prompt` is missing"),
        (lambda row: row.update(id=7), "`id` is 7"),
        (lambda row: row.update(split="test"), "`split` is 'test'"),
        (lambda row: row.update(size=[4]), "`size` is"),
        (lambda row: row.update(size=[True, 4]), "`size` is"),
        (lambda row: row.update(style_id="cubism"), "`style_id` is 'cubism'"),
        (lambda row: row.update(seed=-1), "`seed` is -1"),
        (lambda row: row.update(edits=[]), "`edits` is"),
        (lambda row: row["sha256"].update(mask="ab"), "`sha256` is"),
        (lambda row: row["edits"][0].update(area=0), "`area` is 0"),
        (lambda row: row["edits"][0].update(bbox=[0, 0, 900, 9]), "`bbox` is"),
        (lambda row: row["edits"][0].update(object_span=[0, 3]), "`object_span` is on"),
        (lambda row: row["edits"][0].update(style_span=[0, 3]), "`style_span` is on"),
        (lambda row: row["edits"][0].update(style_span=[0, 900]), "`style_span` is"),
        (lambda row: row["edits"][0].pop("mask"), "`mask` is missing"),
        (lambda row: row.update(source="/a.png"), "`source` is '/a.png', outside of the set"),
        (lambda row: row.update(target="../a.png"), "`target` is '../a.png', outside of the set"),
        (lambda row: row["edits"][0].update(mask="masks/../../a.png"), "outside of the set"),
    ],
)
def test_a_line_that_is_no_sample_is_refused_with_its_number(
    how: Callable[[dict[str, Any]], object], said: str, own: Path
) -> None:
    change(own, 1, how)
    with pytest.raises(InputError, match=r"samples\.jsonl:2") as caught:
        items.read(own)
    assert said in caught.value.what
    assert caught.value.fix


def test_lines_that_are_no_json_and_ids_that_occur_twice_are_refused(own: Path) -> None:
    lines = (own / items.NAME).read_text().splitlines()
    (own / items.NAME).write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(InputError, match=r"samples.jsonl:7: id .* occurs twice"):
        items.read(own)
    (own / items.NAME).write_text("\n".join([*lines, "{"]))
    with pytest.raises(InputError, match=r"samples\.jsonl:7: is not JSON"):
        items.read(own)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("part", ["images", "masks", "targets"])
def test_a_file_that_is_gone_is_named_with_its_sample(part: str, own: Path) -> None:
    next(file for file in sorted((own / part).rglob("*.png"))).unlink()
    with pytest.raises(InputError, match=f"sample '.*' names {part}/.*, which is not there"):
        items.read(own)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", [items.NAME, items.MARK, items.EXCLUDED])
def test_a_set_without_one_of_its_lists_is_not_finished(name: str, own: Path) -> None:
    (own / name).unlink()
    with pytest.raises(InputError, match="no finished set") as caught:
        items.read(own)
    assert "style route-data" in caught.value.fix


def test_sets_of_other_versions_are_refused(own: Path) -> None:
    about = json.loads((own / items.MARK).read_text())
    (own / items.MARK).write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(InputError, match="`format` is 2"):
        items.read(own)
    (own / items.MARK).write_text(json.dumps(about | {"styles": []}))
    with pytest.raises(InputError, match="names none"):
        items.read(own)


def test_masks_of_more_bits_part_at_a_half(own: Path) -> None:
    edit = items.read(own).samples[0].edits[0]
    grey = np.array([[0, 100, 127, 128, 255]], dtype=np.uint8)
    Image.fromarray(grey).save(edit.mask)
    assert items.mask_of(edit).tolist() == [[0, 0, 0, 1, 1]]
