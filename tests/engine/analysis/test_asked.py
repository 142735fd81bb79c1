"""Levels, layers and pictures as they are typed, and the line that asks for the same again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import tensor

from stylecli.backbone.levels import Levels
from stylecli.engine.analysis.asked import Asked, nearest, numbers, split
from stylecli.engine.analysis.subjects import Subject, subjects
from stylecli.errors import InputError, UsageError
from stylecli.recipe.load import load
from tests.cli.conftest import draw

FIFTY = Levels(tuple(range(1, 1000, 20)), (1.0,) * 51)


# Where to look.


def test_the_papers_timestep_is_step_22_of_50() -> None:
    (level,) = nearest(FIFTY, [540])
    assert (level.timestep, level.step) == (541, 22)
    assert str(level) == "t 540 -> 541, step 22"


@given(
    st.lists(st.integers(0, 999), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, 999), min_size=1, max_size=6),
)
def test_no_level_is_nearer_and_none_is_there_twice(grid: list[int], asked: list[int]) -> None:
    found = nearest(Levels(tuple(grid), (1.0,) * (len(grid) + 1)), asked)
    for level in found:
        assert abs(level.timestep - level.asked) == min(abs(t - level.asked) for t in grid)
        # Sampling starts at the noisiest.
        assert sorted(grid, reverse=True)[level.step] == level.timestep
    assert len({level.timestep for level in found}) == len(found)
    assert {level.asked for level in found} <= set(asked)


@given(st.sets(st.integers(0, 11), min_size=1))
def test_layers_are_run_in_their_order_whatever_order_they_are_named_in(wanted: set[int]) -> None:
    typed = ", ".join(map(str, sorted(wanted, reverse=True)))
    assert numbers(typed, 12) == tuple(sorted(wanted))


def test_ranges_of_layers_and_all_of_them() -> None:
    assert numbers("4-6,2, 5", 12) == (2, 4, 5, 6)
    assert numbers("all", 9) == tuple(range(9))


@pytest.mark.parametrize("text", ["", "x", "1,", "-1", "5-4", "1.5", "٣", "99999"])
def test_what_is_no_layer_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no layer"):
        numbers(text, 12)


def test_a_layer_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(UsageError, match="no layer 12") as caught:
        numbers("2,5-12", 12)
    assert "layers 0 to 11" in caught.value.fix


@pytest.mark.parametrize("text", ["icons/", "=x.safetensors", "icons/="])
def test_a_domain_has_pictures_and_a_lora(text: str) -> None:
    with pytest.raises(UsageError, match="PICTURES=LORA"):
        split(text)


# Which pictures, with which LoRAs.


class Desk:
    """Two LoRAs, pictures in their looks, and photographs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ink, self.oil = (folder / f"{name}.safetensors" for name in ("ink", "oil"))
        for number, file in enumerate((self.ink, self.oil)):
            save_file({"x": tensor([float(number)])}, file)
        for number, name in enumerate(("ink/a", "ink/b", "oil/a", "photos/c")):
            draw(folder / f"{name}.png", seed=number)

    def found(self, **asked: object) -> dict[str, Subject]:
        whole = Asked(kind="similarity", **asked)  # type: ignore[arg-type]
        found = subjects(whole, 0.5, self.folder / "out")
        return {one.content.path.relative_to(self.folder).as_posix(): one for one in found}

    def domains(self) -> list[str]:
        return [f"{self.folder / name}={self.folder / name}.safetensors" for name in ("ink", "oil")]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def domains(subject: Subject) -> dict[str, str]:
    return {look.part.look.path.stem: look.domain for look in subject.looks}


def test_pictures_of_a_domain_are_out_of_every_other(desk: Desk) -> None:
    found = desk.found(domains=desk.domains(), contents=[str(desk.folder / "photos")])
    assert {name: domains(one) for name, one in found.items()} == {
        "ink/a.png": {"ink": "in", "oil": "out"},
        "ink/b.png": {"ink": "in", "oil": "out"},
        "oil/a.png": {"ink": "out", "oil": "in"},
        "photos/c.png": {"ink": "out", "oil": "out"},
    }
    assert [found[name].home for name in sorted(found)] == ["ink", "ink", "oil", ""]
    assert [found[name].typed for name in sorted(found)] == [False, False, False, True]
    assert all(look.part.weight == 0.5 for one in found.values() for look in one.looks)


def test_without_domains_nobody_says_what_is_in_and_out(desk: Desk) -> None:
    found = desk.found(contents=[str(desk.folder / "photos")], loras=[desk.ink, desk.oil])
    assert domains(found["photos/c.png"]) == {"ink": "", "oil": ""}


def test_a_lora_that_is_named_twice_is_one(desk: Desk) -> None:
    found = desk.found(domains=desk.domains(), loras=[desk.oil, desk.ink])
    assert domains(found["ink/a.png"]) == {"ink": "in", "oil": "out"}


def test_a_picture_to_learn_from_is_a_look_like_any(desk: Desk) -> None:
    found = desk.found(
        contents=[str(desk.folder / "photos")], styles=[str(desk.folder / "oil")], loras=[desk.ink]
    )
    assert [look.part.look.role for look in found["photos/c.png"].looks] == ["lora", "style"]


def write(desk: Desk, text: str) -> Path:
    file = desk.folder / "cases.csv"
    file.write_text(text)
    return file


def test_a_manifest_says_which_picture_meets_which_lora(desk: Desk) -> None:
    file = write(
        desk,
        "content,lora,style,domain\nink/a.png,ink.safetensors,,in\n"
        "photos/c.png,ink.safetensors,,out\nphotos/c.png,,oil/a.png,\nink/b.png,,,\n",
    )
    found = desk.found(manifest=file, loras=[desk.oil])
    assert {name: domains(one) for name, one in found.items()} == {
        "ink/a.png": {"ink": "in"},
        "photos/c.png": {"ink": "out", "a": ""},
        "ink/b.png": {"oil": ""},
    }
    assert [one.folder for one in found.values()] == ["ink", "photos", "ink"]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("ink/a.png,ink.safetensors,,around", "domain 'around' is unknown"),
        (",ink.safetensors,,in", "no 'content'"),
        ("ink/a.png,none.safetensors,,in", "does not exist"),
        ("nowhere.png,ink.safetensors,,in", "no other content does"),
        ("ink/a.png,ink.safetensors,,in\nink/a.png,ink.safetensors,,out", "and once not"),
        ("ink/a.png,,,in", "no LoRA was named"),
    ],
)
def test_rows_that_cannot_be_are_refused(desk: Desk, rows: str, what: str) -> None:
    file = write(desk, f"content,lora,style,domain\n{rows}\n")
    with pytest.raises((InputError, UsageError), match=what):
        desk.found(manifest=file)


def test_nothing_to_look_at_and_nothing_to_look_with_are_refused(desk: Desk) -> None:
    with pytest.raises(InputError, match="no picture"):
        desk.found(loras=[desk.ink])
    with pytest.raises(UsageError, match="no LoRA"):
        desk.found(contents=[str(desk.folder / "photos")])
    with pytest.raises(InputError, match="is a picture"):
        desk.found(contents=[str(desk.folder)], loras=[desk.folder / "ink/a.png"])


# The line.


def test_the_line_names_no_folder_of_this_machine(desk: Desk) -> None:
    recipe = load(overrides=["sampling.size=128", "sampling.prompt=a cat's tail"]).recipe
    asked = Asked(
        kind="similarity",
        contents=["photos/*.png", "/home/me/x.png"],
        domains=[*desk.domains(), "../up/icons/=~/look.png"],
        loras=[desk.oil],
        manifest=desk.folder / "cases.csv",
        timesteps=(540, 100),
        tap="output",
    )
    line = asked.line(recipe, asked.contents, "table/")
    assert not [word for word in shlex.split(line) if "home" in word or str(desk.folder) in word]
    assert line == (
        "style analyze features 'photos/*.png' x.png --kind similarity --domain ink=ink.safetensors"
        " --domain oil=oil.safetensors --domain icons=look.png --lora oil.safetensors --manifest "
        "cases.csv --t 540 --t 100 --layers 2,5,7 --tap output --prompt 'a cat'\"'\"'s tail' "
        "--backbone pocket --seed 0 --set sampling.size=128 -o table/"
    )


def test_how_a_lora_is_learned_is_part_of_the_line_where_one_may_be(desk: Desk) -> None:
    recipe = load(overrides=["lora.steps=7"]).recipe
    by_file = Asked(kind="pca", loras=[desk.ink])
    by_picture = Asked(kind="pca", styles=["oil/a.png"])
    assert "lora.steps" not in by_file.line(recipe, [], "x/")
    assert "--set lora.steps=7" in by_picture.line(recipe, [], "x/")
