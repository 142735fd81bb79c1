"""The other style of a task: deterministic, never its own, and only where none was given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from stylecli.engine.scoring.item import Item
from stylecli.engine.scoring.negatives import drawn

STYLES = ("pixel-art", "line art", "cyberpunk", "Pixel Art style")


def items(count: int = 400) -> list[Item]:
    return [
        Item(
            id=f"item {number // 2}",
            method=("ours", "theirs")[number % 2],
            output=Path("x.png"),
            place="",
            style_text=STYLES[number // 2 % len(STYLES)],
        )
        for number in range(count)
    ]


def test_every_task_is_asked_about_another_style_and_all_of_them_come_up() -> None:
    found = drawn(items(), 0)
    by_task: dict[str, set[str]] = {}
    for item in found:
        by_task.setdefault(item.id, set()).add(item.negative_style)
        both = (item.style_text.lower() + item.negative_style.lower()).replace("-", " ")
        assert both.count("pixel art") < 2
        assert item.negative_style
    assert {len(styles) for styles in by_task.values()} == {1}
    counts = Counter(item.negative_style for item in found if item.style_text == "cyberpunk")
    assert len(counts) == 2
    assert min(counts.values()) > 30


def test_the_draw_hangs_on_the_seed_and_the_id_and_on_no_order() -> None:
    whole = {item.id: item.negative_style for item in drawn(items(), 7)}
    backwards = {item.id: item.negative_style for item in drawn(items()[::-1], 7)}
    assert backwards == whole
    assert {item.id: item.negative_style for item in drawn(items(), 8)} != whole


def test_what_was_given_stays_and_a_single_style_has_no_other() -> None:
    one = Item(id="a", method="m", output=Path("x"), place="", style_text="oil")
    assert drawn([one], 0)[0].negative_style == ""
    given = Item(
        id="b", method="m", output=Path("x"), place="", style_text="ink", negative_style="wax"
    )
    wordless = Item(id="c", method="m", output=Path("x"), place="")
    assert [i.negative_style for i in drawn([one, given, wordless], 0)] == ["ink", "wax", ""]
