"""Command lines that people copy from pages name commands and options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from stylecli.cli.app import COMMANDS
from stylecli.pocket.edits import KNOWN
from tests.conftest import ROOT, Style

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What `docs/commands.md` shows is printed by the program itself.
GENERATED = {"commands.md"}


def lines() -> list[tuple[str, str]]:
    """Every `style …` line of a block, and every one between backticks."""
    found: list[tuple[str, str]] = []
    for page in (page for page in PAGES if page.name not in GENERATED):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```sh\n(.*?)^```|((?:^ {4}.*\n)+)", text, re.MULTILINE | re.DOTALL)
        own = re.findall(r"`(style [a-z][^`]*)`", text)
        for block in map("".join, blocks):
            own += re.findall(r"^(?:[\d* ]*  +)?(style .*)", block, re.MULTILINE)
        found += [(page.name, line) for line in own]
    return found


@pytest.fixture(scope="module")
def help_pages() -> dict[str, str]:
    """By command: drawn once, however many lines name it."""
    return {}


@pytest.mark.parametrize(("page", "line"), lines())
def test_a_line_to_copy_names_what_exists(
    page: str, line: str, style: Style, help_pages: dict[str, str]
) -> None:
    words = shlex.split(line.split(" > ")[0].split(" | ")[0], comments=True)
    names = {command.name for command in COMMANDS}
    name = next((n for n in (" ".join(words[1:3]), words[1]) if n in names), None)
    if name is None:
        # A group, or several verbs at once (`models list|pull`).
        assert {n.split()[0] for n in names} & {words[1]}, line
        return
    if name not in help_pages:
        words_of_name = name.split()
        help_pages[name] = (
            style(*words_of_name, "--help-all").out or style(*words_of_name, "--help").out
        )
    for word in words[2:]:
        if word.startswith("-") and word != "-":
            assert re.search(
                rf"(?<![\w-]){re.escape(word.split('=')[0])}(?![\w-])", help_pages[name]
            ), line


def test_there_are_lines_to_check() -> None:
    assert len(lines()) > 25
    assert {page for page, _ in lines()} >= {"README.md", "evaluation.md", "index.md"}


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / Path(target)).exists(), f"{page.name}: {target}"


def test_the_figures_of_predicted_loras_are_those_that_were_measured() -> None:
    measured = (ROOT / "docs/images/i2l.md").read_text(encoding="utf-8").strip()
    assert measured in (ROOT / "docs/methods/i2l.md").read_text(encoding="utf-8")


def test_the_figures_of_edits_by_instruction_are_those_that_were_measured() -> None:
    measured = (ROOT / "docs/images/route.md").read_text(encoding="utf-8").strip()
    assert measured in (ROOT / "docs/methods/regionroute.md").read_text(encoding="utf-8")


def test_the_page_names_all_things_that_the_small_editor_knows() -> None:
    page = (ROOT / "docs/methods/regionroute.md").read_text(encoding="utf-8")
    assert ", ".join(sorted(KNOWN)) in " ".join(page.replace("> ", "").split())
