"""`style recipes` and `style cache`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stylecli.recipe.load import load, shipped
from tests.conftest import Style


@pytest.mark.slow
def test_recipes_list_names_all(style: Style) -> None:
    assert [line.split()[0] for line in style("recipes", "list").out.splitlines()] == list(
        shipped()
    )
    rows = style("recipes", "list", "--json").rows[:-1]
    assert [row["recipe"] for row in rows] == list(shipped())


def test_recipes_show_prints_a_file_to_start_from(style: Style, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(style("recipes", "show", "sd15-12gb").out, encoding="utf-8")
    assert load(str(mine)).recipe == load("sd15-12gb").recipe


def test_recipes_show_resolved_tells_where_each_value_came_from(
    style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_LORA__RANK", "8")
    arguments = ("recipes", "show", "pocket-cpu", "--resolved", "--set", "sampling.guidance=7")
    lines = style(*arguments).out.splitlines()
    # Sections within a section have keys of these names too.
    shown = {
        line.split(":")[0].strip(): line.partition("# ")[2]
        for line in lines
        if "#" in line and not line.startswith("    ")
    }
    assert shown["rank"] == "environment STYLE_LORA__RANK"
    assert shown["guidance"] == "--set"
    assert shown["crop_px"].startswith("recipe pocket-cpu.yaml:")
    assert shown["weight_decay"] == "default"
    (row, _summary) = style(*arguments, "--json").rows
    assert row["values"]["lora"]["rank"] == 8
    assert row["origin"]["lora.rank"] == "environment STYLE_LORA__RANK"


def test_recipes_validate_reports_every_fault_of_every_file(style: Style, tmp_path: Path) -> None:
    for name, text in (("a", "lora: {rnk: 4}"), ("b", "{}"), ("c", "sampling: {steps: 0}")):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    files = sorted(tmp_path.iterdir())
    done = style("recipes", "validate", *files)
    assert done.status == 2
    assert [line.split()[0] for line in done.out.splitlines()] == ["wrong", "valid", "wrong"]
    assert f"{files[0]}:1  lora.rnk  unknown key; did you mean lora.rank?" in done.err
    assert f"{files[2]}:1  sampling.steps  must be a whole number from 1 to 1000, not 0" in done.err


def test_a_fix_is_given_only_where_it_suits_every_fault(style: Style, tmp_path: Path) -> None:
    latin, wrong = tmp_path / "latin.yaml", tmp_path / "wrong.yaml"
    latin.write_bytes(b"description: caf\xe9")
    wrong.write_text("lora: {rank: 0}", encoding="utf-8")
    assert "fix    save it as UTF-8\n" in style("recipes", "validate", latin).err
    both = style("recipes", "validate", latin, wrong)
    assert both.err.splitlines()[-1] == "fix    correct each, and check them again"
    folder = style("recipes", "validate", tmp_path)
    assert f"recipe '{tmp_path}' is a folder" in folder.err


@pytest.fixture
def cache() -> Path:
    """Three files of one day, ten days and a hundred days ago, and a run's unfinished one."""
    root = Path(os.environ["STYLE_CACHE_DIR"])
    for kind, name, days in (("lora", "a", 1), ("lora", "b", 10), ("trajectory", "c", 100)):
        file = root / kind / "00" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 1_000_000)
        os.utime(file, (time.time() - days * 86_400,) * 2)
    (root / "lora" / "00" / ".d.part").write_bytes(b"x")
    return root


def kept(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.rglob("*") if file.is_file())


@pytest.mark.usefixtures("cache")
def test_cache_list_sums_up_by_kind(style: Style) -> None:
    rows = style("cache", "list", "--json").rows[:-1]
    assert [(row["kind"], row["files"], row["bytes"]) for row in rows] == [
        ("lora", 2, 2_000_000),
        ("trajectory", 1, 1_000_000),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_cache_list_tells_how_much_it_may_hold(
    style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "holds  3.0 MB of 20.0 GB (STYLE_CACHE_SIZE)" in style("cache", "list").err
    monkeypatch.setenv("STYLE_CACHE_SIZE", "500MB")
    assert "holds  3.0 MB of 500.0 MB" in style("cache", "list").err
    monkeypatch.setenv("STYLE_CACHE_SIZE", "0")
    assert "holds  3.0 MB of any size" in style("cache", "list").err
    monkeypatch.setenv("STYLE_CACHE_SIZE", "much")
    assert style("cache", "list").status == 2


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--older-than", "30"], [".d.part", "a", "b"]),
        (["--max-gb", "0.001"], [".d.part", "a"]),
        (["--max-gb", "0"], [".d.part"]),
        (["--all"], [".d.part"]),
        (["--all", "--dry-run"], [".d.part", "a", "b", "c"]),
    ],
)
def test_cache_prune_removes_the_longest_unused(
    arguments: list[str], left: list[str], style: Style, cache: Path
) -> None:
    assert style("cache", "prune", *arguments).status == 0
    assert kept(cache) == left


def test_what_nobody_will_resume_is_pruned_too(style: Style, cache: Path) -> None:
    state = cache / "lora" / "00" / ".e.safetensors.state.safetensors"
    state.write_bytes(b"x")
    os.utime(state, (time.time() - 3 * 86_400,) * 2)
    assert style("cache", "prune", "--older-than", "2").status == 0
    assert kept(cache) == [".d.part", "a"]


@pytest.mark.slow
def test_the_cache_is_listed_without_torch() -> None:
    code = (
        "import sys; from stylecli.cli.app import main; "
        "assert main(['cache', 'list']) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_settings_of_a_local_model_are_shown_without_a_recipe(
    style: Style, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for part, text in (
        ("unet", '{"sample_size": 96}'),
        ("vae", '{"block_out_channels": [1,2,3,4]}'),
    ):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(text)
    monkeypatch.setenv("STYLE_BACKBONE__ID", str(tmp_path))
    shown = style("recipes", "show")
    assert shown.status == 0
    sampling = shown.out[shown.out.index("\nsampling:") :]
    line = next(line for line in sampling.splitlines() if line.strip().startswith("size:"))
    assert line.split(maxsplit=2) == ["size:", "768", f"# model {tmp_path}"]


def test_an_empty_cache_is_no_failure(style: Style) -> None:
    assert style("cache", "list").status == 0
    assert style("cache", "prune", "--all").status == 0
