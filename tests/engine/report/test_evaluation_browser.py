"""The page of an evaluation in a browser: choosing what is compared, and seeing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stylecli.engine.report import evaluation_page
from tests.engine.report.judged import judged

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Page

Show = Callable[..., "Page"]
NUMBERS = {"near": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "far": [0.1, 0.2, 0.3, 0.3, 0.4, 0.5]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    one = judged(tmp_path_factory.mktemp("judged"), NUMBERS)
    return evaluation_page.write(one.folder, [one.pictures]).page


def order(one: Page) -> list[str]:
    return one.locator("#items .id").all_inner_texts()


def test_best_and_worst_follow_the_metric_and_the_method(made: Path, show: Show) -> None:
    one = show(made)
    assert order(one)[0] == "photo 0__ink"
    one.select_option("#metric", "color_sw")
    assert order(one)[0] == "photo 5__ink"
    one.select_option("#by", "method:far")
    assert order(one)[0] == "photo 0__ink"
    assert one.locator("#items .look").first.locator(".asked figcaption").inner_text() == "far 1"
    one.select_option("#by", "pair:")
    titles = one.locator("#items .kind").all_inner_texts()
    assert titles == [
        "Where near is ahead of far by most",
        "Where far is ahead of near by most",
    ]
    pictures = one.locator("#items img")
    assert pictures.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 0)")


def test_points_lie_where_their_numbers_are_and_open_their_item(made: Path, show: Show) -> None:
    one = show(made)
    assert one.locator("#dots circle").count() == 6
    said = one.locator("#plot-said")
    assert "near is better on 5, far on 1" in said.inner_text()
    first = one.locator("#dots circle").first
    # Up is near, with 0.9; across is far, with 0.1.
    assert float(first.get_attribute("cx") or 0) < 210 > float(first.get_attribute("cy") or 0)
    first.click()
    assert one.locator("#dot-item .id").inner_text() == "photo 0__ink"
    one.select_option("#plot-metric", "color_sw")
    assert "near is better on 1, far on 5" in said.inner_text()


def test_figures_need_no_script(made: Path, show: Show) -> None:
    text = made.read_text("utf-8").partition("<script")[0]
    assert text.count("<circle") >= 6
    assert "near against far" in text


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(made: Path, show: Show, width: int) -> None:
    one = show(made, viewport={"width": width, "height": 800})
    assert one.evaluate("document.documentElement.scrollWidth") <= width
