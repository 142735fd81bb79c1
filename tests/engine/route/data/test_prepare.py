"""What a command line asks for: names of lists, and styles in any words."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylecli.engine.route import experts
from stylecli.engine.route.data import prepare
from stylecli.engine.route.data.prepare import Asked
from stylecli.errors import UsageError
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.schema import Recipe


def styles(*names: str) -> list[Style]:
    asked = Asked(
        sources=["list.jsonl"], icons=None, output=Path("set"), recipe=Recipe(), styles=names
    )
    return prepare._styles(asked)


def test_styles_in_any_words_are_called_what_experts_can_be(tmp_path: Path) -> None:
    named = styles(
        "art d\u00e9co", "r\u00f8d\u2013bl\u00e5", "\uff3fukiyo-e", "\u58a8 ink", "weiss\u2122"
    )
    assert [one.id for one in named] == ["art_deco", "r_d_bla", "ukiyo_e", "ink", "weisstm"]
    assert named[0].phrase == "art d\u00e9co"
    experts.refuse_namesakes(tmp_path, named)


def test_words_of_which_no_name_of_a_file_is_left_are_refused() -> None:
    for name in ("\u65e5\u672c\u753b", "+++"):
        with pytest.raises(UsageError, match="nothing in it to name files by"):
            styles(name)


def test_styles_whose_files_would_be_called_alike_are_refused_by_both_names() -> None:
    for one, other in (("C#", "C++"), ("pixel art", "pixel.art")):
        with pytest.raises(UsageError) as caught:
            styles(one, other)
        assert one.replace(" ", "-") in caught.value.what
        assert other in caught.value.what
    # One said twice is one.
    assert [one.phrase for one in styles("oil painting", "Oil-Painting")] == ["oil painting"]


def test_a_name_on_standard_input_may_hold_odd_breaks_of_lines(tmp_path: Path) -> None:
    odd = tmp_path / "a\x0bb\u2028c.jsonl"
    asked = Asked(
        sources=["-"],
        icons=None,
        output=Path("set"),
        recipe=Recipe(),
        stdin=lambda: f"{odd}\r\n\n{tmp_path / 'd.jsonl'}\n",
    )
    assert prepare._expand(asked) == [odd, tmp_path / "d.jsonl"]
