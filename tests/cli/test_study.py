"""`style study make` and `style study tally` as users meet them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stylecli.engine.study.key import Key
from tests.cli.conftest import draw
from tests.conftest import ROOT, Style
from tests.engine.study.conftest import OURS, ZEPHYR, Bench, answers, prefers, save


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of results, named after what they were made from."""
    for content in ("cat", "dog"):
        draw(tmp_path / "photos" / f"{content}.png", len(content))
        for at, method in enumerate(("ours", "theirs")):
            draw(tmp_path / method / f"{content}__ink.png", 7 + at)
    draw(tmp_path / "styles" / "ink.png", 5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(style: Style, *more: object) -> object:
    return style("study", "make", "ours/", "theirs/", "--content", "photos/", "--style", "styles/",
                 "--ours", "ours", "-o", "study/", "--side", 32, *more)  # fmt: skip


def vote(study: Path, rater: str, folder: Path, *methods: str) -> str:
    key = Key.read(study)
    order = [*methods, *key.methods, "content_copy"]
    rows = answers(key, rater, lambda a, b, _: min(a, b, key=order.index))
    return save(folder / f"{rater}.csv", rows)


def test_from_folders_of_results_to_a_table(desk: Path, style: Style) -> None:
    done = make(style)
    assert (done.status, done.out) == (0, "study/index.html\n")
    assert "2 pairs; each rater sees 2 and 1 check; keep key.json to yourself" in done.err
    for rater in ("1", "2", "3"):
        vote(desk / "study", rater, desk / "votes", "theirs" if rater == "1" else "ours")
    done = style("study", "tally", "study/", "votes/*.csv", "-o", "table/")
    assert done.status == 0
    assert "### Votes for each baseline against ours, %" in done.out
    assert "| preferred overall | 33.3" in done.out
    assert done.out.rstrip() == (desk / "table" / "table.md").read_text().rstrip()
    assert {path.suffix for path in (desk / "table").iterdir()} == {".md", ".csv", ".tex", ".json"}
    with (desk / "table" / "table.csv").open(newline="") as lines:
        found = {(row["label"], row["metric"]): row["value"] for row in csv.DictReader(lines)}
    assert float(found["style captured", "theirs"]) == pytest.approx(100 / 3)


def test_programs_get_rows(desk: Path, style: Style) -> None:
    row, summary = make(style, "--json", "--per-rater", 1).rows
    assert row["status"] == "done"
    assert (row["items"], row["per_rater"], row["raters_for_a_round"]) == (2, 2, 2)
    assert (row["output"], row["key"]) == ("study/index.html", "study/key.json")
    assert summary["counts"] == {"done": 1, "items": 1}
    assert make(style, "--json", "--per-rater", 1).rows[0]["status"] == "skipped"
    vote(desk / "study", "1", desk / "votes")
    tables = style("study", "tally", "study", "votes", "-o", "table", "--json").rows[:-1]
    assert [one["table"] for one in tables][::3] == [
        "Votes for each baseline against ours, %",
        "Raters",
    ]
    assert tables[0]["cells"][0]["value"] == 0


def test_a_rater_who_is_not_believed_is_told_of_on_the_error_stream(
    desk: Path, style: Style
) -> None:
    make(style)
    vote(desk / "study", "good", desk / "votes")
    key = Key.read(desk / "study")
    lazy = [[*row[:4], "A", *row[5:]] for row in answers(key, "lefty", prefers("ours", "theirs"))]
    save(desk / "votes" / "lefty.csv", lazy)
    done = style("study", "tally", "study/", "votes/", "-o", "table/", "-q")
    assert done.status == 0
    assert done.err == "warning  rater lefty failed 1 of 1 checks: left out\n"
    assert "left out: failed 1 of 1 checks" in done.out
    done = style("study", "tally", "study/", "votes/", "-o", "table/", "-q", "--keep-all")
    assert "counted all the same" in done.err


def test_results_that_cannot_be_read_are_failed_items(tmp_path: Path, style: Style) -> None:
    bench = Bench(tmp_path).fill()
    bench.rows[0]["output"].write_bytes(b"no picture")
    done = style("study", "make", "--manifest", bench.manifest, "--ours", OURS, "--against", ZEPHYR,
                 "-o", tmp_path / "study", "--json")  # fmt: skip
    assert done.status == 3
    failed, made, summary = done.rows
    assert (failed["id"], failed["status"], failed["error"]["code"]) == (
        "task-0",
        "failed",
        "image",
    )
    assert made["items"] == 3
    assert made["methods"] == [OURS, ZEPHYR]
    assert summary["error"]["code"] == "items_failed"


@pytest.mark.parametrize(
    ("arguments", "status", "what"),
    [
        (["make", "ours/", "--ours", "ours", "-o", "s/"], 2, "all results are of one method"),
        (["make", "-o", "s/", "--ours", "ours"], 2, "no results were named"),
        (["make", "ours/", "theirs/", "-o", "s/"], 2, "missing option '--ours'"),
        (["make", "ours/", "theirs/", "--ours", "our", "-o", "s/"], 2, "no method is called 'our'"),
        (["make", "ours/", "theirs/", "--ours", "ours", "-o", "s/"], 2, "no content, and raters"),
        (["tally", "photos/", "votes.csv", "-o", "t/"], 2, "key.json: No such file"),
        (["tally", "study/", "photos/", "-o", "t/"], 2, "matches no file of votes"),
        (["tally", "study/", "other.csv", "-o", "t/"], 2, "not a file of votes"),
    ],
)
def test_mistakes_are_two_lines(
    arguments: list[str], status: int, what: str, desk: Path, style: Style
) -> None:
    make(style)
    (desk / "other.csv").write_text("a,b\n1,2\n")
    done = style("study", *arguments)
    assert done.status == status, done.err
    error, fix = done.err.splitlines()[-2:]
    assert error.startswith("error  ")
    assert what in error
    assert fix.startswith("fix    ")
    assert not {"s", "t"} & {path.name for path in desk.iterdir()}


def test_votes_on_another_page_are_refused(desk: Path, style: Style) -> None:
    make(style)
    file = vote(desk / "study", "1", desk / "votes")
    assert make(style, "--title", "Another").status == 3
    assert make(style, "--title", "Another", "--overwrite").status == 0
    done = style("study", "tally", "study/", file, "-o", "table/")
    assert done.status == 2
    assert "a vote of another study" in done.err
    assert not (desk / "table").exists()


def test_the_seed_makes_another_study(desk: Path, style: Style) -> None:
    make(style)
    record = json.loads((desk / "study" / "key.json").read_text())
    make(style, "--set", "evaluate.seed=5", "--overwrite")
    other = json.loads((desk / "study" / "key.json").read_text())
    assert (record["design"]["seed"], other["design"]["seed"]) == (0, 5)
    assert not set(record["pairs"]) & set(other["pairs"])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["make", "tally"])
def test_help_needs_neither_torch_nor_a_template_engine(verb: str) -> None:
    code = (
        f"import sys; from stylecli.cli.app import main; main(['study', '{verb}', '--help']); "
        "assert not {'torch', 'PIL', 'jinja2', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--output" in done.stdout
