from __future__ import annotations

import pytest

from stylecli.errors import UsageError
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, WHOLE, Style, instruct

OBJECTS = ("cat", "two dogs", "dining table", "man in {red}", "pixel-art poster", "{style}")


@pytest.mark.parametrize("style", PAPER, ids=lambda style: style.id)
@pytest.mark.parametrize("template", TEMPLATES)
def test_spans_cut_the_object_and_the_phrase_out_of_every_template(
    template: str, style: Style
) -> None:
    for thing in OBJECTS:
        made = instruct(thing, style, template)
        wide = instruct(thing, style, template, include_style_word=True)
        assert made.prompt[slice(*made.object_span)] == thing
        assert made.prompt[slice(*made.style_span)] == style.phrase
        assert made.prompt == wide.prompt
        assert wide.prompt[slice(*wide.style_span)] == f"{style.phrase} style"


def test_the_canonical_instruction_is_that_of_the_paper() -> None:
    made = instruct("dog", PAPER[0])
    assert made.prompt == "make the dog in pixel-art style, keep other area unchanged"
    assert WHOLE.replace("{style}", PAPER[0].text) == "make the image into pixel art style"


@pytest.mark.parametrize(
    "template",
    ["make the {object} nice", "{style} of {style} for {object}", "{object} {object} {style}", ""],
)
def test_a_template_holds_each_place_once(template: str) -> None:
    with pytest.raises(UsageError, match="once each"):
        instruct("dog", PAPER[0], template)


def test_an_object_needs_a_name() -> None:
    with pytest.raises(UsageError, match="no name"):
        instruct("  ", PAPER[0])


def test_the_word_style_is_taken_in_only_where_it_stands() -> None:
    with pytest.raises(UsageError, match='no word "style"'):
        instruct("dog", PAPER[0], "paint the {object} {style}", include_style_word=True)


def test_no_name_belongs_to_two_of_the_papers_styles() -> None:
    names = [name.replace("-", " ").replace("_", " ") for s in PAPER for name in {s.id, *s.aliases}]
    assert len(set(names)) == len(names)
