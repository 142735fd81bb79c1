"""Committed files that are made from code: `nox -s goldens` rewrites them, drift fails here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable

import pytest

from stylecli import errors
from stylecli.cli.app import COMMANDS, GROUPS
from stylecli.errors import StyleError
from stylecli.recipe import words
from stylecli.recipe.load import schema_json
from stylecli.recipe.source import dotted
from tests.conftest import Style

Committed = Callable[[str, str], None]

ERRORS = """\
# Errors and exit statuses

A failure is two lines on standard error: what happened, and what to do about it. With `--json` the
last line of standard output is a summary with the same status and `error.code`. `--debug` shows the
traceback.

| status | `error.code` | when |
|---|---|---|
| 0 | | everything was done, or had been done already |
| 1 | | the work was done, but standard output could not be written |
{rows}
| 3 | `items_failed` | some items failed; the others are done, and the same command retries these |
| 130 | `interrupted` | Ctrl-C; the same command goes on from there |
| 143 | `interrupted` | terminated; the same command goes on from there |
"""

RECIPES = """\
# Recipe keys

Every key, what it accepts and its built-in default. Shipped recipes change some of them: see
`style recipes show NAME --resolved`.

| key | accepts | default | |
|---|---|---|---|
{rows}
"""

CLI = """\
# Commands

What `style COMMAND --help` says, or `--help-all` where a command has one: `--help` then leaves out
the panel "Unattended". Every command also takes `-h`.
{pages}"""

PAGES = ["", *GROUPS, *(command.name for command in COMMANDS)]


def tree() -> list[type[StyleError]]:
    found = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, StyleError)]
    return sorted(found, key=lambda error: (error.exit_status, len(error.__mro__)))


def test_the_error_page_is_current(committed: Committed) -> None:
    rows = "\n".join(
        f"| {error.exit_status} | `{error.code}` | {(error.__doc__ or '').splitlines()[0]} |"
        for error in tree()
    )
    committed("docs/errors.md", ERRORS.format(rows=rows))


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in tree()]
    assert len(set(codes)) == len(codes)


def test_the_schema_is_current(committed: Committed) -> None:
    committed("docs/recipe.schema.json", json.dumps(schema_json(), indent=2) + "\n")


def test_the_recipe_page_is_current(committed: Committed) -> None:
    rows = []
    for key in words.leaves():
        schema = words.schema_at(key) or {}
        default = json.dumps(schema.get("default"))
        cells = (f"`{dotted(key)}`", words.allowed(schema), f"`{default}`", schema["description"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    committed("docs/recipes.md", RECIPES.format(rows="\n".join(rows)))


def help_page(style: Style, command: str) -> str:
    words = command.split()
    done = style(*words, "--help-all")
    if done.status:
        done = style(*words, "--help")
    assert done.status == 0
    return "\n".join(line.rstrip() for line in done.out.strip("\n").splitlines()) + "\n"


@pytest.mark.parametrize("command", PAGES)
def test_help_pages_are_current(command: str, style: Style, committed: Committed) -> None:
    name = "-".join(["style", *command.split()])
    committed(f"tests/golden/help/{name}.txt", help_page(style, command))


def test_the_page_of_commands_is_current(style: Style, committed: Committed) -> None:
    pages = [
        f"\n## style {command.name}\n\n```text\n{help_page(style, command.name)}```\n"
        for command in COMMANDS
    ]
    committed("docs/commands.md", CLI.format(pages="".join(pages)))


def test_no_help_page_is_left_over() -> None:
    from tests.conftest import ROOT

    names = {f"{'-'.join(['style', *page.split()])}.txt" for page in PAGES}
    assert {file.name for file in (ROOT / "tests/golden/help").iterdir()} == names
