"""What is asked for in words becomes edits, or is refused with what to say instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.route.applying.wishes import Edit, edits, unknown
from stylecli.errors import UsageError
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, Style, instruct
from stylecli.recipe.route import Apply

MANY = st.integers(0, 40).map(lambda number: f"thing {number}")


def told(*instructions: str, **more: object) -> tuple[Edit, ...]:
    return edits(Apply.model_validate({"instruction": list(instructions), **more}), PAPER)


def named(*pairs: tuple[str, str], **more: object) -> tuple[Edit, ...]:
    things, styles = zip(*pairs, strict=True)
    said = {"object": list(things), "style_name": list(styles), **more}
    return edits(Apply.model_validate(said), PAPER)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("style", PAPER, ids=lambda style: style.id)
def test_every_template_names_object_style_and_expert(template: str, style: Style) -> None:
    (edit,) = told(instruct("red barn", style, template).prompt)
    assert (edit.object, edit.experts, edit.mix) == ("red barn", (style.id,), None)
    assert edit.style.casefold() == style.phrase
    assert "red barn" in edit.prompt


@given(MANY, st.sampled_from(PAPER))
def test_an_object_and_a_style_are_the_canonical_instruction(thing: str, style: Style) -> None:
    made = instruct(thing, style)
    assert named((thing, style.phrase)) == told(made.prompt)
    assert named((f"the {thing}", f"{style.text.upper()} style")) == told(made.prompt)


def test_several_edits_come_in_the_order_of_the_words() -> None:
    both = told("make the cat pixel-art and the dog line-art")
    assert [(edit.object, edit.experts) for edit in both] == [
        ("cat", ("pixel_art",)),
        ("dog", ("line_art",)),
    ]
    assert both == told("make the cat pixel-art", "make the dog line-art")
    assert both == named(("cat", "pixel-art"), ("dog", "line-art"))
    for edit in both:
        assert edit.style.replace("-", "_") == edit.experts[0]


def test_a_style_in_the_name_of_an_object_is_none() -> None:
    (edit,) = named(("pixel-art poster", "cyberpunk"))
    assert edit.experts == ("cyberpunk",)
    assert edit.style == "cyberpunk"


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "words",
    [
        "pixel art",
        "pixel-art style please",
        "in pixel-art style, keep other area unchanged",
        "apply the pixel-art style",
    ],
)
def test_a_style_for_nothing_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="nothing to give it to") as caught:
        told(words)
    assert "make the cat in pixel-art style" in caught.value.fix


def test_an_object_that_nobody_knows_is_no_reason_to_refuse() -> None:
    (edit,) = told("make the zyxgrub pixel-art")
    assert edit.object == "zyxgrub"


def test_a_whole_picture_is_an_object() -> None:
    (edit,) = told("make the image into cyberpunk style")
    assert edit.experts == ("cyberpunk",)
    assert edit.style == "cyberpunk"


@pytest.mark.parametrize("words", ["make the cat in mosaic style", "make the cat pretty"])
def test_an_unknown_style_names_the_known_ones(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        told(words)
    assert all(style.phrase in caught.value.fix for style in PAPER)
    assert "--soft-route" in caught.value.fix


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "words",
    [
        "make the cat in mosaic style",
        "make the cat into a mosaic",
        "Turn the cat into mosaic style and leave everything else as it is.",
    ],
)
def test_a_mix_is_chosen_from_all_experts_for_what_the_words_say(words: str) -> None:
    (edit,) = told(words, soft_route=True, top=3, mix_tau=0.1)
    assert (edit.object, edit.style) == ("cat", "mosaic")
    assert edit.experts == ("cyberpunk", "expressionism", "line_art", "pixel_art")
    assert edit.mix == (3, 0.1)
    assert named(("cat", "mosaic"), soft_route=True, top=3, mix_tau=0.1) == (edit,)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "words",
    [
        "make the cat in mosaic style and the dog in felt style",
        "make the cat pixel-art and the dog in mosaic style",
        "make the cat in mosaic and the dog",
    ],
)
def test_a_mix_is_of_one_style_for_one_thing(words: str) -> None:
    with pytest.raises(UsageError):
        told(words, soft_route=True)


def test_only_a_style_that_nobody_knows_is_mixed() -> None:
    with pytest.raises(UsageError, match="more than one"):
        named(("cat", "pixel-art and line-art"), soft_route=True)
    with pytest.raises(UsageError, match="no style to choose from"):
        edits(Apply.model_validate({"instruction": ["make the cat red"], "soft_route": True}), ())


def test_a_known_style_is_not_mixed() -> None:
    known, unknown = told("make the cat pixel-art", "make the dog in mosaic style", soft_route=True)
    assert known.mix is None
    assert unknown.mix is not None


def test_words_of_which_none_can_be_the_style_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be told") as caught:
        told("prettier!", soft_route=True)
    assert "--style-name" in caught.value.fix


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({}, "nothing says what to do"),
        ({"object": ["cat"]}, "1 --object and 0 --style-name"),
        ({"object": ["cat"], "style_name": ["pixel-art", "line-art"]}, "1 --object and 2"),
        ({"instruction": ["make the cat pixel-art"], "style_name": ["line-art"]}, "itself"),
        ({"object": ["cat"], "style_name": ["pixel-art and line-art"]}, "more than one"),
        ({"object": ["cat"], "style_name": ["make it pixel-art"]}, "more than one"),
        ({"object": ["the "], "style_name": ["pixel-art"]}, "no name"),
    ],
)
def test_what_says_too_little_or_too_much_is_refused(said: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        edits(Apply.model_validate(said), PAPER)


@pytest.mark.parametrize(
    ("said", "strange"),
    [
        ("make the dog in cyberpunk style", []),
        ("make the two red dogs in cyberpunk style", []),
        ("make the slice of bread on the table in cyberpunk style", []),
        ("make the image in cyberpunk style", []),
        ("make it cyberpunk", []),
        ("make the dog house in cyberpunk style", ["dog house"]),
        ("make the cat with the dog in cyberpunk style", ["cat with the dog"]),
    ],
)
def test_a_thing_is_known_by_its_noun(said: str, strange: list[str]) -> None:
    assert unknown(told(said), {"dog", "bread"}) == strange
