"""Galleries are made again from what any of their files says, wherever the inputs lie."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from stylecli.engine.again.origins import Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.again.rerun import locator_for, rerun
from tests import small
from tests.engine.gallery.desk import Desk, painted, recipe

pytestmark = pytest.mark.slow


def test_all_files_of_a_gallery_come_out_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masks of content and references of one name, a report, and an accelerator."""
    desk = Desk(tmp_path / "home of somebody")
    shutil.copy(desk.contents[0], desk.folder / "refs/photo0.png")
    painted(desk.folder / "masks/photo0.png", ["red", "blue", "black"])
    painted(desk.folder / "ref-masks/look1.png", ["lime", "black"], (40, 48))
    painted(desk.folder / "ref-masks/look2.png", ["black", "lime"], (60, 40))
    pairs = small.lora(small.base_unet(), size=0.5)
    accelerator = desk.folder / "fast.safetensors"
    save_file({f"unet.{name}": value for name, value in pairs.items()}, accelerator)
    wishes = desk.folder / "wishes.json"
    wishes.write_text(json.dumps([{"content": 1, "style": "ref2", "regions": [1]}]))
    settings = recipe(
        gallery__mask=str(desk.folder / "masks/{content}.png"),
        gallery__ref_masks=str(desk.folder / "ref-masks/{style}.png"),
        gallery__match=[str(wishes), "red=keep"],
        gallery__accelerator=str(accelerator),
        sampling__seed=3,
    )
    desk.make("out.png", settings=settings, explain=True, dump=True)
    attic = tmp_path / "attic"
    attic.mkdir()
    for name in ("refs", "masks", "ref-masks", "fast.safetensors", "wishes.json", "photo0.png"):
        shutil.move(desk.folder / name, attic / name)
    monkeypatch.setenv("STYLE_CACHE_DIR", str(tmp_path / "another cache"))
    machine = Machine(backbone=str(small.folder()))
    for name in ("out.png", "out.regions.png", "out.regions.json", "out.safetensors"):
        file = desk.folder / name
        found = rerun(file, Origins(), locator_for([file], [attic]), machine, desk.listener)
        assert not found.differences, (name, found.differences)
    # What a report says of time is no difference, and all else is.
    report = desk.folder / "out.regions.json"
    changed = json.loads(report.read_bytes())
    changed["matches"][0]["score"] += 1
    report.write_text(json.dumps(changed, sort_keys=True) + "\n")
    found = rerun(report, Origins(), locator_for([report], [attic]), machine, desk.listener)
    assert [difference.what for difference in found.differences] == ["matches"]


def test_masks_may_be_told_apart_by_their_folders(tmp_path: Path) -> None:
    """As annotation tools write them; a reference without one comes first."""
    desk = Desk(tmp_path)
    painted(desk.folder / "masks/photo0_json/label.png", ["red", "black"])
    painted(desk.folder / "masks/look1_json/label.png", ["lime", "black"], (40, 48))
    painted(desk.folder / "masks/look2_json/label.png", ["black", "lime"], (60, 40))
    settings = recipe(
        gallery__mask=str(desk.folder / "masks/{content}_json/label.png"),
        gallery__ref_masks=str(desk.folder / "masks/{style}_json/label.png"),
    )
    desk.make("out.png", settings=settings, explain=True)
    machine = Machine(backbone=str(small.folder()))
    for name in ("out.png", "out.regions.json"):
        file = desk.folder / name
        found = rerun(file, Origins(), locator_for([file], []), machine, desk.listener)
        assert not found.differences, (name, found.differences)
