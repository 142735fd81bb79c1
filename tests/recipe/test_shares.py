"""Thresholds as shares of the steps, lists of timesteps, and what follows the sampler."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.errors import RecipeError
from stylecli.recipe.load import Resolved, load
from stylecli.recipe.presets import PRESETS
from stylecli.recipe.rows import changed
from stylecli.recipe.schema import Recipe
from stylecli.recipe.shares import as_written
from stylecli.recipe.text import render

SECTIONS = ("sampling", "injection", "inversion")


def numbers(recipe: Recipe) -> tuple[int, int, int, int | None]:
    injection = recipe.injection
    return (
        injection.feature_steps,
        injection.attn_steps,
        recipe.inversion.steps,
        recipe.sampling.pin_until,
    )


def refused(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(overrides=overrides)
    assert caught.value.fix
    return caught.value.what


@pytest.mark.slow
@given(share=st.integers(0, 100), steps=st.integers(1, 200))
def test_a_share_is_that_part_of_the_steps_half_of_one_rounded_up(share: int, steps: int) -> None:
    whole = (2 * share * steps + 100) // 200
    recipe = load(
        overrides=[
            f"sampling.steps={steps}",
            f"injection={{feature_steps: {share}%, attn_steps: {share}%}}",
            f"sampling.pin_until={share}%",
        ]
    ).recipe
    assert numbers(recipe) == (whole, whole, steps, whole)


def test_a_share_and_its_number_are_one_recipe() -> None:
    share = load(overrides=["injection.attn_steps=60%", "sampling.pin_until=50%"]).recipe
    number = load(overrides=["injection.attn_steps=30", "sampling.pin_until=25"]).recipe
    assert share == number
    assert share.model_dump() == number.model_dump()
    assert share.shares != number.shares


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("name", "steps", "wanted"),
    [
        ("pocket-cpu", 50, (50, 45, 50, None)),
        ("pocket-cpu", 8, (8, 7, 8, None)),
        ("pocket-cpu", 1, (1, 1, 1, None)),
        ("sd21-base-24gb", 50, (30, 25, 50, None)),
        ("sd21-base-24gb", 4, (2, 2, 4, None)),
        ("sd21-base-arxiv-v1", 8, (5, 4, 999, None)),
        (None, 10, (10, 9, 10, None)),
    ],
)
def test_what_ships_scales_with_the_steps(
    name: str | None, steps: int, wanted: tuple[int, ...]
) -> None:
    assert numbers(load(name, flags={"sampling.steps": steps}).recipe) == wanted


def test_built_in_defaults_scale_too(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sampling: {steps: 10}\n")
    assert numbers(load(str(file)).recipe) == (6, 5, 10, None)
    file.write_text("lora: {}\n")
    assert load(str(file)).recipe == Recipe()


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "plain_lora"])
def test_presets_scale_with_the_steps(name: str) -> None:
    recipe = load(overrides=[f"injection.preset={name}", "sampling.steps=10"]).recipe
    assert (recipe.injection.feature_steps, recipe.injection.attn_steps) == (6, 5)


def test_the_environment_takes_shares() -> None:
    recipe = load(environ={"STYLE_INJECTION__ATTN_STEPS": "20%"}).recipe
    assert recipe.injection.attn_steps == 10


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("injection.attn_steps=110%", "is 110%, beyond sampling.steps; allowed 0% to 100%"),
        ("sampling.pin_until=101%", "is 101%, beyond sampling.steps; allowed 0% to 100%"),
        (
            "injection.attn_steps=half",
            'must be a whole number of 0 or more or text such as 60%, not "half"',
        ),
        (
            "injection.attn_steps=-5%",
            'must be a whole number of 0 or more or text such as 60%, not "-5%"',
        ),
        (
            "injection.attn_steps=null",
            "must be a whole number of 0 or more or text such as 60%, not null",
        ),
        ("injection.attn_steps=51", "is 51, beyond sampling.steps; allowed 0 to 50, or a share"),
    ],
)
def test_what_is_no_share_is_told_so_in_one_line(override: str, said: str) -> None:
    what = refused(override)
    assert what.startswith(f"--set  {override.partition('=')[0]}  {said}")
    assert "\n" not in what


def test_steps_that_are_wrong_are_the_only_fault() -> None:
    """Shares of them cannot be counted, which is no fault of theirs."""
    what = refused("sampling.steps=many", "injection.attn_steps=50%")
    assert what == '--set  sampling.steps  must be a whole number from 1 to 1000, not "many"'


@pytest.mark.slow
def test_a_row_that_changes_the_steps_takes_shares_along() -> None:
    run = load("pocket-cpu").recipe
    row = changed(run, [("sampling.steps", "8")], "jobs.csv:2", SECTIONS)
    assert numbers(row) == (8, 7, 8, None)
    assert row.sampling.steps == 8
    assert row.lora is run.lora
    own = changed(run, [("sampling.steps", "8"), ("injection.attn_steps", "25%")], "", SECTIONS)
    assert own.injection.attn_steps == 2


def test_a_row_that_changes_the_steps_leaves_numbers_alone() -> None:
    run = load("pocket-cpu", overrides=["injection.attn_steps=5"]).recipe
    row = changed(run, [("sampling.steps", "8")], "jobs.csv:2", SECTIONS)
    assert (row.injection.feature_steps, row.injection.attn_steps) == (8, 5)
    with pytest.raises(RecipeError, match=r"jobs.csv:2  injection\.attn_steps is 5, beyond"):
        changed(run, [("sampling.steps", "4")], "jobs.csv:2", SECTIONS)


def test_a_number_put_into_a_copy_is_not_scaled_back_to_the_share_it_replaced() -> None:
    run = load("pocket-cpu").recipe
    injection = run.injection.model_copy(update={"attn_steps": 3})
    copy = run.model_copy(update={"injection": injection})
    assert as_written(copy)["injection"]["attn_steps"] == 3
    assert as_written(copy)["injection"]["feature_steps"] == "100%"


def test_a_rendered_recipe_still_scales_and_shows_the_number(tmp_path: Path) -> None:
    resolved: Resolved = load("pocket-cpu", flags={"sampling.steps": 20})
    text = render(resolved)
    (line,) = [line for line in text.splitlines() if "attn_steps" in line]
    assert line.split() == [
        *("attn_steps:", '"90%"', "#", "recipe"),
        *(resolved.origin["injection.attn_steps"].split()[1] + ",", "18", "steps"),
    ]
    file = tmp_path / "kept.yaml"
    file.write_text(text)
    assert load(str(file)).recipe == resolved.recipe
    assert load(str(file), flags={"sampling.steps": 10}).recipe.injection.attn_steps == 9


# Timesteps.


@pytest.mark.parametrize("text", ["[999, 749, 499, 249]", "[249, 499, 749, 999]"])
def test_a_list_in_either_direction_sets_the_steps_where_nobody_did(text: str) -> None:
    resolved = load(overrides=[f"sampling.timesteps={text}"])
    sampling = resolved.recipe.sampling
    assert (sampling.timesteps, sampling.steps) == ((999, 749, 499, 249), 4)
    assert resolved.origin["sampling.steps"] == "--set"
    assert resolved.recipe.inversion.steps == 4


def test_a_list_of_a_higher_layer_sets_the_steps_of_a_lower_one(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("sampling: {steps: 50}\n")
    listed = "sampling.timesteps=[900, 400]"
    assert load(str(file), overrides=[listed]).recipe.sampling.steps == 2
    with pytest.raises(RecipeError, match=r"lists 2 of them, and sampling\.steps is 8"):
        load(str(file), overrides=[listed], flags={"sampling.steps": 8})
    file.write_text("sampling: {steps: 50, timesteps: [900, 400]}\n")
    with pytest.raises(RecipeError, match=r"own.yaml:1  sampling.timesteps  lists 2 of them"):
        load(str(file))


@pytest.mark.parametrize("text", ["[999, 500, 600]", "[999, 999, 3]", "[5, 5]"])
def test_a_list_that_turns_or_repeats_is_refused(text: str) -> None:
    said = f"must fall or rise and name each timestep once, not {text}"
    assert refused(f"sampling.timesteps={text}") == f"--set  sampling.timesteps  {said}"


@pytest.mark.mostly_slow
@pytest.mark.parametrize("text", ["euler", "[]", "[1001]", "[-1]", "[1.5]", "7"])
def test_what_is_no_way_to_spread_timesteps_is_told_those_there_are(text: str) -> None:
    what = refused(f"sampling.timesteps={text}")
    assert what.startswith("--set  sampling.timesteps  must be one of leading, trailing, linspace")
    assert "a non-empty list of whole numbers from 0 to 1000 or null" in what
    assert "\n" not in what


def test_a_row_may_list_timesteps() -> None:
    row = changed(
        load("pocket-cpu").recipe, [("sampling.timesteps", "[800, 300]")], "", ("sampling",)
    )
    assert (row.sampling.steps, row.injection.attn_steps, row.inversion.steps) == (2, 2, 2)


def test_levels_of_an_inversion_are_a_number_or_the_samplers() -> None:
    said = 'must be a whole number from 1 to 1000 or null, not "50%"'
    assert refused("inversion.steps=50%") == f"--set  inversion.steps  {said}"
