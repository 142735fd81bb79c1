"""Where settings come from, and what a wrong one is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.errors import RecipeError
from stylecli.recipe import words
from stylecli.recipe.load import Resolved, load, schema_json, shipped
from stylecli.recipe.schema import Recipe
from stylecli.recipe.source import dotted, read, scalar
from stylecli.recipe.text import render
from tests.conftest import ROOT

PROTOCOL = "eval-"
KEY, VARIABLE = "sampling.guidance", "STYLE_SAMPLING__GUIDANCE"


def written(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def faults(source: str, *overrides: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(source, overrides=overrides, environ=environ)
    assert caught.value.exit_status == 2
    assert caught.value.fix
    return caught.value.what.splitlines()


# Layers.


@pytest.mark.mostly_slow
@pytest.mark.parametrize("highest", range(5))
def test_each_layer_wins_over_those_below(highest: int, tmp_path: Path) -> None:
    given = [i <= highest for i in range(5)]
    source = written(tmp_path, "sampling:\n  guidance: 2.0\n" if given[1] else "description: x\n")
    resolved = load(
        source,
        environ={VARIABLE: "3"} if given[2] else {},
        overrides=[f"{KEY}=4"] if given[3] else [],
        flags={KEY: 5.0} if given[4] else {},
    )
    origins = ["default", f"recipe {source}:2", f"environment {VARIABLE}", "--set", "flag"]
    assert resolved.origin[KEY] == origins[highest]
    assert resolved.recipe.sampling.guidance == [10.5, 2.0, 3.0, 4.0, 5.0][highest]


def test_every_value_has_an_origin() -> None:
    assert list(load().origin) == [dotted(key) for key in words.leaves()]


def test_a_mapping_changes_only_the_keys_it_names() -> None:
    lora = load("pocket-cpu", overrides=["lora={rank: 4, steps: 5}"]).recipe.lora
    assert (lora.rank, lora.steps, lora.crop) == (4, 5, "random")


def test_the_later_of_two_overrides_wins() -> None:
    assert load(overrides=["lora.rank=4", "lora.rank=8"]).recipe.lora.rank == 8


def test_style_recipe_names_the_recipe_unless_the_option_does() -> None:
    environ = {"STYLE_RECIPE": "sd15-12gb"}
    assert load(environ=environ).name == "sd15-12gb"
    assert load("pocket-cpu", environ=environ).name == "pocket-cpu"


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("pocket", "pocket-cpu"),
        ("sd15", "sd15-8gb"),
        ("sd21-base", "sd21-base-8gb"),
        ("some/folder", "defaults"),
    ],
)
def test_without_a_recipe_the_backbone_brings_its_own(backbone: str, name: str) -> None:
    for resolved in (
        load(flags={"backbone.id": backbone}),
        load(overrides=[f"backbone.id={backbone}"], environ={}),
        load(environ={"STYLE_BACKBONE__ID": backbone}),
    ):
        assert (resolved.name, resolved.recipe.backbone.id) == (name, backbone)


def test_an_empty_variable_is_unset_and_names_of_ours_are_no_keys() -> None:
    ours = ("STYLE_CACHE_DIR", "STYLE_WEIGHTS_DIR", "STYLE_EDITOR")
    assert load(environ={VARIABLE: "", **dict.fromkeys(ours, "/x")}) == load()


def test_a_variable_that_looks_like_a_setting_is_pointed_out() -> None:
    (note,) = load(environ={"STYLE_GUIDANCE": "5"}).notes
    assert "STYLE_GUIDANCE has no effect" in note
    assert VARIABLE in note


def test_a_section_may_be_empty(tmp_path: Path) -> None:
    assert load(written(tmp_path, "lora:\n  # rank: 8\n")).recipe == Recipe()


# Values typed at the shell.


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("lora.lr=2e-4", 2e-4),
        ("lora.targets=[to_q, to_out.0]", ("to_q", "to_out.0")),
        ("lora.gradient_checkpointing=true", True),
        ("sampling.prompt=null", None),
        ("sampling.prompt=a cat: sitting", "a cat: sitting"),
        ("sampling.prompt=key=value", "key=value"),
        ("lora.prompt=1984", "1984"),
        ("lora.prompt='quoted'", "quoted"),
        ("sampling.negative=no", "no"),
        ("sampling.negative=", ""),
        ("sampling.negative=null", "null"),
        ("injection.feature_layers=[4, 5]", (4, 5)),
        ("injection.feature_layers=all", "all"),
    ],
)
def test_values_are_yaml_unless_the_key_takes_text(override: str, value: object) -> None:
    found: object = load(overrides=[override]).recipe
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize("text", ["sampling.guidance", "=5", "  =5"])
def test_an_override_needs_key_and_value(text: str) -> None:
    with pytest.raises(RecipeError, match="is not KEY=VALUE") as caught:
        load(overrides=[text])
    assert caught.value.fix == "such as --set sampling.guidance=7.5"


# Faults.


def test_all_faults_are_told_at_once_in_reading_order(tmp_path: Path) -> None:
    source = written(
        tmp_path,
        "lora:\n  rank: 0\n  rnk: 5\nguidance: 7\nsampling:\n  steps: 50.5\n  seed: 1\n  seed: 2\n"
        "inversion: 5\ninjection:\n  feature_layers: [4, -1]\ndevice:\n  name: gpu\n",
    )
    assert faults(source, "lora.lr=fast", environ={"STYLE_LORA__ALPHA": "-1"}) == [
        f"{source}:2  lora.rank  must be a whole number from 1 to 1024, not 0",
        f"{source}:3  lora.rnk  unknown key; did you mean lora.rank?",
        f"{source}:4  guidance  unknown key; did you mean sampling.guidance?",
        f"{source}:6  sampling.steps  must be a whole number from 1 to 1000, not 50.5",
        f"{source}:8  sampling.seed  given twice; first on line 7",
        f"{source}:9  inversion  must be a section with keys of its own, not 5",
        f"{source}:11  injection.feature_layers  must be one of none, anchor, from_anchor, all or "
        "a list of whole numbers of 0 or more, not [4, -1]",
        f'{source}:13  device.name  must be text such as auto, cpu, cuda, cuda:1, mps, not "gpu"',
        "environment STYLE_LORA__ALPHA  lora.alpha  must be a number above 0 or null, not -1",
        '--set  lora.lr  must be a number above 0, not "fast"',
    ]


def test_a_key_like_no_other_is_told_its_neighbours() -> None:
    (fault,) = faults("pocket-cpu", "device.zzz=1")
    assert fault.startswith("--set  device.zzz  unknown key; known here: name, dtype, batch, ")


def test_thresholds_beyond_the_steps_are_refused_with_the_allowed_range(tmp_path: Path) -> None:
    source = written(
        tmp_path,
        "sampling:\n  steps: 20\ninjection:\n  attn_steps: 21\n  feature_steps: 30\n",
    )
    assert sorted(faults(source)) == [
        f"{source}:4  injection.attn_steps  is 21, beyond sampling.steps; allowed 0 to 20, or a "
        "share such as 60%",
        f"{source}:5  injection.feature_steps  is 30, beyond sampling.steps; allowed 0 to 20, or a "
        "share such as 60%",
    ]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("key", [dotted(key) for key in words.leaves()])
def test_every_key_says_what_it_accepts(key: str, tmp_path: Path) -> None:
    *sections, name = key.split(".")
    text = f"{name}: [[]]"
    for section in reversed(sections):
        text = f"{section}: {{{text}}}"
    (fault,) = faults(written(tmp_path, text))
    assert f":1  {key}  must be {accepts(key)}, not [[]]" in fault or f"{key}[0]" in fault


def accepts(key: str) -> str:
    return words.allowed(words.schema_at(tuple(key.split("."))) or {})


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "true", '"1"'])
def test_a_number_is_a_finite_number(value: str) -> None:
    (fault,) = faults("pocket-cpu", f"sampling.weight={value}")
    assert "must be a number from -1000 to 1000, not" in fault


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("sampling.size", 16385, "a whole number from 16 to 16384"),
        ("lora.resolution", 10**9, "a whole number from 16 to 16384"),
        ("sampling.steps", 1001, "a whole number from 1 to 1000"),
        ("inversion.steps", 1001, "a whole number from 1 to 1000 or null"),
        ("lora.rank", 1025, "a whole number from 1 to 1024"),
        ("lora.crop_px", 31, "a whole number of 32 or more"),
        ("sampling.guidance", 1000.5, "a number from 1 to 1000"),
        ("sampling.weight", -1000.5, "a number from -1000 to 1000"),
    ],
)
def test_what_no_model_could_do_is_refused(key: str, value: float, allowed: str) -> None:
    assert faults("pocket-cpu", f"{key}={value}") == [
        f"--set  {key}  must be {allowed}, not {value}"
    ]


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora: [1, 2", ":1  not YAML: expected ',' or ']'"),
        ("lora:\n\trank: 4\n", ":2  not YAML"),
        ("- lora\n", ":1  a recipe is a mapping of sections"),
        ("a\x00b: 1\n", "  not YAML: it holds control characters"),
        ("a: 1\n---\nb: 2\n", "not YAML: but found another document"),
        ("a: &a [*a]\n", "too large or too deep"),
        ("a: !!python/object/apply:os.system [ls]\n", "python/object/apply:os.system is not data"),
    ],
)
def test_what_is_not_a_recipe_is_told_so(text: str, said: str, tmp_path: Path) -> None:
    assert said in "\n".join(faults(written(tmp_path, text)))


def test_aliases_that_multiply_are_stopped(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "too large or too deep" in "\n".join(faults(written(tmp_path, "\n".join(lines))))


def test_a_file_that_is_not_text_is_told_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xff\xfe\x00lora")
    assert faults(str(file)) == [f"{file} is not UTF-8 text"]


@pytest.mark.parametrize(
    ("name", "near"), [("sd21-bse-24gb", "sd21-base-24gb"), ("pocket_cpu.yaml", "pocket-cpu")]
)
def test_an_unknown_recipe_is_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(RecipeError, match="neither a shipped name nor a file") as caught:
        load(name)
    assert caught.value.fix == f"did you mean {near}? `style recipes list` names them all"


@pytest.mark.slow
@given(st.text())
def test_no_text_whatever_crashes_the_reader(text: str) -> None:
    document = read(text, "x.yaml")
    assert isinstance(document.values, dict)
    scalar(text)


# What ships.


def test_every_shipped_recipe_is_valid_and_none_is_overlooked() -> None:
    files = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(files) == 22
    assert sorted(shipped().values()) == files
    for name in shipped():
        load(name)


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_opens_with_the_command_that_runs_it(name: str) -> None:
    first, second, *_ = shipped()[name].read_text(encoding="utf-8").splitlines()
    made_for = ("transfer", "gallery", "i2l-train", "route-train", "evaluate")
    assert first.startswith(tuple(f"# style {command} " for command in made_for))
    named = re.search(r"--recipe (\S+)", first)
    assert (named[1] if named else load().name) == name
    assert second == "# yaml-language-server: $schema=../docs/recipe.schema.json"


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_is_named_after_its_backbone(name: str) -> None:
    recipe = load(name).recipe
    # A protocol judges results, whatever made them.
    assert name.startswith((f"{recipe.backbone.id}-", PROTOCOL))
    assert recipe.description


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("eval-")])
def test_a_protocol_says_how_results_are_judged_and_nothing_else(name: str) -> None:
    document = read(shipped()[name].read_text(encoding="utf-8"), name)
    assert set(document.values) == {"description", "evaluate"}
    assert load(name).recipe.evaluate.preset == name.removeprefix(PROTOCOL)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", shipped())
def test_what_is_rendered_reads_back_as_the_same_recipe(name: str, tmp_path: Path) -> None:
    resolved: Resolved = load(name, overrides=['sampling.prompt=a: "b" # c'])
    assert load(written(tmp_path, render(resolved))).recipe == resolved.recipe


@pytest.mark.mostly_slow
@pytest.mark.parametrize("name", shipped())
def test_editors_and_the_loader_agree_on_what_ships(name: str) -> None:
    values = load(name).recipe.model_dump(mode="json")
    jsonschema.validate(json.loads(json.dumps(values)), schema_json())


def test_sd21_base_ships_the_numbers_of_the_papers() -> None:
    aaai, preprint = load("sd21-base-24gb").recipe, load("sd21-base-arxiv-v1").recipe
    assert aaai.sampling.guidance == preprint.sampling.guidance == 10.5
    assert aaai.sampling.negative == "ugly, blurry, black, low res, unrealistic"
    assert (aaai.injection.feature_steps, aaai.injection.attn_steps) == (30, 25)
    assert (aaai.inversion.steps, preprint.inversion.steps) == (50, 999)
    assert (aaai.injection.attn_tail, preprint.injection.attn_tail) == ("adaptive", "hard")
    assert (aaai.lora.rank, aaai.lora.steps, aaai.lora.lr, aaai.lora.weight_decay) == (
        16,
        200,
        2e-4,
        1e-2,
    )


@pytest.mark.parametrize(
    ("backbone", "name"),
    [("pocket", "pocket-cpu"), ("pocket-edit", "pocket-cpu"), ("sd15", "sd15-8gb")],
)
def test_a_chosen_backbone_brings_its_recipe(backbone: str, name: str) -> None:
    assert load(overrides=[f"backbone.id={backbone}"], environ={}).name == name


def test_a_backbone_without_a_recipe_has_the_built_in_settings() -> None:
    assert load(overrides=["backbone.id=mine-edit"], environ={}).name == "defaults"
