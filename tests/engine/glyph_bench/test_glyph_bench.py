"""The paired benchmark: questions nobody trained on, and gains that mean what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from stylecli.artifacts import glyphs
from stylecli.artifacts.glyphs import FAMILIES, Icon
from stylecli.engine.glyph_bench import gains, questions
from stylecli.engine.glyph_bench.questions import Asked, Question
from stylecli.engine.glyph_bench.run import GlyphBench
from stylecli.engine.request import Prepared
from stylecli.engine.scoring.entries import Entry
from stylecli.errors import InputError, UsageError
from stylecli.recipe.schema import Recipe
from tests.engine.jobs import Listener

SHAPES = ("M2 2h12v12h-12z", "M8 1l7 14h-14z", "M1 8a7 7 0 1 0 14 0a7 7 0 1 0 -14 0z")
HELD_OUT = ("cat", "dna", "grinning-face")
KNOWN = ("airplane", "pizza", "mask")
DRAWN = ("noto", *(name for name, family in FAMILIES.items() if family.is_held_out))


def write_packages(folder: Path, families: tuple[str, ...] = DRAWN) -> Path:
    """npm packages of a few things, each family in colours of its own."""
    for index, family in enumerate(families):
        colour = f"#{(index + 1) * 40:02x}{255 - index * 40:02x}80"
        icons = {
            name: {"body": f'<path fill="{colour}" d="{SHAPES[k % 3]}"/>'}
            for k, name in enumerate((*HELD_OUT, *KNOWN))
        }
        (folder / family).mkdir(parents=True)
        (folder / family / "icons.json").write_text(json.dumps({"icons": icons}))
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(icons=write_packages(tmp_path / "icons"), output=tmp_path / "out", contents=3)


def draw_answer(asked: Asked, question: Question) -> None:
    answer = asked.output / "diffstyler" / f"{question.id}.png"
    answer.parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(answer)


def built(asked: Asked) -> list[Question]:
    found = questions.read(asked)
    questions.write(asked, found)
    return found


@pytest.mark.slow
def test_nothing_asked_for_was_ever_trained_on(asked: Asked) -> None:
    for question in built(asked):
        assert FAMILIES[question.family].is_held_out
        assert glyphs.content_is_held_out(question.content.content)
        assert question.target.family == question.family
        for icon in question.style:
            assert icon.family == question.family
            assert icon.content != question.target.content
            assert not glyphs.content_is_held_out(icon.content)


def test_a_relative_of_the_family_draws_the_ceiling(asked: Asked) -> None:
    for question in built(asked):
        has_one = question.family in questions.SIBLINGS
        assert (question.sibling is not None) == has_one
        if question.sibling:
            assert question.sibling.content == question.target.content
            assert question.sibling.family != question.family
            assert FAMILIES[question.sibling.family].is_held_out


@pytest.mark.slow
def test_styles_share_no_picture_and_take_their_turns(asked: Asked) -> None:
    found = built(replace(asked, styles=1, references=3))
    assert {len(question.style) for question in found} == {3}
    two = built(replace(asked, styles=2, references=1))
    of_one = [q for q in two if q.family == "openmoji"]
    assert [q.style_name for q in of_one] == ["openmoji-1", "openmoji-2", "openmoji-1"]
    assert of_one[0].style != of_one[1].style


@pytest.mark.slow
def test_the_same_pictures_are_drawn_again_and_say_whose_they_are(asked: Asked) -> None:
    built(asked)
    before = {p.name: p.read_bytes() for p in (asked.output / "pictures").rglob("*.png")}
    built(replace(asked, output=asked.output.with_name("again")))
    again = asked.output.with_name("again") / "pictures"
    assert before == {p.name: p.read_bytes() for p in again.rglob("*.png")}
    credit = (asked.output / "ATTRIBUTION.md").read_text()
    for family in DRAWN:
        assert f"{FAMILIES[family].author}, {FAMILIES[family].licence}" in credit


@pytest.mark.slow
def test_other_questions_in_the_same_folder_replace_the_pictures(asked: Asked) -> None:
    built(asked)
    built(replace(asked, px=128))
    for path in (asked.output / "pictures").rglob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (128, 128)


@pytest.mark.slow
def test_every_question_is_an_item_with_a_true_picture(asked: Asked) -> None:
    found = built(asked)
    for question in found[1:]:
        draw_answer(asked, question)
    questions.write_items(asked, found)
    lines = (asked.output / questions.ITEMS).read_text().splitlines()
    items = [json.loads(line) for line in lines]
    # The first was not answered: it is left out, and the others are scored.
    assert [i["id"] for i in items if i["method"] == "diffstyler"] == [q.id for q in found[1:]]
    for item in items:
        assert (asked.output / item["target"]).is_file()
        assert item["style_family"] in item["id"]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("method", sorted(questions.METHODS))
def test_every_method_is_asked_every_question_with_its_own_style(asked: Asked, method: str) -> None:
    found = built(replace(asked, references=2))
    folders = {"diffstyler": questions.LORAS, "i2l": questions.PREDICTED}
    folder = asked.output / folders.get(method, questions.LORAS)
    lora = folder / f"{found[0].style_name}.safetensors"
    prepared = list(_asked_of(method, asked, found))
    learned = [one for one in prepared if one.plan.jobs[0].output.suffix == ".safetensors"]
    jobs = [job for one in prepared if one not in learned for job in one.plan.jobs]
    assert {job.output for job in jobs} == {asked.output / method / f"{q.id}.png" for q in found}
    by_output = {job.output.stem: job for job in jobs}
    for q in found:
        look = by_output[q.id].inputs[1]
        if method in folders:
            assert look.path == folder / f"{q.style_name}.safetensors"
        else:
            assert look.path == asked.output / q.references()[0]
    assert bool(learned) == (method in folders) == lora.exists()


def _asked_of(method: str, asked: Asked, found: list[Question]) -> Iterator[Prepared]:
    """What it prepares; LoRAs that it has learned first are put there, of nothing."""
    recipe = questions.at_size(Recipe(), asked.px)
    for prepared in questions.METHODS[method](recipe, asked, found, Listener()):
        yield prepared
        for job in prepared.plan.jobs:
            if job.output.suffix == ".safetensors":
                job.output.parent.mkdir(exist_ok=True)
                save_file({}, job.output)


def test_a_method_that_nobody_knows_is_refused(asked: Asked) -> None:
    with pytest.raises(UsageError, match="style-id") as caught:
        GlyphBench.prepare(Recipe(), replace(asked, methods=["style-id"]), Listener())
    assert "did you mean styleid?" in caught.value.fix


def test_a_drawing_fills_nine_tenths_of_a_white_square() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16">'
        '<path fill="#00ff00" d="M7 6h2v4h-2z"/></svg>'
    )
    picture = questions.draw(Icon("noto", "cat", "cat", svg), 100)
    coloured = (picture[0] < 0.5).nonzero()
    top, left = coloured.min(dim=0).values.tolist()
    bottom, right = coloured.max(dim=0).values.tolist()
    assert bottom - top + 1 == pytest.approx(90, abs=2)
    assert right - left + 1 == pytest.approx(45, abs=2)
    assert abs((top + bottom) - (left + right)) <= 4
    assert picture[:, 0, 0].tolist() == [1, 1, 1]
    assert picture[:, 50, 50].tolist() == pytest.approx([0, 1, 0], abs=0.01)


def test_a_family_that_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    folder = write_packages(tmp_path / "icons", DRAWN[:-1])
    with pytest.raises(InputError) as caught:
        built(Asked(icons=folder, output=tmp_path / "out"))
    assert f"npm install @iconify-json/{DRAWN[-1]}" in caught.value.fix


def test_a_family_that_holds_answers_draws_no_contents(asked: Asked) -> None:
    with pytest.raises(UsageError, match="openmoji"):
        built(replace(asked, source="openmoji"))
    with pytest.raises(UsageError, match="multiple of 64"):
        built(replace(asked, px=100))


def entries(method: str, distances: list[float]) -> list[Entry]:
    return [
        Entry(
            id=f"i{k}", method=method, content=f"c{k % 3}", style=f"s{k // 3}",
            values={"t_palette": value}, features={}, reasons={},
        )
        for k, value in enumerate(distances)
    ]  # fmt: skip


def table(own: list[float], content: list[float], style: list[float], palette: list[float]):
    found = {"ours": own, "content_copy": content, "style_copy": style, "palette_transfer": palette}
    return {method: entries(method, values) for method, values in found.items()}


def gain(own: list[float], content: list[float], style: list[float], palette: list[float]):
    made = gains.measure(table(own, content, style, palette), "t_palette", seed=0, resamples=100)
    return {one.method: one for one in made}


CONTENT, STYLE, PALETTE = [2.0, 4, 1, 3, 5, 2], [3.0, 1, 2, 6, 2, 4], [1.0, 2, 0.5, 2, 3, 1]


def test_the_target_itself_is_a_gain_of_one_and_a_copy_is_none() -> None:
    perfect = gain([0.0] * 6, CONTENT, STYLE, PALETTE)["ours"]
    for value in (perfect.over_content, perfect.over_style, perfect.over_both, perfect.wins):
        assert value.value == 1
    assert perfect.closed.value == 1
    copied = gain(CONTENT, CONTENT, STYLE, PALETTE)["ours"]
    assert copied.over_content.value == 0
    assert copied.closed.value == pytest.approx(0)
    assert copied.wins.value == 0
    assert gain(CONTENT, CONTENT, STYLE, PALETTE)["style_copy"].over_style.value == 0


@pytest.mark.slow
@given(st.lists(st.floats(0.01, 10), min_size=6, max_size=6))
def test_gains_are_means_of_ratios_and_ratios_of_means(own: list[float]) -> None:
    found = gain(own, CONTENT, STYLE, PALETTE)["ours"]
    ratios = [1 - o / c for o, c in zip(own, CONTENT, strict=True)]
    assert found.over_content.value == pytest.approx(math.fsum(ratios) / 6)
    both = [1 - o / min(c, s) for o, c, s in zip(own, CONTENT, STYLE, strict=True)]
    assert found.over_both.value == pytest.approx(math.fsum(both) / 6)
    assert found.closed.value == pytest.approx(1 - math.fsum(own) / math.fsum(CONTENT))
    won = sum(o < c and o < p for o, c, p in zip(own, CONTENT, PALETTE, strict=True))
    assert found.wins.value == pytest.approx(won / 6)


def test_the_spread_of_a_ratio_of_means_is_that_of_its_jackknife() -> None:
    generator = torch.Generator().manual_seed(0)
    content = (1 + torch.rand(200, generator=generator)).tolist()
    own = (0.5 + torch.rand(200, generator=generator)).tolist()
    found = gains._linearised(own, content)
    whole = 1 - math.fsum(own) / math.fsum(content)
    for k in range(200):
        without = 1 - (math.fsum(own) - own[k]) / (math.fsum(content) - content[k])
        pseudo = 200 * whole - 199 * without
        assert found[k] == pytest.approx(pseudo, abs=0.02)


def test_a_content_that_already_is_the_target_is_counted_out() -> None:
    found = gain([1.0] * 6, [0.0, *CONTENT[1:]], STYLE, PALETTE)["ours"]
    assert (found.n, found.excluded) == (5, 1)


def test_similarities_are_turned_into_distances() -> None:
    assert gains.distance("t_edge", 1.0) == 0
    assert gains.distance("t-pocket-lpips", 0.25) == 0.25


@pytest.mark.slow
def test_best_and_worst_are_shown_side_by_side(tmp_path: Path, asked: Asked) -> None:
    from stylecli.engine.scoring.item import Item

    built(asked)
    made = table([0.5, 1, 3, 2, 2, 1], CONTENT, STYLE, PALETTE)
    order = gains.ranked(made, "ours", "t_palette")
    wanted = [1 - o / c for o, c in zip([0.5, 1, 3, 2, 2, 1], CONTENT, strict=True)]
    assert order == [f"i{k}" for k in sorted(range(6), key=lambda k: (-wanted[k], f"i{k}"))]
    pictures = sorted((asked.output / "pictures").rglob("*.png"))
    items = {
        id_: Item(
            id=id_, method="ours", output=pictures[0], content=pictures[1], style=(pictures[2],),
            target=pictures[3], place="",
        )
        for id_ in order
    }  # fmt: skip
    gains.sheet(tmp_path / "sheet.png", items, order)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 8 * gains.CELL
        pixels = torch.tensor(list(sheet.convert("L").resize((64, 64)).tobytes()))
    assert pixels.unique().numel() > 3
