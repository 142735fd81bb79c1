from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.errors import UsageError
from stylecli.methods.regionroute.router import LONGEST, clauses, route
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, Style, instruct

FAMILIES = (Style("flat", "black and white"), Style("pastel", "outlined pastel", ("pastel",)))
STYLES = PAPER + FAMILIES
TAIL = ", keep other area unchanged"
THINGS = ("cat", "two dogs", "dining table", "tv", "stop sign", "paint can", "hot dog", "cabin")
SCRAPS = (
    "the cat make turn into in style line-art cyberpunk and a for not from keep unchanged it only "
    'dogs , . ; : - " ( é'
)
SAYINGS = st.lists(st.sampled_from(SCRAPS.split()), max_size=10)

# What people type, and what is meant by it.
TYPED = {
    "make the cat pixel art": [("pixel_art", "cat")],
    "turn the dog into line-art style and the car to cyberpunk": [
        ("line_art", "dog"),
        ("cyberpunk", "car"),
    ],
    "Make the Cat in PIXEL-ART style.": [("pixel_art", "Cat")],
    "paint the two dogs as expressionism": [("expressionism", "two dogs")],
    "pixel-art style for the cat and line_art for the dog": [
        ("pixel_art", "cat"),
        ("line_art", "dog"),
    ],
    "pixel art for the cat and make the dog line art": [("pixel_art", "cat"), ("line_art", "dog")],
    "make the cat pixel art, the dog cyberpunk, and the car line art": [
        ("pixel_art", "cat"),
        ("cyberpunk", "dog"),
        ("line_art", "car"),
    ],
    "make the cat pixel-art and the dog pixel-art": [("pixel_art", "cat"), ("pixel_art", "dog")],
    "make the cat, the mat and the dog pixel art": [("pixel_art", "cat, the mat and the dog")],
    "Can you please turn the cat on the sofa into a pixelated version?": [
        ("pixel_art", "cat on the sofa")
    ],
    "I want the cat to be 8-bit": [("pixel_art", "cat")],
    "the cat should look like line   art": [("line_art", "cat")],
    "give the cat an expressionist look": [("expressionism", "cat")],
    "apply cyberpunk to the cat": [("cyberpunk", "cat")],
    "make a line drawing of the cat": [("line_art", "cat")],
    "draw the cat in the style of pixel art": [("pixel_art", "cat")],
    "change the cat's style to expressionism": [("expressionism", "cat")],
    "turn the style of the cat to pixel art": [("pixel_art", "cat")],
    "style the cabin as line art": [("line_art", "cabin")],
    'make the "cat" \u201cpixel art\u201d': [("pixel_art", "cat")],
    "cat -> pixel art; dog -> cyberpunk": [("pixel_art", "cat"), ("cyberpunk", "dog")],
    "cat: pixel art": [("pixel_art", "cat")],
    "turn dog into cyberpunk": [("cyberpunk", "dog")],
    "make both dogs pixel art": [("pixel_art", "dogs")],
    "don't touch anything else, make the cat cyberpunk": [("cyberpunk", "cat")],
    "make only the dog line art; leave the background unchanged.": [("line_art", "dog")],
    "make the cat pixel art, keep the background unchanged, and the dog line art": [
        ("pixel_art", "cat"),
        ("line_art", "dog"),
    ],
    # A name that says which object is meant, and one that is turned down.
    "make the black and white cat cyberpunk": [("cyberpunk", "black and white cat")],
    "make the pixel art cat cyberpunk": [("cyberpunk", "pixel art cat")],
    "change the cat from line art to pixel art": [("pixel_art", "cat")],
}


@pytest.mark.parametrize("prompt", TYPED)
def test_what_people_type_is_understood(prompt: str) -> None:
    hits = route(prompt, STYLES)
    assert [(hit.style.id, hit.object) for hit in hits] == TYPED[prompt]
    assert clauses(prompt, hits) == [instruct(hit.object or "", hit.style).prompt for hit in hits]


@given(
    style=st.sampled_from(STYLES),
    thing=st.sampled_from(THINGS),
    template=st.sampled_from(TEMPLATES),
)
def test_every_template_is_read_back(style: Style, thing: str, template: str) -> None:
    made = instruct(thing, style, template)
    (hit,) = route(made.prompt, STYLES)
    assert (hit.style, hit.span, hit.object) == (style, made.style_span, thing)
    assert clauses(made.prompt, [hit]) == [instruct(thing, style).prompt]


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(THINGS), st.sampled_from(STYLES)), min_size=2, max_size=4
    ),
    joint=st.sampled_from([" and ", ", ", "; ", " and then ", ". "]),
)
def test_edits_that_follow_one_another_come_apart(
    pairs: list[tuple[str, Style]], joint: str
) -> None:
    prompt = joint.join(f"make the {thing} {style.phrase}" for thing, style in pairs)
    hits = route(prompt, STYLES)
    assert [(hit.object, hit.style) for hit in hits] == pairs
    assert all(prompt[slice(*hit.span)] == hit.style.phrase for hit in hits)


@given(style=st.sampled_from(STYLES), data=st.data())
def test_spelling_makes_no_difference(style: Style, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(style.names))
    gap = data.draw(st.sampled_from([" ", "-", "_", "  ", "\u2011", " - "]))
    spelt = gap.join(name.replace("_", "-").replace(" ", "-").split("-"))
    spelt = data.draw(st.sampled_from([str.upper, str.lower, str.title]))(spelt)
    prompt = f"make the cat {spelt}!"
    (hit,) = route(prompt, STYLES)
    assert (hit.style, prompt[slice(*hit.span)]) == (style, spelt)


def test_the_longest_name_wins_and_is_not_found_in_words() -> None:
    styles = (Style("art", "art"), Style("line", "line"), Style("line_art", "line-art"))
    (hit,) = route("make the party line art online", styles)
    assert hit.style.id == "line_art"


def test_a_style_that_is_turned_down_is_not_done() -> None:
    (hit,) = route("make the cat pixel art, not cyberpunk", STYLES)
    assert (hit.style.id, hit.object) == ("pixel_art", "cat")
    with pytest.raises(UsageError, match="no style is named"):
        route("make the cat neither pixel art nor cyberpunk", STYLES)


@pytest.mark.parametrize("whole", ["it", "the image", "the whole picture", "everything"])
def test_the_whole_picture_is_asked_for_as_a_whole(whole: str) -> None:
    said = f"make {whole} line art"
    assert clauses(said, route(said, STYLES)) == ["make the image into line art style"]


@pytest.mark.parametrize(
    "said",
    [
        "don't make the cat cyberpunk, make it line art",
        "make the cat less cyberpunk",
        "make everything except the cat cyberpunk",
        "do not turn the dog into line-art style",
    ],
)
def test_what_is_not_to_be_done_is_refused_and_not_done(said: str) -> None:
    with pytest.raises(UsageError, match="says what is not to be done") as caught:
        route(said, STYLES)
    advised = caught.value.fix.split('"')[1]
    assert all(hit.object for hit in route(advised, STYLES))


def test_it_is_what_was_named_last() -> None:
    hits = route("make the cat pixel-art and then make it cyberpunk", STYLES)
    assert [(hit.style.id, hit.object) for hit in hits] == [
        ("pixel_art", "cat"),
        ("cyberpunk", "cat"),
    ]
    (alone,) = route("make it cyberpunk", STYLES)
    assert alone.object == "it"


def test_names_are_told_apart_as_they_are_found() -> None:
    """Of the index and of instructions alike: a dash of any length is one gap."""
    with pytest.raises(UsageError, match="name of two styles"):
        route("x", (Style("a", "oil\u2013paint"), Style("b", "oil paint")))
    with pytest.raises(UsageError, match="empty name"):
        route("make the cat oil", (Style("a", "oil", ("-",)),))


def test_what_is_said_besides_is_kept() -> None:
    said = "make the cat pixel art with big blue eyes"
    assert clauses(said, route(said, STYLES)) == [said]
    said = "make the cat pixel art, keep its eyes unchanged"
    assert clauses(said, route(said, STYLES)) == [said]
    said = "make the cat pixel art and the dog, the mat cyberpunk with neon lights"
    assert clauses(said, route(said, STYLES)) == [
        f"make the cat in pixel-art style{TAIL}",
        "make the dog, the mat in cyberpunk style with neon lights",
    ]


def test_one_style_without_a_known_object_is_left_in_the_users_words() -> None:
    said = "some cyberpunk, as you see fit"
    hits = route(said, STYLES)
    assert hits[0].object is None
    assert clauses(said, hits) == [said]


@pytest.mark.parametrize(
    "said", ["make the dog pixel art and cyberpunk", "pixel art cyberpunk", "line art or cyberpunk"]
)
def test_of_several_styles_each_needs_an_object(said: str) -> None:
    hits = route(said, STYLES)
    assert len(hits) == 2
    with pytest.raises(UsageError, match="does not say clearly") as caught:
        clauses(said, hits)
    # What it tells people to write is understood.
    example = caught.value.fix.split('"')[1]
    assert len(clauses(example, route(example, STYLES))) == 2


def test_an_unknown_style_is_answered_with_the_nearest_and_all_known() -> None:
    with pytest.raises(UsageError) as caught:
        route("make the cat pixle art", STYLES)
    assert "'pixle art' is no style" in caught.value.what
    assert "nearest are pixel-art, line-art, " in caught.value.fix
    assert all(style.phrase in caught.value.fix for style in STYLES)
    with pytest.raises(UsageError, match=r"no style is named in 'remove the cat'") as caught:
        route("remove the cat", STYLES)
    assert all(style.phrase in caught.value.fix for style in STYLES)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("make the cat pixel-art and the dog in watercolour style", "watercolour"),
        ("make the dog in watercolour style and the cat in pixel art", "watercolour"),
        ("turn the cat to cyberpunkk and the dog to line art", "cyberpunkk"),
        ("make the cat pixel art and the dog cyberpunkk", "cyberpunkk"),
        ("make the big dog pixle art and the cat line art", "pixle art"),
    ],
)
def test_a_second_edit_in_an_unknown_style_is_refused_and_not_left_undone(
    said: str, wrong: str
) -> None:
    with pytest.raises(UsageError, match=f"'{wrong}' is no style"):
        route(said, STYLES)


@pytest.mark.parametrize(
    "said",
    [
        "make the cat pixel art and leave the dog in peace",
        "make the cat pixel art and keep the dog in the same style",
        "make the cat pixel art in a cute style",
        "make the dogs in the cabin pixel art",
    ],
)
def test_words_that_only_resemble_a_second_edit_are_no_error(said: str) -> None:
    (hit,) = route(said, STYLES)
    assert hit.style.id == "pixel_art"


def test_two_styles_may_not_share_a_name() -> None:
    with pytest.raises(UsageError, match="'pixel art' is the name of two styles: pixel_art and x"):
        route("make the cat pixel art", [*PAPER, Style("x", "blocks", ("Pixel_Art",))])


def test_without_styles_nothing_can_be_named() -> None:
    with pytest.raises(UsageError, match="no style to choose from"):
        route("make the cat pixel art", [])


def test_a_page_of_text_is_no_instruction() -> None:
    with pytest.raises(UsageError, match="characters"):
        route("make the cat pixel art " * (LONGEST // 20), PAPER)


def test_a_run_of_blanks_is_no_instruction() -> None:
    with pytest.raises(UsageError, match="blanks"):
        route(f"make{' ' * 1500}the § cat pixel art", PAPER)


@given(SAYINGS, SAYINGS)
def test_any_text_is_routed_or_refused(before: list[str], after: list[str]) -> None:
    said = " ".join([*before, "pixel art", *after])
    try:
        hits = route(said, STYLES)
        made = clauses(said, hits)
    except UsageError:
        return
    assert len(made) == len(hits) >= 1
    assert all(hit.object != "" for hit in hits)
