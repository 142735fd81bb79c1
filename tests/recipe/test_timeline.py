"""Schedules and regions as people write them, and what a wrong one is told (eq. 8 and 9)."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stylecli.errors import RecipeError
from stylecli.recipe.load import load
from stylecli.recipe.presets import PRESETS
from stylecli.recipe.schema import Recipe
from stylecli.recipe.shares import as_written
from stylecli.recipe.timeline import parse_region, parse_schedule, resolve

NAMES = st.sampled_from(
    ["a.safetensors", "C:\\art\\oil.safetensors", "dir:with/ink.safetensors", "a,b.png", "peft/"]
)


def covered(entries: list[tuple[int | str, int | str | None]], steps: int) -> list[tuple[int, int]]:
    return [(i.start, i.stop) for i in resolve(entries, steps)]


# Text


@given(
    names=st.lists(NAMES, min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 99), min_size=4, max_size=4, unique=True),
    weights=st.lists(st.sampled_from([None, 0.5, 2.0, -1.0]), min_size=5, max_size=5),
    percent=st.booleans(),
)
def test_what_is_written_is_what_is_read(
    names: list[str], cuts: list[int], weights: list[float | None], percent: bool
) -> None:
    edges = [0, *sorted(cuts)[: len(names) - 1], 100]
    sign = "%" if percent else ""
    text = ",".join(
        f"{name}{'' if weight is None else f'*{weight}'}:{start}{sign}-{stop}{sign}"
        for name, weight, start, stop in zip(names, weights, edges, edges[1:], strict=False)
    )
    entries = parse_schedule(text)
    assert [part["lora"] for entry in entries for part in entry["loras"]] == names
    found = [part.get("weight") for entry in entries for part in entry["loras"]]
    assert found == weights[: len(names)]
    assert covered([(e["start"], e["end"]) for e in entries], 100) == list(pairwise(edges))


def test_sums_base_and_open_ends() -> None:
    entries = parse_schedule("a.safetensors*0.7+b.safetensors*0.3:0-20,base:20-30,c:30-")
    assert [len(entry["loras"]) for entry in entries] == [2, 0, 1]
    assert entries[0]["loras"][1] == {"lora": "b.safetensors", "weight": 0.3}
    assert entries[2] == {"loras": [{"lora": "c"}], "start": 30}


def test_a_lora_alone_is_one_for_all_steps() -> None:
    assert parse_schedule("c++.safetensors") == [{"loras": [{"lora": "c++.safetensors"}]}]
    assert covered([(0, None)], 7) == [(0, 7)]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ",", ":0-3", "*2:0-3", "a:30", "a:0.5-3", "a.safetensors:"),
        *("a:0-30,,b:30-50", "a:0-30,b", "a:-1-5,b:5-"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME:START-END|at least one|names no LoRA|whole step"):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("text", "mask", "lora", "prompt"),
    [
        ("deer.png=oil.safetensors", "deer.png", "oil.safetensors", None),
        ("deer.png=oil.safetensors@a deer", "deer.png", "oil.safetensors", "a deer"),
        ("m.png=me@home/oil.safetensors@x@y", "m.png", "me@home/oil.safetensors", "x@y"),
        ("text:a red deer=base@snow", "text:a red deer", None, "snow"),
        ("m/{content}.png=oil*0.5@ink", "m/{content}.png", "oil", "ink"),
        ("m.png=brush@a prompt", "m.png", "brush", "a prompt"),
    ],
)
def test_a_region_is_a_mask_a_schedule_and_perhaps_words(
    text: str, mask: str, lora: str | None, prompt: str | None
) -> None:
    region = parse_region(text)
    assert region["mask"] == mask
    assert [part["lora"] for part in region["schedule"][0]["loras"]] == ([lora] if lora else [])
    assert region.get("prompt") == prompt


def test_a_region_may_carry_a_schedule() -> None:
    region = parse_region("deer.png=a.safetensors:0-30,b.safetensors:30-50@oil")
    assert [entry["start"] for entry in region["schedule"]] == [0, 30]
    assert region["prompt"] == "oil"


@pytest.mark.parametrize("text", ["deer.png", "=oil", "deer.png=", "deer.png= "])
def test_what_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MASK=LORA"):
        parse_region(text)


# Steps


@given(steps=st.integers(1, 200), data=st.data())
def test_entries_that_meet_cover_every_step_once(steps: int, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, steps), max_size=6)) | {0, steps})
    entries: list[tuple[int | str, int | str | None]] = list(pairwise(cuts))
    shuffled = data.draw(st.permutations(entries))
    found = resolve(shuffled, steps)
    assert [step for i in found for step in range(i.start, i.stop)] == list(range(steps))
    assert [shuffled[i.entry] for i in found] == entries


@example(share=50, steps=5)  # 2.5, which rounds to the even 2 elsewhere
@given(share=st.integers(1, 99), steps=st.integers(1, 999))
def test_percentages_round_half_up(share: int, steps: int) -> None:
    rounded = (2 * share * steps + 100) // 200
    if not 0 < rounded < steps:
        with pytest.raises(ValueError, match="has no steps"):
            resolve([(0, f"{share}%"), (f"{share}%", None)], steps)
    else:
        assert covered([(0, f"{share}%"), (f"{share}%", None)], steps) == [
            (0, rounded),
            (rounded, steps),
        ]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([(0, 30), (35, 50)], "no entry covers steps 30 to 34; write base:30-35"),
        ([(5, 50)], "no entry covers steps 0 to 4"),
        ([(0, 40)], "no entry covers steps 40 to 49"),
        ([(0, 30), (20, 50)], "entries 1 and 2 both have step 20; write a+b"),
        ([(0, 60)], "entry 1 ends at step 60; allowed 0 to 50"),
        ([(0, 30), (50, 30)], "entry 2 has no steps: 50 to 30"),
        ([(0, 0), (0, 50)], "entry 1 has no steps"),
        ([(0, "x%")], "neither a step nor a percentage"),
    ],
)
def test_gaps_overlaps_and_reversals_are_named(
    entries: list[tuple[int | str, int | str | None]], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        resolve(entries, 50)


# In recipes


def test_text_and_keys_are_the_same_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "sampling:\n"
        "  schedule:\n"
        "    - {loras: [{lora: a.safetensors}], end: 60%}\n"
        "    - {loras: [{lora: b.safetensors, weight: 0.5}], start: 60%}\n"
        "  regions:\n"
        "    - {mask: deer.png, schedule: a.safetensors, prompt: oil}\n"
        "    - 'text:sky=base'\n"
    )
    written = load(str(file)).recipe.sampling
    said = load(
        flags={
            "sampling.schedule": "a.safetensors:0%-60%,b.safetensors*0.5:60%-",
            "sampling.regions": ["deer.png=a.safetensors@oil", "text:sky=base"],
        }
    ).recipe.sampling
    assert written.regions == said.regions
    assert written.schedule is not None
    assert said.schedule is not None
    assert [e.loras for e in written.schedule] == [e.loras for e in said.schedule]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schedule: 'a:0-30'", "mine.yaml:2  sampling.schedule  no entry covers steps 30 to 49"),
        ("schedule: 'a:0-30,,b'", "mine.yaml:2  sampling.schedule  ',b' is not NAME:START-END"),
        ("regions: [deer.png]", "mine.yaml:2  sampling.regions[0]  'deer.png' is not MASK=LORA"),
        ("regions: ['d.png=a:0-30']", "sampling.regions  of d.png: no entry covers steps 30"),
        ("pin_until: 51", "sampling.pin_until  is 51, beyond sampling.steps; allowed 0 to 50"),
        ("schedule: []", "sampling.schedule  must be a non-empty list"),
    ],
)
def test_a_wrong_one_is_refused_where_it_was_written(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"sampling:\n  {text}\n")
    with pytest.raises(RecipeError) as refusal:
        load(str(file))
    assert said in str(refusal.value)
    assert str(refusal.value).count("\n") == 0


# Presets


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_lies_beneath_what_is_said_beside_it(name: str) -> None:
    recipe = load(overrides=["injection.attn_steps=7", f"injection.preset={name}"]).recipe
    said = as_written(recipe)
    for key, value in PRESETS[name].items():
        section, field = key.split(".")
        wanted = 7 if key == "injection.attn_steps" else value
        assert said[section][field] == wanted, key


def test_a_preset_lies_above_the_recipe_and_says_where_values_came_from() -> None:
    plain, preset = load("pocket-cpu"), load("pocket-cpu", overrides=["injection.preset=aaai26"])
    assert plain.recipe.injection.attn_steps != preset.recipe.injection.attn_steps == 25
    assert preset.origin["injection.attn_steps"] == "preset aaai26 of --set"


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match="one of aaai26, paper, v1, plain_lora"):
        load(overrides=["injection.preset=v2"])


def test_every_preset_sets_keys_that_there_are() -> None:
    for preset in PRESETS.values():
        for key in preset:
            section, field = key.split(".")
            assert field in type(getattr(Recipe(), section)).model_fields


def test_a_preset_in_a_section_given_whole_lies_beneath_it_too() -> None:
    recipe = load(overrides=["injection={preset: v1, attn_steps: 7}"]).recipe
    assert (recipe.injection.attn_steps, recipe.injection.attn_cross) == (7, "all")


def test_a_prompt_in_the_middle_of_a_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt comes last"):
        parse_region("m.png=a@one:0-4,b@two:4-8")


@pytest.mark.parametrize("weight", ["1e9", "nan", "-1001", "inf"])
def test_a_weight_out_of_range_is_named(weight: str) -> None:
    with pytest.raises(ValueError, match=rf"weight {weight} of a; allowed -1000 to 1000"):
        parse_schedule(f"a*{weight}:0-5")
