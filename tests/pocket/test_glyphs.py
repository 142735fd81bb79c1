"""The icon world: the frozen split, and drawings turned into pictures with masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stylecli.artifacts import glyphs
from stylecli.errors import InputError

SQUARE = '<path fill="#ff0000" d="M4 4h8v8h-8z"/>'


@pytest.mark.parametrize(
    ("name", "is_held_out"),
    [
        ("airplane", False),
        ("red-heart", False),
        ("cat", True),
        ("cat-face", True),
        ("grinning-face", True),
        ("pizza", False),
        ("dna", True),
        ("mask", False),
    ],
)
def test_the_split_never_moves(name: str, is_held_out: bool):
    assert glyphs.content_is_held_out(name) is is_held_out


def test_siblings_are_on_the_same_side():
    for first in ("airplane", "cat", "moon", "woman", "red"):
        assert glyphs.content_is_held_out(first) == glyphs.content_is_held_out(f"{first}-of-sorts")


def test_the_shipped_split_is_the_rule_in_the_code():
    shipped = Path(glyphs.__file__).parents[1] / "assets" / "pocket" / "split.json"
    assert json.loads(shipped.read_text(encoding="utf-8")) == glyphs.split_record()


def test_an_icon_becomes_premultiplied_colour_and_a_mask(tmp_path: Path):
    (icon,) = glyphs.read_icons(_package(tmp_path, {"fire": {"body": SQUARE}}), _only("noto"))
    picture = glyphs.render(icon.svg, px=32)
    assert picture.shape == (32, 32, 4)
    assert picture[16, 16].tolist() == [255, 0, 0, 255]
    assert picture[2, 2].tolist() == [0, 0, 0, 0]
    assert (picture[..., :3] <= picture[..., 3:]).all()


def test_hidden_icons_flags_and_skin_tones_are_dropped(tmp_path: Path):
    icons = {
        "hand": {"body": SQUARE},
        "hand-dark": {"body": SQUARE},
        "hand-medium-light-skin-tone": {"body": SQUARE},
        "flag-austria": {"body": SQUARE},
        "old": {"body": SQUARE, "hidden": True},
        "moon-dark": {"body": SQUARE},
    }
    found = glyphs.read_icons(_package(tmp_path, icons), _only("noto"))
    assert [icon.name for icon in found] == ["hand", "moon-dark"]


def test_glued_names_are_the_same_content_as_hyphenated_ones(tmp_path: Path):
    _package(tmp_path, {"alarm-clock": {"body": SQUARE}}, "noto")
    folder = _package(tmp_path, {"alarmclock": {"body": SQUARE}}, "fxemoji")
    found = glyphs.read_icons(folder, _only("noto", "fxemoji"))
    assert {icon.content for icon in found} == {"alarm-clock"}
    assert glyphs.caption(found[0]) == "alarm clock, soft gradient style"


def test_held_out_families_are_held_out_whatever_they_draw(tmp_path: Path):
    folder = _package(tmp_path, {"airplane": {"body": SQUARE}}, "openmoji")
    (icon,) = glyphs.read_icons(folder, _only("openmoji"))
    assert icon.is_held_out


def test_a_missing_family_names_the_command_that_fetches_it(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        glyphs.read_icons(tmp_path, _only("noto"))
    assert caught.value.fix == "npm install @iconify-json/noto"


def _only(*prefixes: str) -> dict[str, glyphs.Family]:
    return {prefix: glyphs.FAMILIES[prefix] for prefix in prefixes}


def _package(folder: Path, icons: dict[str, object], prefix: str = "noto") -> Path:
    (folder / prefix).mkdir()
    content = {"prefix": prefix, "icons": icons, "width": 16, "height": 16}
    (folder / prefix / "icons.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
