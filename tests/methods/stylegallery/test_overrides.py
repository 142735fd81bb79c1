"""What people write about matches is understood, or refused with what they could have written."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.errors import UsageError
from stylecli.methods.stylegallery.match import (
    Exclude,
    Override,
    Strength,
    Table,
    Take,
    choose,
)
from stylecli.methods.stylegallery.names import Known
from stylecli.methods.stylegallery.overrides import from_json, names_file, read
from stylecli.recipe.gallery import Gallery, Matching

NAMES = {"sky": (2,), "trees": (1, 4), "a=b": (3,)}
KNOWN = Known(
    areas=(0.5, 0.25, 0.15, 0.1),
    references=("monet.png", "paintings/wave.jpg", "wave.webp", "odd:1.png", "x*2.png"),
    counts=(3, 2, 1, 4, 2),
    number_of=lambda name: NAMES.get(name, ()),
    names=tuple(NAMES),
)


def said(**settings: tuple[str, ...]) -> tuple[Override, ...]:
    return read(Gallery(**settings), KNOWN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("2=ref1", [Take(2, 0)]),
        ("2=ref1:3", [Take(2, 0, (3,))]),
        ("2=ref1:3+1+3", [Take(2, 0, (1, 3))]),
        ("sky=monet.png:2", [Take(2, 0, (2,))]),
        ("sky=monet:2*0.5", [Take(2, 0, (2,), 0.5)]),
        ("trees=keep", [Take(1, None), Take(4, None)]),
        ("3=keep*2", [Take(3, None, (), 2.0)]),
        ("a=b=ref2*0", [Take(3, 1, (), 0.0)]),
        (" sky = ref3:1 * 1e-1 ", [Take(2, 2, (1,), 0.1)]),
        ("1=wave.jpg:2", [Take(1, 1, (2,))]),
        ("1=odd:1", [Take(1, 3)]),
        ("1=odd:1:4", [Take(1, 3, (4,))]),
        ("1=odd:1.png:2+3*3", [Take(1, 3, (2, 3), 3.0)]),
        ("1=x*2", [Take(1, 4)]),
        ("1=x*2*2", [Take(1, 4, (), 2.0)]),
    ],
)
def test_matches_in_words(entry: str, expected: list[Override]) -> None:
    assert said(match=(entry,)) == tuple(expected)


def test_the_other_keys() -> None:
    assert said(only=("trees", "3")) == (Take(2, None),)
    assert said(only=()) == ()
    assert said(exclude=("ref1:2+3", "odd:1")) == (Exclude(0, 2), Exclude(0, 3), Exclude(3))
    assert said(strength=("trees=0.5", "2=3")) == (
        Strength(1, 0.5),
        Strength(4, 0.5),
        Strength(2, 3.0),
    )


def test_a_number_always_means_the_place() -> None:
    swapped = Known((1.0,), ("ref2.png", "ref1.png"), (1, 1), lambda _: ())
    found = read(Gallery(match=("1=ref2",)), swapped)
    assert found == (Take(1, 1),)
    assert read(Gallery(match=("1=ref2.png",)), swapped) == (Take(1, 0),)


def totals(rows: int = 4) -> Table:
    columns = [(s, r) for s, count in enumerate(KNOWN.counts) for r in range(1, count + 1)]
    random = torch.Generator().manual_seed(0)
    values = torch.rand(rows, len(columns), generator=random, dtype=torch.double)
    scores = values[..., None].expand(-1, -1, 3)
    return Table(scores=scores, columns=tuple(columns), totals=values)


def test_a_match_holds_against_only_and_exclusions_and_a_strength_against_its_own() -> None:
    overrides = said(
        strength=("3=0.25",), match=("3=ref2:1*0.5",), only=("sky",), exclude=("ref2",)
    )
    found = choose(totals(), Matching(), overrides)
    assert [one.style for one in found if one.content in (1, 4)] == [None, None]
    assert found[1].source == "auto"
    assert found[1].style not in (None, 1)
    assert (found[2].style, found[2].regions, found[2].strength) == (1, (1,), 0.25)


REGIONS = r"regions are 1 \(50%\), 2 \(25%\), 3 \(15%\), 4 \(10%\); names are sky, trees, a=b"
REFERENCES = r"references are ref1 \(monet.png, 3 regions\), ref2 \(wave.jpg, 2 regions\), ref3"


@pytest.mark.parametrize(
    ("key", "entry", "what", "fix"),
    [
        ("match", "sky", "nothing is on one side of a =", "sky=ref1:2"),
        ("match", "=ref1", "nothing is on one side of a =", "sky=ref1:2"),
        ("match", "sky=", "nothing is on one side of a =", "sky=ref1:2"),
        ("match", "5=ref1", "the content has no region 5", REGIONS),
        ("match", "0=ref1", "the content has no region 0", REGIONS),
        ("match", "skyy=ref1", "no region of the content is called 'skyy'", "did you mean sky"),
        ("match", "cow=ref1", "no region of the content is called 'cow'", REGIONS),
        ("match", "1=ref6", "no reference is called 'ref6'", REFERENCES),
        ("match", "1=ref0", "no reference is called 'ref0'", REFERENCES),
        (
            "match",
            "1=monets.png:2",
            "no reference is called 'monets.png'",
            "did you mean monet.png",
        ),
        ("match", "1=ref1:4", "ref1 has no region 4", r"ref1 \(monet.png, 3 regions\)"),
        ("match", "1=ref3:0", "ref3 has no region 0", r"ref3 \(wave.webp, 1 region\)"),
        ("match", "1=ref1:two", "'two' names no regions", r"2\+5"),
        ("match", "1=ref1:1+", r"'1\+' names no regions", r"2\+5"),
        ("match", "1=wave", r"'wave' may be ref2 .* or ref3", "write ref2 or ref3"),
        ("match", "1=ref1*much", "'much' is no strength", "from 0 to 1000"),
        ("match", "1=ref1*-1", "'-1' is no strength", "from 0 to 1000"),
        ("match", "1=ref1*nan", "'nan' is no strength", "from 0 to 1000"),
        ("only", "cow", "no region of the content is called 'cow'", REGIONS),
        ("only", "9", "the content has no region 9", REGIONS),
        ("exclude", "ref9:1", "no reference is called 'ref9'", REFERENCES),
        ("exclude", "ref1:9", "ref1 has no region 9", "3 regions"),
        ("strength", "sky", "nothing is on one side of a =", "sky=0.5"),
        ("strength", "sky=big", "'big' is no strength", "from 0 to 1000"),
        ("strength", "sky=1001", "'1001' is no strength", "from 0 to 1000"),
        ("strength", "cow=1", "no region of the content is called 'cow'", REGIONS),
    ],
)
def test_errors_name_the_entry_and_what_there_is(key: str, entry: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        said(**{key: (entry,)})
    assert caught.value.what.startswith(f"gallery.{key} {entry!r}: ")
    with pytest.raises(UsageError, match=fix):
        raise UsageError(caught.value.fix)


def test_before_a_reference_is_cut_its_regions_may_be_any() -> None:
    early = Known((1.0,), ("monet.png",), None, lambda _: (1,))
    assert read(Gallery(match=("1=ref1:77",)), early) == (Take(1, 0, (77,)),)
    with pytest.raises(UsageError, match="ref1 has no region 0"):
        read(Gallery(match=("1=ref1:0",)), early)
    with pytest.raises(UsageError) as caught:
        read(Gallery(match=("1=ref2",)), early)
    assert caught.value.fix.endswith("references are ref1 (monet.png)")


def test_long_lists_are_cut() -> None:
    many = Known([0.01] * 40, [f"{n}.png" for n in range(300)], [2] * 300, lambda _: ())
    with pytest.raises(UsageError) as caught:
        read(Gallery(match=("1=ref301",)), many)
    assert "ref12 (11.png, 2 regions) and 288 more" in caught.value.fix
    with pytest.raises(UsageError) as caught:
        read(Gallery(match=("41=ref1",)), many)
    assert caught.value.fix.endswith("12 (1%) and 28 more")


@given(st.text(alphabet="12ref=:+*.keepsky", max_size=12).filter(bool))
def test_whatever_is_written_is_understood_or_refused(entry: str) -> None:
    for key in ("match", "only", "exclude", "strength"):
        with contextlib.suppress(UsageError):
            choose(totals(), Matching(), said(**{key: (entry,)}))


def test_json_says_the_same_as_text() -> None:
    found = from_json(
        [
            {"content": 3, "style": 1, "regions": [2, 1]},
            {"content": "sky", "style": "monet"},
            {"exclude": {"style": 0, "region": 2}},
            {"exclude": {"style": "ref3"}},
            {"content": 4, "keep": True},
            {"content": 2, "strength": 0.5},
            {"content": 1, "style": "ref1", "regions": [1], "strength": 2},
        ],
        KNOWN,
    )
    assert found == (
        Take(3, 1, (1, 2)),
        Take(2, 0),
        Exclude(0, 2),
        Exclude(2),
        Take(4, None),
        Strength(2, 0.5),
        Take(1, 0, (1,), 2.0),
    )
    assert from_json({"content": 4, "keep": True}, KNOWN) == (Take(4, None),)


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (7, "7 is no override"),
        ({}, "does not say which region"),
        ({"content": 1}, "does not say where the style comes from"),
        ({"content": 1, "regions": [1], "strength": 1}, "does not say where the style comes from"),
        ({"content": 9, "keep": True}, "the content has no region 9"),
        ({"content": True, "keep": True}, "content is True"),
        ({"content": 1.0, "keep": True}, "content is 1.0"),
        ({"content": 1, "keep": "yes"}, '"keep" is true and stands without a style'),
        ({"content": 1, "keep": True, "style": 0}, '"keep" is true and stands without a style'),
        ({"content": 1, "style": 5}, "there is no style 5; numbers count from 0"),
        ({"content": 1, "style": -1}, "there is no style -1"),
        ({"content": 1, "style": None}, "style is None"),
        ({"content": 1, "style": "ref6"}, "no reference is called 'ref6'"),
        ({"content": 1, "style": 0, "regions": 2}, "regions are 2"),
        ({"content": 1, "style": 0, "regions": ["2"]}, "regions are "),
        ({"content": 1, "style": 0, "regions": [4]}, "ref1 has no region 4"),
        ({"content": 1, "style": 0, "region": [1]}, "unknown key 'region'"),
        ({"content": 1, "strength": True}, "True is no strength"),
        ({"content": 1, "strength": None}, "None is no strength"),
        ({"exclude": {"style": 0}, "content": 1}, "an exclusion stands alone"),
        ({"exclude": {"region": 1}}, "does not say of which reference"),
        ({"exclude": {"style": 0, "regions": [1]}}, "unknown key 'regions'"),
        ({"exclude": 3}, "3 is no override"),
    ],
)
def test_json_that_says_nothing_is_refused(entry: object, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_json([{"content": 1, "keep": True}, entry], KNOWN, name="edited.json")
    assert caught.value.what.startswith("edited.json, entry 2: ")
    assert what in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("data", [None, 3, "sky=keep", {"matches": 3}])
def test_json_of_another_shape_is_refused(data: object) -> None:
    with pytest.raises(UsageError, match=r"edited.json: neither overrides nor a report"):
        from_json(data, KNOWN, name="edited.json")


@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_a_report_that_nobody_edited_changes_nothing(diversity: float) -> None:
    settings = Matching(diversity=diversity)
    automatic = choose(totals(), settings)
    report = json.loads(json.dumps({"matches": [one.as_row() for one in automatic]}))
    held = from_json(report, KNOWN, automatic=automatic)
    assert choose(totals(), settings, held) == automatic


def test_what_was_edited_in_a_report_is_the_users() -> None:
    settings = Matching(diversity=0.5)
    automatic = choose(totals(), settings)
    report = {"matches": [one.as_row() for one in automatic]}
    report["matches"][1] |= {"style": "wave.jpg", "regions": [1, 2]}
    report["matches"][2] = {"content": 3, "keep": True}
    report["matches"][3]["strength"] = 0.5
    held = read(
        Gallery(match=("edited.JSON",)), KNOWN, files={"edited.JSON": report}, automatic=automatic
    )
    found = choose(totals(), settings, held)
    assert [one.source for one in found] == ["auto", "user", "user", "auto"]
    assert (found[1].style, found[1].regions) == (1, (1, 2))
    assert found[2].style is None
    assert (found[3].style, found[3].regions) == (automatic[3].style, automatic[3].regions)
    assert found[3].strength == 0.5
    assert (found[0].style, found[0].regions) == (automatic[0].style, automatic[0].regions)
    again = {"matches": [one.as_row() for one in found]}
    repeated = choose(totals(), settings, from_json(again, KNOWN, automatic=automatic))
    assert [(one.style, one.regions, one.strength, one.source) for one in repeated] == [
        (one.style, one.regions, one.strength, one.source) for one in found
    ]


def test_what_a_report_says_is_the_users_stays_so() -> None:
    automatic = choose(totals(), Matching())
    report = {"matches": [one.as_row() | {"source": "user"} for one in automatic]}
    found = choose(totals(), Matching(), from_json(report, KNOWN, automatic=automatic))
    assert {one.source for one in found} == {"user"}


def test_a_report_of_other_settings_holds_as_the_users() -> None:
    report = {"matches": [{"content": 1, "style": "ref3", "regions": [1], "source": "auto"}]}
    best = choose(totals(), Matching())
    assert best[0].style != 2
    assert from_json(report, KNOWN, automatic=best) == (Take(1, 2, (1,)),)


def test_json_files_are_told_from_words() -> None:
    assert names_file("out.regions.json")
    assert names_file("OUT.JSON")
    assert not names_file("sky=ref1")
