"""Commands on weights in 8 bits: tiny models of the real classes, and the one that ships."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylecli.artifacts import cache, store
from tests.cli.conftest import draw
from tests.cli.test_backbones import KINDS, learned, settings
from tests.conftest import Style

pytest.importorskip("torchao")
pytestmark = pytest.mark.slow
INT8 = "backbone.quantize=int8"
# Mean differences of tones, of 255; 0.05, 0.7 and 3.0 were seen.
MOST = {"flux2": 0.2, "z-image": 2.0, "sdxl": 6.0}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return draw(tmp_path / "photo.png", seed=1)


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)


@pytest.mark.parametrize("kind", KINDS)
def test_a_style_is_learned_and_worn_near_to_whole_weights(
    kind: str, style: Style, photo: Path, tmp_path: Path
) -> None:
    """A LoRA that was learned in 8 bits, worn on 8 bits and on whole weights."""
    lora = learned(style, tmp_path / "ink.png", settings(kind, INT8))
    made = {}
    ways = {"whole": (), "bits": (INT8,), "rows": (INT8, "device.adapters=rows")}
    for name, more in ways.items():
        out = tmp_path / f"{name}.png"
        own = settings(kind, "sampling.guidance=2", *more)
        done = style("transfer", photo, "--lora", lora, "-o", out, *own)
        assert done.status == 0, done.err
        made[name] = pixels(out)
    assert 0 < np.abs(made["bits"] - made["whole"]).mean() < MOST[kind]
    assert np.abs(made["rows"] - made["bits"]).mean() < 0.5
    said = store.read_provenance(tmp_path / "bits.png")
    assert said is not None
    assert said["recipe"]["backbone"]["quantize"] == "int8"


def test_an_inversion_by_whole_weights_is_not_taken_for_one_in_fewer_bits(
    style: Style, photo: Path, tmp_path: Path
) -> None:
    def inverted(name: str, *more: str) -> bytes:
        out = tmp_path / name
        done = style("invert", photo, "-o", out, *settings("sdxl", *more))
        assert done.status == 0, done.err
        return out.read_bytes()

    def kept() -> int:
        return len(list(cache.cache_dir().rglob("*.safetensors")))

    whole, first = inverted("whole.safetensors"), kept()
    bits = inverted("bits.safetensors", INT8)
    assert (first, kept()) == (1, 2)
    assert bits != whole
    assert inverted("again.safetensors", INT8) == bits
    assert kept() == 2


def test_all_that_paint_do_so_on_the_model_that_ships(
    style: Style, photo: Path, tmp_path: Path
) -> None:
    mask, lora = tmp_path / "mask.png", tmp_path / "ink.safetensors"
    Image.fromarray(np.pad(np.full((16, 24), 255, np.uint8), 12)).save(mask)
    few = (INT8, "lora.steps=3", "sampling.size=64", "sampling.steps=3", "inversion.steps=3",
           "gallery.steps=3", "dfcc.steps=3", "dfcc.min_cells=0", "dfcc.depth=none",
           "matching.semantics=features")  # fmt: skip
    own = [word for one in few for word in ("--set", one)]
    painting = draw(tmp_path / "ink.png", seed=2)
    commands = {
        lora: ("train-lora", painting),
        tmp_path / "masked.png": ("mask-transfer", photo, "--region", f"{mask}={lora}"),
        tmp_path / "switched.png": ("switch", photo, "--schedule", str(lora)),
        tmp_path / "gallery.png": ("gallery", photo, "--refs", painting),
    }
    for out, command in commands.items():
        done = style(*command, "-o", out, *own)
        assert done.status == 0, done.err
        said = store.read_provenance(out)
        assert said is not None
        assert said["recipe"]["backbone"]["quantize"] == "int8"


def test_a_plan_takes_less_memory_in_fewer_bits(style: Style, photo: Path, tmp_path: Path) -> None:
    """12.3 GB of a transformer and 8.0 of a language model become 6.3 and 4.4."""
    own = ("--backbone", "z-image", "--prompt", "ink", "--dtype", "bfloat16", "--device", "cpu",
           "--set", "sampling.size=256", "--set", "sampling.steps=4", "--dry-run")  # fmt: skip

    def planned(*more: str) -> float:
        out = tmp_path / "out.png"
        done = style("transfer", photo, "--style", photo, "-o", out, *own, *more)
        assert done.status == 0, done.err
        found = re.search(r"memory  about ([\d.]+) GB", done.out)
        assert found, done.out
        return float(found[1])

    # Whole GB are shown.
    assert planned() - planned("--set", INT8) == pytest.approx(9.6, abs=1)


def test_random_weights_in_fewer_bits_are_refused(style: Style) -> None:
    own = ("--weights", "random", "--cases", "rows", "--set", INT8)
    done = style("bench", "--backbone", "sdxl", *own)
    assert done.status == 2
    assert "backbone.quantize int8: random weights are made whole" in done.err
