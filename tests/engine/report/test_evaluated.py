"""The page of an evaluation: what it takes from the rows, and what it draws of the figures."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylecli.engine.report import charts, evaluated, evaluation_page
from stylecli.engine.report.evaluated import Columns, Evaluated
from stylecli.errors import InputError, UsageError
from tests.engine.report.judged import Judged, digest, judged

NUMBERS = {"near": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "far": [0.1, 0.2, math.nan, 0.3, 0.4, 0.5]}


@pytest.fixture
def made(tmp_path: Path) -> Judged:
    return judged(tmp_path, NUMBERS)


def written(one: Judged, *places: Path, page: Path | None = None) -> str:
    made = evaluation_page.write(one.folder, places or [one.pictures], page)
    return made.page.read_text("utf-8")


def data(text: str, name: str = "data") -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def test_best_and_worst_are_those_of_the_numbers_whichever_way_is_better(made: Judged) -> None:
    found = data(written(made))

    def ids(metric: str, kind: str) -> list[str]:
        return [found["items"][at]["id"] for at in found["picks"][metric]["near"][kind]]

    assert ids("ssim", "best") == [f"photo {n}__ink" for n in (0, 1, 2)]
    assert ids("ssim", "worst") == [f"photo {n}__ink" for n in (5, 4, 3)]
    # Less is better: the other end of the same order.
    assert ids("color_sw", "best") == ids("ssim", "worst")
    # What has no number is neither.
    far = found["picks"]["ssim"]["far"]
    missing = next(at for at, one in enumerate(found["items"]) if one["id"] == "photo 2__ink")
    assert missing not in {at for some in far.values() for at in some}
    assert [len(far[kind]) for kind in ("best", "middle", "worst")] == [2, 1, 2]
    assert found["items"][missing]["reasons"]["far"] == {"ssim": "too small"}


def test_two_methods_are_shown_where_each_is_ahead_by_most(made: Judged) -> None:
    found = data(written(made))
    pair = found["pairs"]["ssim"]
    assert [found["items"][at]["id"] for at in pair["first"]][:2] == [
        "photo 0__ink",
        "photo 1__ink",
    ]
    assert [found["items"][at]["id"] for at in pair["second"]] == ["photo 5__ink"]


def test_pictures_are_told_by_name_and_by_what_they_hold(made: Judged, tmp_path: Path) -> None:
    text = written(made)
    found, pictures = data(text), data(text, "picture-data")
    shown = {one["content"] for one in found["items"]}
    shown |= {of["picture"] for one in found["items"] for of in one["outputs"].values()}
    assert None not in shown
    assert all(pictures[at].startswith("data:image/webp") for at in shown)
    # Outputs of both methods have the same names.
    assert len(shown) == len(found["items"]) * 3
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in (made.pictures / "near").iterdir():
        shutil.copy(made.pictures / "far" / place.name, elsewhere)
    bare = evaluation_page.write(made.folder, [elsewhere], tmp_path / "bare.html")
    assert "photo 0.png" in bare.not_found
    of_bare = data(bare.page.read_text("utf-8"))
    assert all(one["outputs"]["near"]["picture"] is None for one in of_bare["items"])
    assert any(one["outputs"]["far"]["picture"] is not None for one in of_bare["items"])


def test_charts_place_values_in_order_and_mark_the_best_method(made: Judged) -> None:
    one = evaluated.read(made.folder)
    figures = {method: one.figures[method]["ssim"] for method in one.methods}
    found = charts.chart("ssim", one.metrics["ssim"], figures, ["content_copy"])
    near, far, copy = found.lines
    assert (near.x or 0) > (far.x or 0)
    assert (near.is_best, far.is_best, copy.is_best) == (True, False, False)
    assert copy.is_anchor
    assert far.low is not None
    assert far.x is not None
    assert far.high is not None
    assert charts.LEFT < far.low < far.x < far.high < charts.RIGHT
    lower = charts.chart("x", {"better": "lower"}, figures, ["content_copy"])
    assert [line.is_best for line in lower.lines] == [False, True, False]


@given(
    st.lists(
        st.none() | st.floats(-9e299, 9e299) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=5
    )
)
@settings(max_examples=50, deadline=None)
def test_whatever_the_numbers_are_dots_stay_in_the_chart(values: list[float | None]) -> None:
    figures = {str(n): {"value": value} for n, value in enumerate(values)}
    found = charts.chart("x", {"better": "higher"}, figures, [])
    for line, value in zip(found.lines, values, strict=True):
        assert (line.x is None) == (value is None)
        assert line.x is None or charts.LEFT <= line.x <= charts.RIGHT


def test_a_difference_points_to_the_better_method() -> None:
    one = {"metric": "x", "difference": {"value": 0.2, "low": 0.1, "high": 0.3}, "p_holm": 0.001}
    more, less = (charts.difference(one, sign, 0.05) for sign in (1, -1))
    assert more is not None
    assert less is not None
    assert more.x > 0 > less.x
    assert (more.verdict, less.verdict) == ("better", "worse")
    assert (more.low, more.high) == (-less.high, -less.low)
    undecided = charts.difference(one | {"p_holm": 0.2}, 1, 0.05)
    assert undecided is not None
    assert undecided.verdict == ""
    assert charts.difference({"metric": "x", "difference": {"value": None}}, 1, 0.05) is None


def test_a_plot_of_many_items_shows_as_many_as_can_be_told_apart() -> None:
    table = Columns([str(n) for n in range(10_000)], {})
    some = evaluated.points(table)
    assert len(some) <= evaluated.MOST_POINTS
    assert np.diff(some).min() == np.diff(some).max()


def test_the_page_has_every_figure_and_says_what_is_missing(made: Judged) -> None:
    text = written(made)
    for said in ("Content kept", "Style reached", "near against far", "needs alexnet"):
        assert said in text
    assert "two of each are needed" not in text.partition("<main>")[0]
    assert "far: 1 without a value" in text
    assert "content_copy" in text


def test_the_same_folder_gives_the_same_bytes_and_names_no_folder(
    made: Judged, tmp_path: Path
) -> None:
    first, second = (written(made, page=tmp_path / f"{n}.html") for n in "ab")
    assert first == second
    assert str(tmp_path) not in first


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    one = judged(tmp_path, {hostile.replace("/", "\u2215"): [0.1, 0.2], "<b>": [0.2, 0.3]})
    text = written(one)
    assert "<b>" not in text.replace("<b>ssim", "").replace("<b>color_sw", "")
    assert "<img src=x" not in text


def test_rows_that_hold_anything_at_all_are_passed_over(made: Judged) -> None:
    path = made.folder / "per_image.jsonl"
    junk = ['{"id": 3}', "[]", "{", '{"id": "a", "method": "near", "ssim": "much"}', "\x00"]
    path.write_text("\n".join([*junk, path.read_text()]))
    assert data(written(made))["picks"]["ssim"]["near"]["best"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"methods": {}}', '{"methods": 3}'])
def test_figures_that_cannot_be_read_are_refused(made: Judged, text: str) -> None:
    (made.folder / "aggregate.json").write_text(text)
    with pytest.raises(InputError, match=r"aggregate\.json"):
        written(made)


def test_evaluations_are_told_from_runs(made: Judged, tmp_path: Path) -> None:
    assert evaluation_page.among([str(tmp_path), str(made.folder)]) == made.folder
    assert evaluation_page.among([str(tmp_path)]) is None
    assert evaluation_page.among([str(made.folder)] * 2) == made.folder
    other = tmp_path / "other"
    shutil.copytree(made.folder, other)
    with pytest.raises(UsageError, match="evaluations of their own"):
        evaluation_page.among([str(made.folder), str(other)])


def test_a_file_of_another_kind_is_not_overwritten(made: Judged) -> None:
    (made.folder / "report.html").write_text("mine")
    with pytest.raises(UsageError, match="not a report of ours"):
        written(made)
    assert (made.folder / "report.html").read_text() == "mine"


def test_the_digest_is_the_one_that_rows_carry(tmp_path: Path) -> None:
    from stylecli.artifacts.features import FeatureStore

    file = tmp_path / "a.png"
    file.write_bytes(b"anything")
    with FeatureStore(tmp_path / "f.sqlite") as store:
        assert store.file_digest(file) == digest(file)
    wanted = {("a.png", digest(file))}
    assert evaluation_page.located(wanted, [tmp_path]) == {("a.png", digest(file)): file}


def test_anchors_take_no_part_in_best_and_worst(made: Judged) -> None:
    one = evaluated.read(made.folder)
    table = evaluated.columns(one)
    assert list(table.values["ssim"]) == ["near", "far"]
    assert isinstance(one, Evaluated)
    assert np.isnan(table.values["ssim"]["far"][2])
