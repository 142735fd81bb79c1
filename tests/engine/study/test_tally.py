"""Votes counted: what they say, and which of them are not votes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylecli.engine.study import counting, printed
from stylecli.engine.study.counting import Count
from stylecli.engine.study.key import COPY, Key
from stylecli.errors import InputError
from stylecli.evaluation.statistics import wilson
from tests.engine.study.conftest import (
    JACKDAW,
    METHODS,
    OURS,
    ZEPHYR,
    Bench,
    answers,
    prefers,
    save,
)

Cast = Callable[..., str]


def tally(bench: Bench, *files: str, **options: Any) -> Count:
    wanted = {"fastest_s": 2.0, "keep_all": False, "seed": 0, "resamples": 200} | options
    return counting.tally(bench.folder / "study", files, **wanted)


def share(count: Count, question: str, method: str, rival: str = OURS) -> counting.Share:
    (found,) = (
        s for s in count.shares if (s.question.key, s.method, s.rival) == (question, method, rival)
    )
    return found


def test_shares_are_of_votes_for_the_baseline_whatever_side_it_was_on(
    bench: Bench, votes: Cast
) -> None:
    key = bench.make().key
    fans = [votes(key, f"fan{n}", prefers(OURS)) for n in range(3)]
    others = [votes(key, f"other{n}", prefers(ZEPHYR, OURS)) for n in range(2)]
    count = tally(bench, *fans, *others)
    against = share(count, "overall", ZEPHYR)
    assert (against.chosen, against.n, against.ties) == (8, 20, 0)
    assert against.wilson == wilson(8, 20)
    assert against.crossed.low < 0.4 < against.crossed.high
    assert against.crossed.method in ("crossed bootstrap", "cluster bootstrap")
    assert share(count, "style", JACKDAW).chosen == 0
    assert count.left_out == []
    # Three questions, two baselines: six tests, of which three are at 0 of 20.
    assert share(count, "style", JACKDAW).p_holm == pytest.approx(6 * 2 / 2**20)


def test_who_always_takes_the_left_is_listed_and_left_out(tmp_path: Path, votes: Cast) -> None:
    bench = Bench(tmp_path).fill(tasks=10)
    key = bench.make(side_px=16).key
    files = [votes(key, f"rater{n}", prefers(OURS)) for n in range(4)]
    lazy = [[*row[:4], "A", *row[5:]] for row in answers(key, "lefty", prefers(OURS))]
    files.append(save(tmp_path / "votes" / "lefty.csv", lazy))
    count = tally(bench, *files)
    assert count.left_out == ["lefty"]
    (found,) = (rater for rater in count.raters if rater.name == "lefty")
    assert found.failed > found.checks / 3
    assert "checks" in found.faults[0]
    assert (found.lefts, found.sided) == (66, 66)
    assert found.side_p < 1e-12
    assert share(count, "overall", ZEPHYR).n == 40
    assert "left out: lefty" in printed.tables(count)[0].footnotes
    kept = tally(bench, *files, keep_all=True)
    assert (kept.left_out, share(kept, "overall", ZEPHYR).n) == ([], 50)
    assert [rater.name for rater in kept.raters if rater.faults] == ["lefty"]
    assert kept.agreements[2].lefts > count.agreements[2].lefts


def test_who_takes_the_content_for_a_style_fails_that_check(tmp_path: Path, votes: Cast) -> None:
    bench = Bench(tmp_path).fill(tasks=10)
    key = bench.make(side_px=16).key
    assert key.design.checks == (1, 1)
    blind = votes(key, "blind", lambda a, b, _: COPY if COPY in (a, b) else min(a, b))
    count = tally(bench, blind, votes(key, "sees", prefers()))
    assert [(r.name, r.failed, r.checks) for r in count.raters] == [("blind", 1, 2), ("sees", 0, 2)]


def test_who_is_too_fast_is_listed_and_left_out(bench: Bench, votes: Cast) -> None:
    key = bench.make().key
    files = [votes(key, "slow", prefers()), votes(key, "quick", prefers(), ms=1999)]
    count = tally(bench, *files)
    assert count.left_out == ["quick"]
    assert "2.0 s" in count.raters[0].faults[0]
    assert tally(bench, *files, fastest_s=1.9).left_out == []
    with pytest.raises(InputError, match="no rater is left: quick took"):
        tally(bench, files[1])


def test_ties_are_counted_and_are_in_no_share(bench: Bench, votes: Cast) -> None:
    key = bench.make(ties=True).key
    shrugs = votes(key, "shrugs", lambda a, b, q: None if q == "overall" else prefers()(a, b, q))
    count = tally(bench, shrugs, votes(key, "fan", prefers(ZEPHYR)))
    assert (share(count, "overall", ZEPHYR).n, share(count, "overall", ZEPHYR).ties) == (4, 4)
    assert share(count, "overall", ZEPHYR).share == 1
    bench.make(overwrite=True)
    with pytest.raises(InputError, match="another study"):
        tally(bench, shrugs)


def test_strengths_are_fitted_where_methods_meet_each_other(bench: Bench, votes: Cast) -> None:
    key = bench.make(all_pairs=True).key
    orders = [(OURS, ZEPHYR, JACKDAW), (ZEPHYR, JACKDAW, OURS), (JACKDAW, OURS, ZEPHYR)]
    files = [votes(key, f"r{n}", prefers(*order)) for n, order in enumerate(orders)]
    count = tally(bench, *files)
    # Each beats the next by two to one, in a circle: nobody is stronger.
    assert list(count.strengths["overall"].values()) == pytest.approx([1 / 3] * 3)
    assert share(count, "overall", ZEPHYR, JACKDAW).share == pytest.approx(2 / 3)
    assert any("Bradley" in table.title for table in printed.tables(count))
    alone = tally(bench, files[0])
    assert all(map(math.isnan, alone.strengths["overall"].values()))
    bench.make(overwrite=True)
    assert tally(bench, votes(Key.read(bench.folder / "study"), "x", prefers())).strengths == {}


def test_raters_who_agree_have_a_kappa_of_one(bench: Bench, votes: Cast) -> None:
    key = bench.make().key
    files = [votes(key, f"r{n}", prefers(ZEPHYR, OURS)) for n in range(3)]
    (first, *_) = tally(bench, *files).agreements
    assert (first.fleiss, first.krippendorff, first.items, first.raters) == (1, 1, 8, 3)
    partly = answers(key, "partly", prefers(JACKDAW))[:9]
    uneven = tally(bench, *files, save(bench.folder / "votes" / "p.csv", partly)).agreements[0]
    assert math.isnan(uneven.fleiss)
    assert -1 < uneven.krippendorff < 1


def test_the_interval_is_wider_than_wilsons_where_raters_differ(
    tmp_path: Path, votes: Cast
) -> None:
    bench = Bench(tmp_path).fill(tasks=20, methods=(OURS, ZEPHYR))
    key = bench.make(side_px=16).key
    # Each rater has one favourite for all items: twenty votes are worth hardly more than one.
    files = [votes(key, f"r{n}", prefers(METHODS[n % 2])) for n in range(8)]
    found = share(tally(bench, *files, resamples=1000), "overall", ZEPHYR)
    low, high = found.wilson
    assert found.share == 0.5
    assert 2 * found.crossed.half_width > 2 * (high - low)


def test_random_votes_are_about_half_and_agree_about_as_chance_has_it(
    tmp_path: Path, votes: Cast
) -> None:
    bench = Bench(tmp_path).fill(tasks=20)
    key = bench.make(side_px=16).key
    random = np.random.default_rng(5)
    files = [votes(key, f"r{n}", lambda a, b, _: (a, b)[random.integers(2)]) for n in range(6)]
    count = tally(bench, *files, keep_all=True)
    for one in count.shares:
        assert one.n == 120
        assert one.wilson[0] - 0.05 < 0.5 < one.wilson[1] + 0.05
    assert max(abs(one.krippendorff) for one in count.agreements) < 0.15
    assert min(one.side_p for one in count.agreements) > 0.01


def test_the_same_votes_count_once_and_others_of_the_same_rater_are_told(
    bench: Bench, votes: Cast
) -> None:
    key = bench.make().key
    file = votes(key, "r1", prefers(OURS))
    copy = save(bench.folder / "copy.csv", answers(key, "r1", prefers(OURS))[:5])
    twin = save(bench.folder / "twin.csv", answers(key, "r1", prefers(ZEPHYR)))
    count = tally(bench, file, copy)
    assert (count.ballots.repeated, count.ballots.contradicted) == (5, {})
    assert share(count, "overall", ZEPHYR).n == 4
    count = tally(bench, file, twin)
    assert count.ballots.contradicted["r1"] >= 12
    assert share(count, "overall", ZEPHYR).chosen == 0
    (row,) = printed.tables(count)[-1].rows
    assert "came twice and differed" in (row.cells[-1].text or "")


def test_raters_are_listed_by_number_and_no_p_is_printed_as_nothing(
    tmp_path: Path, votes: Cast
) -> None:
    bench = Bench(tmp_path).fill(tasks=8)
    key = bench.make(side_px=16).key
    count = tally(bench, *(votes(key, name, prefers(OURS)) for name in ("10", "anna", "9")))
    assert [rater.name for rater in count.raters] == ["9", "10", "anna"]
    details = printed.tables(count)[1]
    cell = details.rows[0].cells[-1]
    assert (cell.text, cell.value) == ("< 0.0001", count.shares[0].p_holm)
    assert 0 < count.shares[0].p_holm < 0.0001


def test_folders_and_globs_name_files_of_votes(bench: Bench, votes: Cast) -> None:
    key = bench.make().key
    for n in range(3):
        votes(key, f"r{n}", prefers())
    folder = bench.folder / "votes"
    for named in (str(folder), str(folder / "*.csv")):
        assert tally(bench, named, str(folder / "r0.csv")).ballots.files == 3
    for nothing in (str(bench.folder / "in"), str(folder / "z*.csv")):
        with pytest.raises(InputError, match="matches no file"):
            tally(bench, nothing)
    with pytest.raises(InputError, match=r"none\.csv: No such file"):
        tally(bench, str(folder / "none.csv"))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, "0" * 16, "a vote of another study"),
        (1, "=cmd()", "no id of a rater"),
        (1, "someone-else", "did not see the item"),
        (2, "abcdef", "did not see the item"),
        (5, "1000", "at place '1000'"),
        (3, "taste", "no question is called 'taste'"),
        (4, "C", "'C' was not offered"),
        (4, "tie", "'tie' was not offered"),
        (6, "-5", "no milliseconds"),
        (6, "1e3", "no milliseconds"),
    ],
)
def test_a_vote_that_cannot_have_been_cast_is_refused_with_its_line(
    at: int, value: str, message: str, bench: Bench
) -> None:
    rows = answers(bench.make().key, "r1", prefers())
    rows[3][at] = value
    file = save(bench.folder / "bad.csv", rows)
    with pytest.raises(InputError, match=message) as caught:
        tally(bench, file)
    assert caught.value.what.startswith(f"{file}:5  ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a file of votes"),
        (b"a,b\n1,2\n", "not a file of votes"),
        (b"study;rater;item;question;choice;order;shown_ms\n", "not a file of votes"),
        (b"study,rater,item,question,choice,order,shown_ms\n", "no votes in"),
        (b"study,rater,item,question,choice,order,shown_ms\na,b\n", "2 cells of 7"),
        (b'study,rater,item,question,choice,order,shown_ms\n"a,b\n', "unexpected end"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
    ],
)
def test_what_is_no_file_of_votes_is_refused(text: bytes, message: str, bench: Bench) -> None:
    bench.make()
    (bench.folder / "bad.csv").write_bytes(text)
    with pytest.raises(InputError, match=message):
        tally(bench, str(bench.folder / "bad.csv"))


def test_a_spreadsheets_mark_and_line_ends_do_no_harm(bench: Bench, votes: Cast) -> None:
    file = Path(votes(bench.make().key, "r1", prefers()))
    text = file.read_text()
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    assert share(tally(bench, str(file)), "overall", ZEPHYR).n == 4


def test_all_formats_hold_the_same_figures(bench: Bench, votes: Cast, tmp_path: Path) -> None:
    key = bench.make().key
    files = [votes(key, f"r{n}", prefers((ZEPHYR, OURS)[n % 2])) for n in range(3)]
    count = tally(bench, *files)
    printed.write(tmp_path / "table", count)
    texts = {path.suffix: path.read_text() for path in (tmp_path / "table").iterdir()}
    assert set(texts) == {".md", ".csv", ".tex", ".json"}
    value = share(count, "overall", ZEPHYR).share
    for kind in (".md", ".tex"):
        assert f"{100 * value:.1f}" in texts[kind], kind
        assert "preferred overall" in texts[kind]
    assert repr(100 * value) in texts[".csv"]
    record = json.loads(texts[".json"])
    found = {(s["question"], s["method"]): s["share"] for s in record["shares"]}
    assert found["overall", ZEPHYR] == value
    assert record["study"] == key.study
    assert texts[".csv"].count("label,kind") == 1
