"""The page as raters use it: in a browser, from a disk, by keys and by touch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stylecli.engine.study import counting
from stylecli.engine.study.key import COPY, Key
from stylecli.engine.study.making import Made
from tests.engine.report.conftest import LOCAL, data
from tests.engine.study.conftest import OURS, ZEPHYR, Bench

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

Visit = Callable[..., "Page"]


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One rater's browser: what pages keep, they keep here."""
    one = browser.new_context()
    yield one
    one.close()


@pytest.fixture
def visit(context: BrowserContext) -> Iterator[Visit]:
    """Open the page; whatever it asks for beyond files, or complains of, fails the test."""
    wrong: list[str] = []

    def opened(made: Made, mark: str = "") -> Page:
        one = context.new_page()
        one.on("pageerror", lambda error: wrong.append(str(error)))
        one.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        one.on("request", lambda asked: asked.url[:5] in LOCAL or wrong.append(asked.url))
        one.goto((made.folder / "index.html").absolute().as_uri() + mark)
        return one

    yield opened
    assert wrong == []


def begin(one: Page, rater: str) -> None:
    one.fill("#name", rater)
    one.check("#consent")
    one.click("text=Begin")
    one.wait_for_selector("#trial:not([hidden])")


def progress(one: Page) -> str:
    return one.inner_text("#place")


def wish(one: Page, made: Made) -> str:
    """A or B: ours where it is, else not the content; found by the pictures that are shown."""
    shown = data(made.folder / "index.html", "pictures")
    told = data(made.folder / "index.html")
    sources = one.locator("#two img").evaluate_all("all => all.map(one => one.getAttribute('src'))")
    names = [next(n for n, source in shown.items() if source == s) for s in sources]
    item = next(
        i for i in told["items"] + told["copies"] if {i["first"], i["second"]} == set(names)
    )
    pair = made.key.pairs[item["id"]]
    methods = [pair.first if name == item["first"] else pair.second for name in names]
    best = OURS if OURS in methods else next(m for m in methods if m != COPY)
    return "AB"[methods.index(best)]


def export(one: Page, folder: Path) -> Path:
    with one.expect_download() as waiting:
        one.click("#download")
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    return file


def tally(made: Made, *files: Path) -> counting.Count:
    return counting.tally(
        made.folder, list(map(str, files)), fastest_s=0, keep_all=False, seed=0, resamples=200
    )


def test_a_rater_votes_reloads_in_the_middle_exports_and_is_counted(
    tmp_path: Path, visit: Visit
) -> None:
    made = Bench(tmp_path).fill(tasks=5).make(per_rater=8, beside=True)
    one = visit(made)
    assert one.is_hidden("#trial")
    begin(one, "4")
    total = made.key.design.length
    for at in range(total):
        if at == 4:
            # In the midst of an item: what was answered is still there, and so is the place.
            one.keyboard.press(wish(one, made))
            one.reload()
            assert progress(one) == f"5 of {total}"
            assert one.locator(".question input:checked").count() == 1
        assert progress(one) == f"{at + 1} of {total}"
        letter = wish(one, made)
        for question in made.key.questions:
            one.click(f".question[data-key={question.key}] label:has(input[value={letter}])")
        one.click("#next")
    one.wait_for_selector("#end:not([hidden])")
    one.reload()
    assert progress(one) == "Done"
    file = export(one, tmp_path)
    assert file.name == f"votes-{made.key.study}-4.csv"
    assert file.read_text() == one.input_value("#text")
    count = tally(made, file)
    (rater,) = count.raters
    assert (rater.votes, rater.expected, rater.failed, rater.checks) == (24, 24, 0, 1)
    assert count.left_out == []
    for share in count.shares:
        assert share.chosen == 0
    assert sum(share.n for share in count.shares) == 24
    assert rater.median_s > 0


def test_all_of_it_can_be_done_with_keys(tmp_path: Path, visit: Visit) -> None:
    made = Bench(tmp_path).fill(tasks=3).make(ties=True)
    one = visit(made, "#rater=anna.b")
    assert one.input_value("#name") == "anna.b"
    one.focus("#name")
    one.keyboard.press("Tab")
    one.keyboard.press("Space")
    one.keyboard.press("Enter")
    one.wait_for_selector("#trial:not([hidden])")
    one.keyboard.press("Enter")
    assert one.inner_text("#missing") == "3 questions are still open."
    for _ in range(made.key.design.length):
        # Arrows within a question, letters for the next open one.
        letter = wish(one, made)
        one.focus(".question input")
        one.keyboard.press("Space")
        one.keyboard.press("ArrowRight")
        assert one.is_checked(".question input[value=B]")
        one.keyboard.press(letter)
        one.evaluate("document.activeElement.blur()")
        one.keyboard.press(letter.lower())
        one.keyboard.press("n")
        one.keyboard.press("Enter")
    one.wait_for_selector("#end:not([hidden])")
    count = tally(made, export(one, tmp_path))
    assert {s.question.key: (s.chosen, s.n, s.ties) for s in count.shares} == {
        "content": (0, 3, 0),
        "style": (0, 3, 0),
        "overall": (0, 0, 3),
    }


def test_going_back_changes_an_answer_and_two_raters_share_a_browser(
    tmp_path: Path, visit: Visit
) -> None:
    made = Bench(tmp_path).fill(tasks=2).make(questions=["overall"])
    one = visit(made)
    begin(one, "first")
    one.keyboard.press("a")
    one.click("#next")
    assert progress(one).startswith("2 of")
    one.click("#back")
    assert one.is_checked("input[value=A]")
    one.keyboard.press("b")
    one.click("#leave")
    begin(one, "second")
    assert progress(one).startswith("1 of")
    assert one.locator("input:checked").count() == 1, "only the consent"
    one.click("#leave")
    begin(one, "first")
    assert one.is_checked("#asked input[value=B]")


def test_nobody_begins_without_an_id_and_consent(tmp_path: Path, visit: Visit) -> None:
    made = Bench(tmp_path).fill(tasks=1).make()
    one = visit(made)
    for name, agrees in (("", True), ("anna", False), ("a,b", True), ("=1", True)):
        one.fill("#name", name)
        one.set_checked("#consent", agrees)
        one.click("text=Begin")
        assert one.is_hidden("#trial"), (name, agrees)


def test_the_page_counts_places_as_the_tally_does(tmp_path: Path, visit: Visit) -> None:
    made = Bench(tmp_path).fill(tasks=11).make(side_px=16, per_rater=13)
    one = visit(made)
    words = ["", "a", "ä🙂", "x" * 128, "y" * 129, "z" * 700]
    found = one.evaluate("all => all.map(word => styleStudy.digest('7', word))", words)
    assert found == [
        hashlib.blake2b(f"7\n{word}".encode(), digest_size=16).hexdigest() for word in words
    ]
    raters = ["0", "1", "2", "17", "007", "123456789", "1234567890", "anna", "a.b-c@d_e", "Z" * 64]
    script = "all => all.map(r => styleStudy.places(r).map(p => [p.id, p.item.id, p.isSwapped]))"
    expected = [
        [[p.item, p.shown, p.is_swapped] for p in made.key.design.places(rater)] for rater in raters
    ]
    assert one.evaluate(script, raters) == expected


def test_it_works_on_a_phone(tmp_path: Path, browser: Browser) -> None:
    made = Bench(tmp_path).fill(tasks=2).make(side_px=256, ties=True)
    one = browser.new_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    one.goto((made.folder / "index.html").absolute().as_uri())
    one.fill("#name", "1")
    one.tap("#consent")
    one.tap("text=Begin")
    one.wait_for_selector("#trial:not([hidden])")
    assert one.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [one.locator("#two .picture").nth(at).bounding_box() for at in range(2)]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["width"] == boxes[1]["width"] > 150
    assert boxes[0]["height"] == boxes[1]["height"]
    for box in one.locator(".choices label").all():
        size = box.bounding_box()
        assert size
        assert size["height"] >= 44, "a finger needs room"
    one.tap("#two .picture >> nth=0")
    assert one.is_visible("#large img")
    one.tap("#shut")
    assert not one.is_visible("#large")
    one.close()


def test_both_results_and_all_questions_fit_one_window(
    tmp_path: Path, browser: Browser, visit: Visit
) -> None:
    made = Bench(tmp_path).fill(tasks=1).make(side_px=512)
    one = visit(made)
    one.set_viewport_size({"width": 1280, "height": 800})
    begin(one, "1")
    box = one.locator("#next").bounding_box()
    assert box
    assert box["y"] + box["height"] <= 800
    assert one.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_browser_that_keeps_nothing_says_so_and_still_counts(
    tmp_path: Path, browser: Browser
) -> None:
    made = Bench(tmp_path).fill(tasks=1).make(questions=["overall"])
    one = browser.new_page()
    one.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    one.goto((made.folder / "index.html").absolute().as_uri())
    begin(one, "1")
    assert one.is_visible("#forgets")
    for _ in range(made.key.design.length):
        one.keyboard.press("a")
        one.keyboard.press("Enter")
    assert len(export(one, tmp_path).read_text().splitlines()) == made.key.design.length + 1
    one.close()


def test_what_a_study_calls_things_cannot_run(tmp_path: Path, visit: Visit) -> None:
    evil = "</script><img src=x onerror='window.hit=1'>"
    made = Bench(tmp_path).fill(tasks=1).make(questions=[evil], title=evil, consent=evil)
    one = visit(made)
    begin(one, "1")
    assert one.inner_text(".question p") == evil
    assert one.evaluate("window.hit") is None
    assert json.loads((made.folder / "key.json").read_text())["questions"][0]["text"] == evil
    assert Key.read(made.folder).methods[1] == ZEPHYR
