"""Bundles of the sections dfcc, matching and gallery, and what these refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stylecli.errors import RecipeError
from stylecli.recipe.load import Resolved, load, shipped
from stylecli.recipe.presets import ACCELERATED, PROFILES
from stylecli.recipe.schema import Recipe

FAST = ("gallery.accelerator=lcm.safetensors",)


def loaded(*overrides: str, name: str = "sd15-12gb", **given: Any) -> Resolved:
    return load(name, overrides=overrides, **{"environ": {}, **given})


def value(recipe: Recipe, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)


def has(recipe: Recipe, wanted: Mapping[str, object]) -> bool:
    return all(value(recipe, key) == one for key, one in wanted.items())


@pytest.mark.mostly_slow
@pytest.mark.parametrize("recipe", shipped())
@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_sets_what_it_stands_for_on_every_recipe(name: str, recipe: str) -> None:
    found = loaded(f"gallery.profile={name}", name=recipe)
    for key, wanted in PROFILES[name].items():
        assert value(found.recipe, key) == wanted
        assert found.origin[key] == f"profile {name} of --set"


def test_the_authors_switches_leave_nothing_to_a_recipe() -> None:
    """But files, networks, the size, and what costs memory and changes no picture."""
    left = {"profile", "preset", "accelerator", "gradient_checkpointing", "mask", "ref_masks",
            "match", "only", "exclude", "strength", "depth", "semantics", "semantics_model",
            "mask_mode", "noise"}  # fmt: skip
    sections = {"dfcc", "matching", "gallery"}
    keys = {f"{s}.{key}" for s in sections for key in type(getattr(Recipe(), s)).model_fields}
    assert set(keys - PROFILES["reference"].keys()) <= {
        f"{section}.{key}" for section in sections for key in left
    }
    # Painted masks are the user's; what the other sections' defaults say is ours.
    assert value(Recipe(), "dfcc.mask_mode") == "override"


@pytest.mark.slow
def test_the_sound_profile_is_what_the_recipe_says() -> None:
    for name in shipped():
        plain, sound = loaded(name=name), loaded("gallery.profile=sound", name=name)
        assert plain.recipe.dfcc == sound.recipe.dfcc
        assert plain.recipe.gallery.steps == sound.recipe.gallery.steps


def test_another_profile_takes_the_place_of_a_recipes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gallery: {profile: reference, lr: 0.2}\ndfcc: {k_max: 7}\n")
    mine = str(file)
    assert loaded(name=mine).recipe.dfcc.merge == "ordered"
    assert loaded(name=mine).recipe.dfcc.k_max == 7
    sound = loaded("gallery.profile=sound", name=mine).recipe
    assert (sound.dfcc.merge, sound.dfcc.k_max, sound.gallery.lr) == ("closest", 7, 0.2)
    paper = loaded("gallery.profile=paper", name=mine).recipe
    assert (paper.gallery.mode, paper.dfcc.merge) == ("guided", "closest")


def test_a_setting_lies_on_a_profile_however_each_was_given() -> None:
    flags = {"gallery.profile": "reference"}
    own = loaded("dfcc.merge=closest", "gallery.steps=7", flags=flags).recipe
    assert (own.dfcc.merge, own.gallery.steps, own.dfcc.pca) == ("closest", 7, "random")
    environ = {"STYLE_GALLERY__STEPS": "9"}
    assert loaded(flags=flags, environ=environ).recipe.gallery.steps == 9


def test_a_preset_lies_on_a_profile_wherever_it_was_named(tmp_path: Path) -> None:
    both = (*FAST, "gallery.preset=lcm", "gallery.profile=paper")
    assert loaded(*both).recipe.gallery.steps == 28
    assert loaded(*both).recipe.gallery.mode == "guided"
    assert loaded("gallery.steps=7", *both).recipe.gallery.steps == 7
    file = tmp_path / "mine.yaml"
    file.write_text("gallery: {preset: hyper, accelerator: x.safetensors, iterations: 2}\n")
    found = loaded(name=str(file), flags={"gallery.profile": "reference"}).recipe
    assert has(found, ACCELERATED["hyper"])
    assert found.dfcc.merge == "ordered"


@pytest.mark.parametrize("name", ["lcm", "hyper"])
def test_a_preset_for_an_accelerator_wants_one(name: str) -> None:
    with pytest.raises(RecipeError, match=f"preset  {name} takes .*gallery.accelerator"):
        loaded(f"gallery.preset={name}")
    assert has(loaded(f"gallery.preset={name}", *FAST).recipe, ACCELERATED[name])


def test_fewest_clusters_are_not_more_than_most() -> None:
    assert loaded("dfcc.k_min=5", "dfcc.k_max=5").recipe.dfcc.k_min == 5
    with pytest.raises(RecipeError, match=r"dfcc\.k_min  is 11, beyond"):
        loaded("dfcc.k_min=11")
