"""One use of the commands that tiny models are quick at: what each change is tried with.

Here are no `switch`, `invert`, `route-train` and `route-apply`. These, and all that a command
promises, are in the other files of this folder, for minutes: `nox -s slow`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests import predictors
from tests.cli.conftest import draw, finish, start
from tests.conftest import Style
from tests.engine.route.data import families


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("photo") / "photo.png", seed=1)


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("painting") / "painting.png", seed=2, size=(70, 66))


@pytest.fixture(scope="module")
def lora(recipe: Path, painting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stylecli.cli.app import main

    file = tmp_path_factory.mktemp("lora") / "painting.safetensors"
    few = ["--set", "lora.steps=2", "--set", "lora.save_every=1", "--set", "lora.lr=0.05", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        # Most of a short training is being judged, which no test here looks at.
        patch.setattr("stylecli.engine.training.draws.EVAL_PAIRS", 2)
        line = ["train-lora", str(painting), "-o", str(file), "-r", str(recipe), *few]
        assert main(line) == 0
    return file


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_picture_is_inverted_transferred_and_not_made_twice(
    style: Style, recipe: Path, photo: Path, lora: Path, tmp_path: Path
) -> None:
    line = ("transfer", photo, "--lora", lora, "-o", tmp_path / "out.png", "-r", recipe, "--json")
    made = style(*line)
    assert made.status == 0, made.err
    assert made.summary["counts"] == {"items": 1, "done": 1}
    assert not np.array_equal(pixels(tmp_path / "out.png"), pixels(photo))
    before = (tmp_path / "out.png").read_bytes()
    assert style(*line).summary["counts"] == {"items": 1, "skipped": 1}
    assert (tmp_path / "out.png").read_bytes() == before


def test_what_no_mask_covers_keeps_its_bytes(
    style: Style, recipe: Path, photo: Path, lora: Path, tmp_path: Path
) -> None:
    wide, high = Image.open(photo).size
    half = np.zeros((high, wide), np.uint8)
    half[:, : wide // 2] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    region = f"{tmp_path / 'half.png'}={lora}"
    out = tmp_path / "out.png"
    done = style("mask-transfer", photo, "--region", region, "-o", out, "-r", recipe)
    assert done.status == 0, done.err
    assert np.array_equal(pixels(out)[:, wide // 2 :], pixels(photo)[:, wide // 2 :])
    assert not np.array_equal(pixels(out), pixels(photo))


def test_regions_are_matched_to_references(
    style: Style, recipe: Path, photo: Path, painting: Path, tmp_path: Path
) -> None:
    few = ["gallery.steps=4", "dfcc.steps=3", "dfcc.min_cells=0", "dfcc.depth=none",
           "matching.semantics=features"]  # fmt: skip
    given = [word for setting in few for word in ("--set", setting)]
    out = tmp_path / "out.png"
    done = style("gallery", photo, "--refs", painting.parent, "-o", out, "-r", recipe, *given)
    assert done.status == 0, done.err
    assert Image.open(out).width > 0


def test_a_lora_is_predicted(style: Style, recipe: Path, painting: Path, tmp_path: Path) -> None:
    model = Path(yaml.safe_load(recipe.read_text())["backbone"]["id"])
    predictor = predictors.save(tmp_path / "p.safetensors", model)
    out = tmp_path / "lora.safetensors"
    done = style("i2l-predict", painting, "-o", out, "--predictor", predictor, "-r", recipe)
    assert done.status == 0, done.err
    assert out.stat().st_size > 0


def test_scenes_become_a_set_to_learn_edits_from(style: Style, tmp_path: Path) -> None:
    icons = families.packages(tmp_path / "icons")
    few = ("--images", 2, "--val", 1, "--size", 48, "--style-name", "pixel art")
    done = style("route-data", "--icons", icons, "-o", tmp_path / "set", *few, "--json")
    assert done.status == 0, done.err
    assert done.rows[0]["splits"] == {"train": 2, "val": 1}


def test_outputs_are_measured(style: Style, photo: Path, painting: Path, tmp_path: Path) -> None:
    draw(tmp_path / "outputs" / "photo-painting.png", seed=3)
    done = style(
        "evaluate", tmp_path / "outputs", "--content", photo.parent, "--style", painting,
        "--set", "evaluate.pattern=(?P<content>.+)-(?P<style>.+)",
        "--metrics", "ssim,psnr,color_sw", "-o", tmp_path / "report", "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert (tmp_path / "report" / "aggregate.json").is_file()


def test_a_mistake_is_two_lines_and_a_status(tmp_path: Path) -> None:
    """In a process of its own, as users meet it."""
    given = (tmp_path / "none.png", "--style", tmp_path / "no.png", "-o", tmp_path / "out.png")
    done = finish(start("transfer", *given))
    assert done.status == 2
    assert "Traceback" not in done.err
    assert str(tmp_path / "none.png") in done.err
