"""The page as people use it: in a browser, from a disk, by mouse, by touch and by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import draw
from tests.engine.report.conftest import Run, data, failure, many, write

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

Show = Callable[..., "Page"]

# Names as someone might choose them who knows how pages are made.
HOSTILE = (
    "<img src=x onerror='window.hit=1'>.png",
    "\u2028\u2029'\"&amp;`${window.hit=1}.png",
    "javascript:window.hit=1.png",
)
# What closes a script has a slash, as only a name below a folder can have.
CLOSING = "</script x></script><script>window.hit=1</script><img src=x onerror='window.hit=1'>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven items of two commands and two styles: four made, one of them lost, and two failed."""
    folder = tmp_path_factory.mktemp("runs")
    cat, dog = (draw(folder / "in" / f"{name}.png", n) for n, name in enumerate(("cat", "dog")))
    ink, oil = (draw(folder / "in" / f"{name}.png", 9 + n) for n, name in enumerate(("ink", "oil")))
    run = Run(folder / "out")
    run.add("cat-ink.png", ("content", cat), ("style", ink), details={"kept": 0.9})
    run.add("cat-oil.png", ("content", cat), ("style", oil), details={"kept": 0.2})
    run.add("dog-ink.png", ("content", dog), ("style", ink), recipe={"sampling": {"steps": 4}})
    run.add("dog-oil.png", ("content", dog), ("style", oil), command="switch")
    run.add("gone.png", ("content", dog), ("style", oil), picture=False)
    run.add("bad-ink.png", ("content", cat), ("style", ink), **failure("cat.png is damaged"))
    run.add("bad-oil.png", ("content", cat), ("style", oil), **failure("cat.png is cursed"))
    return write([run.save()], contents=[str(folder / "in")], title="Seven & more")


def names(one: Page) -> list[str]:
    return one.locator(".card .open").all_inner_texts()


def test_filters_leave_what_fits(made: Path, show: Show) -> None:
    one = show(made)
    assert one.title() == "Seven & more"
    assert len(names(one)) == 7
    one.click("#status button:has-text('Failed')")
    assert names(one) == ["bad-ink.png", "bad-oil.png"]
    one.fill("#search", "CURSED")
    assert names(one) == ["bad-oil.png"]
    assert one.inner_text("#shown") == "1 of 7"
    one.fill("#search", "no such thing")
    one.click("text=Show all")
    assert len(names(one)) == 7
    one.select_option("#style", "ink.png")
    assert names(one) == ["bad-ink.png", "cat-ink.png", "dog-ink.png"]
    one.select_option("#style", "")
    one.select_option("#command", "switch")
    assert names(one) == ["dog-oil.png"]
    one.click("#only-failed")
    assert names(one) == ["bad-ink.png", "bad-oil.png"]


def test_sorting_puts_what_has_no_figure_last_both_ways(made: Path, show: Show) -> None:
    one = show(made)
    one.select_option("#sort", "kept")
    assert names(one)[:2] == ["cat-oil.png", "cat-ink.png"]
    one.click("#order")
    assert names(one)[:2] == ["cat-ink.png", "cat-oil.png"]
    one.select_option("#sort", "time")
    one.click("#order")
    in_order = names(one)
    one.click("#order")
    assert names(one) == in_order[::-1]


def test_the_slider_follows_mouse_and_keys(made: Path, show: Show) -> None:
    one = show(made)
    frame = one.locator(".card:has-text('cat-ink.png') .frame")
    slider = frame.locator("input")
    box = frame.bounding_box()
    assert box is not None

    def cut() -> str:
        return str(frame.evaluate("box => box.style.getPropertyValue('--cut')"))

    assert cut() == "0%"
    one.mouse.move(box["x"] + 2, box["y"] + 50)
    one.mouse.down()
    one.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 50, steps=4)
    one.mouse.up()
    assert abs(float(cut().rstrip("%")) - 75) <= 2
    slider.focus()
    before = float(cut().rstrip("%"))
    one.keyboard.press("ArrowLeft")
    assert float(cut().rstrip("%")) == before - 1
    one.keyboard.press("End")
    assert cut() == "100%"
    assert slider.get_attribute("aria-valuetext") == "100 % content"
    # Nothing of the result is left to see, and all of the content.
    shapes = [frame.locator(f".{kind}") for kind in ("result", "content")]
    clips = [shape.evaluate("image => getComputedStyle(image).clipPath") for shape in shapes]
    assert clips == ["inset(0px 0px 0px 100%)", "inset(0px 0%  0px 0px)".replace("  ", " ")]


def test_the_slider_follows_a_finger(made: Path, show: Show) -> None:
    one = show(made, has_touch=True, viewport={"width": 390, "height": 844})
    frame = one.locator(".card:has-text('cat-ink.png') .frame")
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    one.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 20)
    cut = str(frame.evaluate("box => box.style.getPropertyValue('--cut')"))
    assert abs(float(cut.rstrip("%")) - 50) <= 3
    width = one.evaluate("document.documentElement.scrollWidth")
    assert width <= 390


def test_all_of_it_can_be_done_with_keys(made: Path, show: Show) -> None:
    one = show(made)
    focused = "document.activeElement.id || document.activeElement.className"
    one.keyboard.press("/")
    assert one.evaluate(focused) == "search"
    one.keyboard.type("dog-")
    assert names(one) == ["dog-ink.png", "dog-oil.png"]
    one.keyboard.press("Escape")
    assert len(names(one)) == 7
    one.fill("#search", "dog-")
    one.locator(".card .open").first.focus()
    one.keyboard.press("Enter")
    assert one.inner_text("#detail-title") == "dog-ink.png"
    one.keyboard.press("ArrowLeft")
    assert one.inner_text("#detail-title") == "dog-ink.png"
    one.keyboard.press("ArrowRight")
    assert one.inner_text("#detail-title") == "dog-oil.png"
    slider = one.locator("#detail input")
    slider.focus()
    one.keyboard.press("ArrowRight")
    assert one.inner_text("#detail-title") == "dog-oil.png"
    assert slider.input_value() == "51"
    one.keyboard.press("Escape")
    assert not one.locator("#detail").is_visible()
    # A dialog tells of its closing a moment after it has closed.
    one.locator(".open:focus", has_text="dog-oil.png").wait_for()


def test_tab_goes_from_top_to_bottom_and_can_be_seen(made: Path, show: Show) -> None:
    one = show(made)
    tops = []
    for _ in range(14):
        one.keyboard.press("Tab")
        place = one.evaluate(
            """() => {
                const one = document.activeElement;
                const frame = one.closest(".frame") || one;
                return [scrollY + one.getBoundingClientRect().top,
                        getComputedStyle(frame).outlineStyle, one.tagName];
            }"""
        )
        assert place[1] != "none", place
        tops.append(place[0])
    # Within a row of cards or a bar tops differ by little.
    assert all(later > earlier - 320 for earlier, later in pairwise(tops))
    assert tops[-1] > tops[0]


def test_an_item_tells_its_figures_its_own_settings_and_where_it_is(made: Path, show: Show) -> None:
    one = show(made)
    one.click(".open:has-text('dog-ink.png')")
    facts = one.inner_text(".facts")
    assert "sampling.steps\n4" in facts
    assert "dog.png" in facts
    assert "ink.png" in facts
    assert str(2**62 + 2) in facts
    assert one.locator(".facts a").get_attribute("href") == "./dog-ink.png"
    # Below the page the file itself is shown, not its thumbnail.
    assert one.locator("#detail .result").get_attribute("src") == "./dog-ink.png"
    one.click("#close")
    one.click(".open:has-text('bad-oil.png')")
    assert "cat.png is cursed" in one.inner_text("#detail .frame")
    assert "copy it again" in one.inner_text("#detail .frame")


def test_a_result_that_went_after_the_report_is_shown_by_its_thumbnail(
    made: Path, show: Show, tmp_path: Path
) -> None:
    alone = shutil.copy(made, tmp_path / "alone.html")
    one = show(alone, complains=False)
    one.click(".open:has-text('cat-ink.png')")
    one.wait_for_function(
        "document.querySelector('#detail .result').src.startsWith('data:image/webp')"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_until_it_is_told(made: Path, show: Show, scheme: str) -> None:
    one = show(made, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(250, 249, 246)", "rgb(23, 23, 21)"
    assert one.evaluate(background) == (light if scheme == "light" else dark)
    one.click("#theme")
    assert one.evaluate(background) == light
    one.click("#theme")
    assert one.evaluate(background) == dark
    one.reload()
    assert one.evaluate(background) == dark


def test_names_are_text_whatever_they_hold(tmp_path: Path, show: Show) -> None:
    run = Run(tmp_path / "out")
    for n, name in enumerate(HOSTILE):
        content = draw(tmp_path / "in" / name, n)
        run.add(name, ("content", content), recipe={"sampling": {"prompt": name}})
        error = failure(f"{name}: {CLOSING}", name, code=name)
        run.add(f"failed {name}", ("content", content), **error)
    run.add(CLOSING, picture=False, command=CLOSING)
    title = f"</title>{CLOSING}"
    made = write([run.save()], contents=[str(tmp_path / "in")], title=title)
    one = show(made)
    assert one.title() == title
    found = one.locator(".card .open").evaluate_all("all => all.map(one => one.textContent)")
    assert sorted(found) == sorted([CLOSING, *HOSTILE, *(f"failed {name}" for name in HOSTILE)])
    for place in range(len(found)):
        one.locator(".card .open").nth(place).click()
        if href := one.locator(".facts a").evaluate_all("all => all.map(one => one.href)"):
            assert href[0].startswith("file:")
        one.click("#close")
    assert one.evaluate("window.hit") is None
    assert one.locator(".card img[src=x]").count() == 0


def test_scripts_that_got_into_the_page_do_not_run(made: Path, show: Show) -> None:
    one = show(made, complains=False)
    refused = one.evaluate(
        """() => new Promise((answer) => {
            const refused = new Set();
            document.addEventListener("securitypolicyviolation", (event) => {
                refused.add(`${event.effectiveDirective} ${event.blockedURI}`);
                if (refused.size === 3) answer([...refused].sort());
            });
            const box = document.createElement("div");
            box.innerHTML = "<img src='data:,x' onerror='window.hit = 1'><p style='color: red'>";
            document.body.append(box);
            new Image().src = "https://example.org/leak.png";
            setTimeout(() => answer([...refused].sort()), 5000);
        })"""
    )
    assert refused == [
        "img-src https://example.org/leak.png",
        "script-src-attr inline",
        "style-src-attr inline",
    ]
    assert one.evaluate("window.hit") is None


def test_ten_thousand_items_filter_at_once_on_a_small_page(tmp_path: Path, show: Show) -> None:
    folder = many(tmp_path / "out", 10_000)
    (folder / "report.files").mkdir()
    made = write([folder], contents=[str(folder / "in")])
    one = show(made)
    assert one.inner_text("#shown") == "10,000 items"

    def milliseconds(action: str) -> float:
        return float(
            one.evaluate(
                f"""() => {{
                    const began = performance.now();
                    {action};
                    document.body.offsetHeight;
                    return performance.now() - began;
                }}"""
            )
        )

    def setting(name: str, value: str, event: str) -> str:
        return (
            f"const one = document.getElementById({name!r}); one.value = {value!r}; "
            f"one.dispatchEvent(new Event({event!r}))"
        )

    actions = [
        setting("search", "photo 7", "input"),
        setting("search", "out-12", "input"),
        setting("search", "", "input"),
        setting("style", "look 3.png", "change"),
        setting("style", "", "change"),
        setting("sort", "metric:kept", "change"),
        setting("sort", "name", "change"),
        "document.querySelectorAll('#status button')[2].click()",
    ]
    took = {action: min(milliseconds(action) for _ in range(3)) for action in actions}
    assert max(took.values()) < 300, took
    assert one.inner_text("#shown") == "1,000 of 10,000"
    assert one.locator("*").count() < 2_500
    one.click("[aria-label='Last page']")
    assert one.inner_text("#pager span") == "Page 17 of 17"
    one.locator(".card .open").first.click()
    one.keyboard.press("ArrowLeft")
    title = one.inner_text("#detail-title")
    one.keyboard.press("Escape")
    # A dialog tells only a moment later that it was closed.
    one.wait_for_function("document.querySelector('#pager span').innerText === 'Page 16 of 17'")
    assert one.evaluate("document.activeElement.textContent") == title


def test_a_page_without_its_folder_says_which_one_it_misses(
    tmp_path: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.engine.report.page.INLINE_ITEMS", 5)
    folder = many(tmp_path / "out", 10)
    made = write([folder], page=tmp_path / "moved here.html", contents=[str(folder / "in")])
    whole = show(made)
    assert len(names(whole)) == 10
    # A browser looks into the files, whose names end in no picture's.
    whole.wait_for_function(
        "[...document.querySelectorAll('.card img')].some(one => one.complete && one.naturalWidth)"
    )
    whole.evaluate("document.querySelectorAll('.card img').forEach(one => one.loading = 'eager')")
    whole.wait_for_function(
        "[...document.querySelectorAll('.card img')].every(one => one.complete)"
    )
    shown = whole.locator(".card img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert len(shown) > 10
    assert min(shown) > 0
    assert data(made)["beside"] == "./moved%20here.files/"
    shutil.rmtree(tmp_path / "moved here.files")
    one = show(made, complains=False)
    assert "moved here.files" in one.inner_text("#items")


def test_on_paper_there_are_pictures_and_no_controls(made: Path, show: Show) -> None:
    one = show(made, color_scheme="dark")
    one.emulate_media(media="print")
    assert not one.locator("#bar").is_visible()
    assert one.locator(".card").first.is_visible()
    assert one.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
