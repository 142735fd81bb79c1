"""`items.jsonl` as it is read: strictly, and with what may not be learned from left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stylecli.engine.i2l.data import Item, holdout, picture, read
from stylecli.engine.i2l.data.words import number
from stylecli.errors import ImageError, InputError


def row(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A line whose picture is there."""
    file = folder / "images" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(number(name)).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    said = {
        "id": name,
        "style_id": name[0],
        "image": f"images/{name}.png",
        "caption": f"thing {name}",
        "width": 6,
        "height": 4,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    return {key: value for key, value in (said | changes).items() if value is not ...}


def write(folder: Path, *rows: Any) -> Path:
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows)
    (folder / "items.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def test_what_a_line_says_arrives(tmp_path: Path) -> None:
    said = {"style_caption": "ink wash", "content_id": "fox", "split": "easy", "licence": "MIT"}
    data = read(write(tmp_path, row(tmp_path, "a1"), "", row(tmp_path, "a2", **said)))
    bare, full = data.items
    assert (bare.style_caption, bare.content_id, bare.split, bare.licence) == (
        None, None, "train", None,
    )  # fmt: skip
    assert {key: getattr(full, key) for key in said} == said
    assert full.image == tmp_path / "images" / "a2.png"
    assert data.styles == {"a": [0, 1]}
    assert data.splits == {"train": 1, "easy": 1}
    assert [item.id for item in data.split("train").items] == ["a1"]
    assert [item.id for item in data.held_out().items] == ["a2"]
    assert not data.skipped
    assert [json.loads(json.dumps(item.row())) for item in data.items] == [
        row(tmp_path, "a1", split="train"), row(tmp_path, "a2", **said),
    ]  # fmt: skip
    assert read(tmp_path / "items.jsonl").items == data.items


@pytest.mark.parametrize(
    ("changes", "what", "fix"),
    [
        ({"captoin": "x"}, "unknown key 'captoin'", "did you mean caption?"),
        ({"caption": ...}, "`caption` is missing", "it is a text"),
        ({"caption": ""}, '`caption` is ""', "it is a text"),
        ({"caption": 5}, "`caption` is 5", "it is a text"),
        ({"width": "6"}, '`width` is "6"', "a whole number above 0"),
        ({"width": True}, "`width` is true", "a whole number above 0"),
        ({"height": 0}, "`height` is 0", "a whole number above 0"),
        ({"height": -2}, "`height` is -2", "a whole number above 0"),
        ({"content_id": 7}, "`content_id` is 7", "it is a text"),
        ({"sha256": "ab"}, "`sha256` is 'ab'", "64 digits"),
        ({"split": "medum"}, "`split` is 'medum'", "did you mean medium?"),
        ({"id": "a1"}, "id 'a1' occurs twice", "an id of its own"),
    ],
)
def test_a_line_that_is_no_item_is_refused_by_its_number(
    tmp_path: Path, changes: dict[str, Any], what: str, fix: str
) -> None:
    write(tmp_path, row(tmp_path, "a1"), "", row(tmp_path, "a2", **changes))
    with pytest.raises(InputError) as refused:
        read(tmp_path)
    assert refused.value.what.startswith("items.jsonl:3: ")
    assert what in refused.value.what
    assert fix in refused.value.fix


@pytest.mark.parametrize(("line", "what"), [("{", "is not JSON"), ("[1]", "is not an object")])
def test_a_line_that_is_no_json_is_refused(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(InputError, match=f"items.jsonl:2: {what}"):
        read(write(tmp_path, row(tmp_path, "a1"), line))


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no set at") as refused:
        read(tmp_path)
    assert "i2l-data" in refused.value.fix
    (tmp_path / "items.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not text"):
        read(tmp_path)
    with pytest.raises(InputError, match="holds no picture"):
        read(write(tmp_path, ""))


def test_missing_pictures_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    rows = [row(tmp_path, f"a{n}") for n in range(4)]
    for n in (1, 3):
        (tmp_path / "images" / f"a{n}.png").unlink()
    with pytest.raises(InputError, match=r"'a1', images/a1.png, is not there, and those of 1 oth"):
        read(write(tmp_path, *rows))


@pytest.mark.slow
def test_captions_that_name_the_style_are_left_out_up_to_one_in_a_hundred(tmp_path: Path) -> None:
    rows = [row(tmp_path, f"a{n:03}", style_caption="Ink-wash") for n in range(99)]
    told = row(tmp_path, "b1", caption="a fox, INK  wash.", style_caption="Ink-wash")
    # A word that only holds the letters names nothing.
    safe = row(tmp_path, "b2", caption="a pink washing line", style_caption="ink wash")
    data = read(write(tmp_path, *rows, told))
    assert data.skipped == {"caption names the style": 1}
    assert len(data) == 99
    assert not read(write(tmp_path, safe)).skipped
    with pytest.raises(InputError, match=r"1 of 99 captions name their style \(1.0%"):
        read(write(tmp_path, *rows[:98], told))


def test_a_picture_that_changed_or_broke_is_an_error_with_its_name(tmp_path: Path) -> None:
    data = read(write(tmp_path, row(tmp_path, "a1"), row(tmp_path, "a2")))
    assert picture(data.items[0]).pixels.shape == (4, 6, 3)
    data.items[0].image.write_bytes(data.items[1].image.read_bytes())
    with pytest.raises(ImageError, match=r"images/a1.png: is no longer .* \(item a1\)"):
        picture(data.items[0])
    data.items[1].image.unlink()
    with pytest.raises(ImageError, match=r"images/a2.png: No such file"):
        picture(data.items[1])
    broken = tmp_path / "images" / "a3.png"
    said = row(tmp_path, "a3")
    broken.write_bytes(broken.read_bytes()[:-30])
    said["sha256"] = hashlib.sha256(broken.read_bytes()).hexdigest()
    with pytest.raises(ImageError, match=r"a3.png: damaged"):
        picture(read(write(tmp_path, said)).items[0])


def test_the_digest_is_of_the_list_and_parts_keep_it(tmp_path: Path) -> None:
    first, second = row(tmp_path, "a1"), row(tmp_path, "a2", split="test")
    before = read(write(tmp_path, first, second))
    assert before.split("test").digest == before.digest == before.held_out().digest
    assert read(write(tmp_path, second, first)).digest != before.digest


# Splits where the set has none.

Pairs = list[tuple[int, int]]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 30)), max_size=150),
    count=st.integers(0, 40),
)
def test_train_and_test_share_no_style_and_no_content(pairs: Pairs, count: int) -> None:
    styles = [number(f"style {style}") for style, _ in pairs]
    contents = [number(f"content {content}") for _, content in pairs]
    sides = holdout.sides(styles, contents, count)
    by_side: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for pair, side in zip(pairs, sides, strict=True):
        by_side[side].append(pair)
    train, test = by_side["train"], by_side["test"]
    assert not {s for s, _ in train} & {s for s, _ in test}
    assert not {c for _, c in train} & {c for _, c in test}
    assert len({s for s, _ in test}) <= len({s for s, _ in pairs}) / holdout.SHARE
    assert count or not test
    # Nothing is given up for nothing.
    for style, content in by_side["neither"]:
        assert style in {s for s, _ in test} or content in {c for _, c in test}


def test_a_set_of_single_things_loses_only_what_it_asks_for() -> None:
    """As many styles as MegaStyle has pictures of: eight of each, hardly a thing twice."""
    styles = [number(f"s{n // 8}") for n in range(4000)]
    contents = [number(f"c{n}") for n in range(4000)]
    assert Counter(holdout.sides(styles, contents, 200)) == {"train": 3800, "test": 200}


def test_a_set_of_shared_things_is_parted_by_things_too() -> None:
    """As icons are: every style shows most of the same."""
    pairs = [(style, content) for style in range(60) for content in range(style % 7, 120)]
    sides = holdout.sides(
        [number(f"s{style}") for style, _ in pairs],
        [number(f"c{content}") for _, content in pairs],
        30,
    )
    shown = {
        side: {content for (_, content), own in zip(pairs, sides, strict=True) if own == side}
        for side in ("train", "test")
    }
    assert not shown["train"] & shown["test"]
    assert len(shown["train"]) > 80
    assert len(shown["test"]) > 5
    assert Counter(sides)["test"] >= 30


def test_a_set_without_marks_is_parted_when_it_is_read_and_one_with_marks_is_not(
    tmp_path: Path,
) -> None:
    rows = [
        row(tmp_path, f"{letter}{n}", content_id=f"{letter}{n}")
        for letter in "abcdefghijklmnopqrst"
        for n in range(3)
    ]
    data = read(write(tmp_path, *rows), holdout_count=4)
    assert data.splits == {"train": 54, "test": 6}
    assert read(tmp_path).splits == {"train": 60}
    marked = read(write(tmp_path, *rows[:-1], {**rows[-1], "split": "hard"}), holdout_count=4)
    assert marked.splits == {"train": 59, "hard": 1}


def test_an_item_knows_its_content_by_id_or_by_words() -> None:
    base = {"id": "1", "style_id": "s", "folder": Path(), "name": "x.png", "width": 1, "height": 1}
    one = Item(**base, caption="A Fox.", sha256="0" * 64)
    assert one.content == "a fox"
    assert Item(**base, caption="A Fox.", sha256="0" * 64, content_id="c1").content == "c1"
