"""`style report` as users meet it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import draw
from tests.conftest import ROOT, Style
from tests.engine.report.conftest import Run, data, failure

pytestmark = pytest.mark.slow


def made(folder: Path) -> Path:
    """A run of two items, one of them failed, with its content elsewhere."""
    cat = draw(folder / "photos" / "cat.png")
    run = Run(folder / "out")
    run.add("a.png", ("content", cat))
    run.add("b.png", ("content", cat), **failure("cat.png is damaged"))
    return run.save()


def test_the_page_lies_in_the_folder_and_its_name_is_the_result(
    tmp_path: Path, style: Style
) -> None:
    folder = made(tmp_path)
    found = style("report", folder, "--content", tmp_path / "photos")
    assert (found.status, found.out) == (0, f"{folder / 'report.html'}\n")
    assert "not found" not in found.err
    items = data(folder / "report.html", "item-data")
    assert [item["status"] for item in items] == ["done", "failed"]


def test_failures_of_the_run_are_no_failures_of_its_report(tmp_path: Path, style: Style) -> None:
    found = style("report", made(tmp_path), "--json", "-o", tmp_path / "page.html")
    row, summary = found.rows
    assert row["items"] == {"done": 1, "failed": 1}
    assert (summary["exit_status"], summary["counts"]) == (0, {"done": 1, "items": 1})


def test_inputs_that_were_not_found_are_said_with_what_to_do(tmp_path: Path, style: Style) -> None:
    folder = made(tmp_path)
    found = style("report", folder, "--content", folder)
    assert "1 input was not found (cat.png)" in found.err
    assert "--content" in found.err


def test_what_is_no_run_is_refused_in_two_lines(tmp_path: Path, style: Style) -> None:
    found = style("report", tmp_path)
    assert found.status == 2
    assert "has no journal" in found.err
    assert "fix " in found.err
    assert not list(tmp_path.iterdir())


def test_several_runs_share_a_page_with_the_title_given(tmp_path: Path, style: Style) -> None:
    one, two = made(tmp_path / "1"), made(tmp_path / "2")
    page = tmp_path / "both.html"
    assert style("report", one, two, "-o", page, "--title", "Two <runs>").status == 0
    assert "<h1>Two &lt;runs&gt;</h1>" in page.read_text("utf-8")
    assert data(page)["folders"] == ["out", "out (2)"]


def test_help_needs_neither_torch_nor_a_template_engine() -> None:
    code = (
        "import sys; from stylecli.cli.app import main; main(['report', '--help']); "
        "assert not {'torch', 'PIL', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--content" in done.stdout
