"""`--steps`: every command with fewer of them, and what a recipe of plain numbers is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from stylecli.artifacts import store
from tests import accelerators, small
from tests.cli.conftest import draw, finish, start
from tests.conftest import Style

pytestmark = pytest.mark.slow

SCALING = """\
backbone: {{id: {folder}}}
sampling: {{size: 32, steps: 20, guidance: 3}}
injection: {{feature_steps: 100%, attn_steps: 90%}}
"""


@pytest.fixture(scope="module")
def scaling(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "scaling.yaml"
    file.write_text(SCALING.format(folder=tiny_folder))
    return file


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("content") / "cat.png", size=(32, 32))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    tensors = small.lora(small.base_unet())
    return accelerators.save(folder / "oil.safetensors", tensors, "diffusers")


def told(file: Path) -> tuple[int, int, int, int]:
    said = store.read_provenance(file)
    assert said is not None
    recipe = said["recipe"]
    injection = recipe["injection"]
    return (
        recipe["sampling"]["steps"],
        recipe["inversion"]["steps"],
        injection["feature_steps"],
        injection["attn_steps"],
    )


def test_a_process_with_four_steps_counts_everything_in_four(
    scaling: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    command = ("transfer", content, "-l", lora, "-o", out, "-r", scaling, "--steps", 4)
    done = finish(start(*command, "--set", "sampling.timesteps=trailing", "--json"))
    assert done.status == 0, done.err
    assert done.summary["counts"] == {"done": 1, "items": 1}
    assert told(out) == (4, 4, 4, 4)
    again = finish(start(*command, "--set", "sampling.timesteps=trailing", "--json"))
    assert again.summary["counts"] == {"skipped": 1, "items": 1}


@pytest.mark.parametrize("steps", [1, 2])
def test_every_command_takes_the_smallest_numbers(
    style: Style, scaling: Path, content: Path, lora: Path, tmp_path: Path, steps: int
) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.tri(32, dtype=np.uint8) * 255).save(mask)
    lines = {
        "mask-transfer": (content, "--region", f"{mask}={lora}"),
        "switch": (content, "--schedule", f"{lora}:0%-100%"),
        "generate": ("--prompt", "a red cat", "-l", lora),
        "transfer": (content, "-l", lora),
    }
    for command, words in lines.items():
        out = tmp_path / f"{command}.png"
        options = ("-o", out, "-r", scaling, "--steps", steps, "-q")
        done = style(command, *words, *options, "--set", "sampling.timesteps=lcm")
        assert done.status == 0, (command, done.err)
        assert told(out)[0] == steps
    file = tmp_path / "cat.safetensors"
    done = style("invert", content, "-o", file, "-r", scaling, "--steps", steps, "-q", "--verify")
    assert done.status == 0, done.err
    with safe_open(file, framework="pt") as stream:
        assert len(stream.get_tensor("latents")) == steps + 1


def test_shares_and_their_numbers_are_one_result(
    style: Style, scaling: Path, content: Path, lora: Path, tmp_path: Path
) -> None:
    command = ("transfer", content, "-l", lora, "-o", tmp_path / "out.png", "-r", scaling)
    settings = ("--steps", "2", "--json", "--set")
    assert style(*command, *settings, "injection.attn_steps=50%").status == 0
    done = style(*command, *settings, "injection.attn_steps=1")
    assert done.summary["counts"] == {"skipped": 1, "items": 1}


def test_the_resolved_recipe_shows_shares_and_what_they_came_to(
    style: Style, scaling: Path
) -> None:
    shown = style("recipes", "show", scaling, "--resolved", "--set", "sampling.steps=5").out
    (line,) = [line for line in shown.splitlines() if "attn_steps" in line]
    assert '"90%"' in line
    assert line.endswith(", 5 steps")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--steps", "2"),
            "injection.attn_steps  is 3, beyond sampling.steps; allowed 0 to 2, or a share",
        ),
        (("--steps", "4"), "inversion.steps 6 skips timestep 251, which the 4 sampling steps need"),
        (("--steps", "0"), "flag  sampling.steps  must be a whole number from 1 to 1000, not 0"),
        (
            ("--steps", "8", "--set", "sampling.timesteps=[900, 100]"),
            "sampling.timesteps  lists 2 of them, and sampling.steps is 8",
        ),
        (
            ("--set", "sampling.timesteps=lcm", "--steps", "60", "--set", "inversion.steps=null"),
            "sampling.timesteps lcm has 50 timesteps, and 60 steps need more",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(
    style: Style, recipe: Path, content: Path, lora: Path, tmp_path: Path, words: tuple[str, ...],
    said: str,
) -> None:  # fmt: skip
    """The recipe of these counts in numbers: 6 steps, inverted in 6, thresholds 4 and 3."""
    thresholds = () if "2" in words else ("--set", "injection.feature_steps=100%")
    done = style(
        "transfer", content, "-l", lora, "-o", tmp_path / "out.png", "-r", recipe, *thresholds,
        *words,
    )  # fmt: skip
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.png").exists()
