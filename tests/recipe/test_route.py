"""The section route: its profiles, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stylecli.errors import RecipeError
from stylecli.recipe.load import Resolved, load
from stylecli.recipe.presets import ROUTE
from stylecli.recipe.route import Data, Route
from stylecli.recipe.schema import Recipe


def loaded(*overrides: str, name: str | None = None, **given: Any) -> Resolved:
    return load(name or "sd15-12gb", overrides=overrides, **{"environ": {}, **given})


def value(recipe: Recipe, key: str) -> object:
    found: object = recipe
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("objects", "name", "is_taken"),
    [
        ((), "anything", True),
        (("dog",), "dog", True),
        (("Dog", "cat"), "brown  DOG", True),
        (("dog",), "hot dogs", False),
        (("dog",), "watchdog", False),
        (("dog",), "dog house", False),
    ],
)
def test_objects_that_may_change(objects: tuple[str, ...], name: str, is_taken: bool) -> None:
    assert Data(objects=objects).takes(name) is is_taken


def test_an_object_without_a_name_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"route\.data\.objects"):
        loaded("route.data.objects=[dog, ' ']")


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", ROUTE)
def test_a_profile_sets_what_it_stands_for_and_nothing_else(name: str) -> None:
    plain, found = loaded().recipe.route, loaded(f"route.profile={name}")
    for key, wanted in ROUTE[name].items():
        assert value(found.recipe, key) == wanted
        assert found.origin[key] == f"profile {name} of --set"
    sections = ("data", "lora", "loss", "train", "validation", "apply")
    for section in sections:
        for key in type(getattr(plain, section)).model_fields:
            if f"route.{section}.{key}" not in ROUTE[name]:
                own, other = (
                    getattr(getattr(x, section), key) for x in (plain, found.recipe.route)
                )
                assert own == other


def test_the_defaults_are_the_papers_where_it_says_any() -> None:
    route = Route()
    assert (route.loss.focus_weight, route.loss.cover_weight) == (0.1, 0.2)
    assert (route.lora.rank, route.lora.targets, route.train.steps) == (4, "auto", 5000)
    assert (route.train.micro_batch, route.train.accumulation) == (2, 4)
    assert (route.train.schedule, route.train.warmup, route.train.lr) == ("constant", 0, 1e-5)
    assert (route.data.images, route.data.held_out) == (150, 10)


def test_another_profile_takes_the_place_of_a_recipes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("route:\n  profile: reference\n  loss: {gamma: 3}\n")
    mine = loaded(name=str(file)).recipe.route
    assert (mine.loss.gamma, mine.loss.cover, mine.train.steps) == (3.0, "scaled", 10_000)
    paper = loaded("route.profile=paper", name=str(file)).recipe.route
    assert (paper.loss.gamma, paper.loss.cover, paper.train.steps) == (3.0, "ratio", 5000)
    assert (paper.train.times, paper.apply.guidance) == ("even", 3.5)


def test_a_setting_lies_on_a_profile_however_each_was_given() -> None:
    found = loaded("route.loss.tau=0.5", flags={"route.profile": "reference"}).recipe.route
    assert (found.loss.tau, found.loss.focus) == (0.5, "raw")
    environ = {"STYLE_ROUTE__TRAIN__STEPS": "9"}
    assert loaded("route.profile=reference", environ=environ).recipe.route.train.steps == 9


@pytest.mark.slow
def test_the_ablations_of_the_paper_are_settings() -> None:
    """Table 3: without each loss, without LoRAs in either half, and three ranks."""
    for overrides in (
        ("route.loss.focus_weight=0",),
        ("route.loss.cover_weight=0",),
        ("route.lora.targets=single",),
        ("route.lora.targets=double",),
        ("route.lora.rank=8",),
        ("route.lora.rank=16",),
    ):
        assert loaded(*overrides).recipe.route != Route()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            (
                "route.loss.per_layer=true",
                "route.loss.focus_weight=0",
                "route.loss.cover_weight=0",
            ),
            r"route\.loss\.per_layer  is for losses on attention",
        ),
        (("route.data.min_area=0.7",), r"route\.data\.min_area  is 0\.7, above"),
        (
            ("route.train.schedule=cosine", "route.train.lr_end=0.1"),
            r"route\.train\.lr_end  is above",
        ),
        (("route.train.p_drop_text=0.6", "route.train.p_drop_both=0.5"), "add up to 1.1"),
        (("route.loss.layers=every:0",), "layers"),
        (("route.lora.targets=some",), "targets"),
    ],
)
def test_what_would_do_nothing_or_cannot_be_is_refused(
    overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        loaded(*overrides)


def test_kappa_is_of_use_whatever_cover_is() -> None:
    """Footprints are cut by it."""
    assert loaded("route.loss.kappa=0.3", "route.loss.cover=scaled").recipe.route.loss.kappa == 0.3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("layers", ["auto", "all", "every:3", "up_blocks.1,mid_block.attentions.0"])
def test_layers_are_named_in_words(layers: str) -> None:
    assert loaded(f"route.loss.layers={layers}").recipe.route.loss.layers == layers
