"""`style demo`: every line of it, in order, and one page of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from stylecli.cli import app, listening
from stylecli.cli.console import console
from stylecli.engine import demo
from tests.conftest import Style


def made_by(words: Sequence[str]) -> list[Path]:
    """What a line of the demo says that it writes."""
    target = words[words.index("-o") + 1]
    if not target.endswith("/"):
        return [Path(target)]
    prompts = [words[at + 1] for at, word in enumerate(words) if word == "-p"]
    return [Path(target) / f"{prompt.replace(' ', '-')}__night.png" for prompt in prompts]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The demo's lines, of which each is carried out by drawing a grey square."""
    lines: list[list[str]] = []
    invoke = app.invoke

    def draw(words: Sequence[str], *given: object) -> int:
        if words[0] == "demo":
            return invoke(words, *given)
        lines.append([*words])
        for file in made_by(words):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".png":
                Image.new("RGB", (64, 64), "grey").save(file)
        return 0

    monkeypatch.setattr(app, "invoke", draw)
    return lines


def test_all_lines_are_typed_and_all_pictures_shown(
    style: Style, typed: list[list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "de mo"
    done = style("demo", "-o", folder)
    assert done.status == 0, done.err
    assert done.out.splitlines() == [str(folder / demo.SHEET)]
    assert [line[0] for line in typed] == [step.line.split()[0] for step in demo.STEPS]
    assert f"1/{len(demo.STEPS)}  $ style train-lora '{folder}/brush.png'" in done.err
    page = Image.open(folder / demo.SHEET)
    assert page.height > demo.HEIGHT_PX * sum(bool(step.pictures) for step in demo.STEPS)
    assert style("demo", "-o", folder, "--json").rows[0]["output"] == str(folder / demo.SHEET)
    assert all(line[-1] == "--json" for line in typed[-len(demo.STEPS) :])


def test_pictures_of_yours_are_not_written_over(
    style: Style, typed: list[list[str]], tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "cat.png")
    before = (tmp_path / "cat.png").read_bytes()
    done = style("demo", "-o", tmp_path)
    assert done.status == 3
    assert "cat.png is a picture of yours" in done.err
    assert (tmp_path / "cat.png").read_bytes() == before
    assert not typed


def test_a_name_that_lines_cannot_carry_is_refused(
    style: Style, typed: list[list[str]], tmp_path: Path
) -> None:
    done = style("demo", "-o", tmp_path / "a=b@c")
    assert done.status == 2
    assert "= @ means something else" in done.err
    assert not (tmp_path / "a=b@c").exists()
    assert not typed


def test_a_line_that_fails_ends_it_and_is_named(
    style: Style, typed: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = app.invoke

    def fail(words: Sequence[str], *given: object) -> int:
        if words[0] == "switch":
            console.result({"output": "x.png", "status": "failed", "error": {"what": "no"}})
            return 0
        return draw(words, *given)

    monkeypatch.setattr(app, "invoke", fail)
    done = style("demo", "-o", tmp_path)
    assert done.status == 3
    assert "the demo ends at: style switch" in done.err
    assert not (tmp_path / demo.SHEET).exists()


@pytest.mark.slow
def test_the_demo_itself(style: Style, tmp_path: Path) -> None:
    done = style("demo", "-o", tmp_path, "-q")
    assert done.status == 0, done.err
    shown = {name for step in demo.STEPS for name in step.pictures}
    for name in shown - demo.PICTURES.keys():
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"), dtype=float)
        assert pixels.std() > 8, f"{name} is flat"


@pytest.mark.parametrize("step", demo.STEPS, ids=lambda step: step.line.split(maxsplit=1)[0])
def test_every_line_is_one_that_the_program_knows(step: demo.Step, tmp_path: Path) -> None:
    words = step.words(tmp_path / "a b")
    command, given = listening.glimpse(get_command(app.app), words)
    assert command == words[0]
    assert command in {row.name for row in app.COMMANDS}
    assert str(given["output"]).startswith(str(tmp_path / "a b"))
    assert not any("{" in word for word in words)


def test_what_a_row_shows_is_given_or_was_made_by_then() -> None:
    there = set(demo.PICTURES)
    for step in demo.STEPS:
        there |= {file.as_posix() for file in made_by(step.words(Path()))}
        assert there >= set(step.pictures), step.title
