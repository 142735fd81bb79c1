"""`--fit`: settings for a memory, around what the user decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from tests.cli.conftest import draw
from tests.conftest import Outcome

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path, recipe: Path, style: Any) -> Any:
    from tests import small

    tensors = {f"unet.{k}": v for k, v in small.lora(small.base_unet()).items()}
    save_file(tensors, tmp_path / "ink.safetensors")
    for number in range(4):
        draw(tmp_path / "in" / f"{number}.png", seed=number)

    def run(*arguments: object) -> Outcome:
        return style(  # type: ignore[no-any-return]
            "transfer", tmp_path / "in", "-l", tmp_path / "ink.safetensors",
            "-o", tmp_path / "out/", "-r", recipe, *arguments,
        )  # fmt: skip

    return run


def test_the_choice_is_the_recipe_and_keeps_what_was_given(desk: Any) -> None:
    done = desk("--fit", "100", "--batch", "2", "--dry-run", "--json")
    assert done.status == 0, done.err
    plan = done.rows[0]
    assert plan["recipe"]["device"]["batch"] == 2
    assert plan["origin"]["device.batch"] == "flag"
    assert plan["origin"]["device.max_rows"] == plan["origin"]["device.tiling"] == "--fit 100"
    assert plan["recipe"]["device"]["tiling"] is False
    assert plan["estimate"]["memory_bytes"] <= 100e9


def test_what_cannot_fit_is_refused_with_the_least(desk: Any, tmp_path: Path) -> None:
    done = desk("--fit", "0.01")
    assert done.status == 2
    assert "error  --fit 0.01: nothing fits; the least is about" in done.err
    assert not (tmp_path / "out").exists()


def test_an_amount_that_is_none_is_refused(desk: Any) -> None:
    for amount in ("0", "-8", "nan", "inf", "much"):
        done = desk("--fit", amount)
        assert done.status == 2
        assert "is no amount of memory in GB" in done.err


def test_what_fits_is_made(desk: Any, tmp_path: Path) -> None:
    done = desk("--fit", "50")
    assert done.status == 0, done.err
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
