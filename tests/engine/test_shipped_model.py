"""What only a trained model can show; runs on the weights that ship."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean

import pytest
import torch

from stylecli.artifacts import images
from tests.conftest import ROOT, Style

pytestmark = pytest.mark.slow

PHOTO = ROOT / "docs" / "images" / "chelsea.png"
LOOK = ROOT / "docs" / "images" / "style.png"
SMALL = ("--set", "sampling.size=128", "--set", "lora.resolution=128", "--set", "lora.steps=100")


def pixels(path: Path) -> torch.Tensor:
    return images.to_tensor(images.read(path).pixels)


def distance(a: Path, b: Path) -> float:
    return float((pixels(a) - pixels(b)).square().mean().sqrt())


def test_a_lora_learns_and_changes_the_picture_more_than_its_seed_does(
    style: Style, tmp_path: Path
) -> None:
    """The loss on the fixed pairs falls beyond three standard errors; the look beats the noise."""
    results = []
    for seed in (0, 1):
        lora = tmp_path / f"seed{seed}.safetensors"
        trained = style("train-lora", LOOK, "-o", lora, "--seed", seed, "--json", *SMALL)
        assert trained.status == 0, trained.err
        figures = trained.rows[0]["details"]
        fall = figures["loss_before"] - figures["loss_after"]
        assert fall > 3 * figures["standard_error"], figures
        out = tmp_path / f"seed{seed}.png"
        assert style("transfer", PHOTO, "-l", lora, "-o", out, "-q", *SMALL).status == 0
        results.append(out)
    without = tmp_path / "without.png"
    off = ("--set", "sampling.weight=0")
    done = style("transfer", PHOTO, "-l", lora, "-o", without, "-q", *SMALL, *off)
    assert done.status == 0, done.err
    between_seeds = distance(*results)
    assert distance(results[0], without) > between_seeds
    assert distance(results[1], without) > between_seeds


def test_the_doctor_passes_the_shipped_model(style: Style) -> None:
    done = style("doctor", "--backbone", "pocket", "--json")
    failed = [row for row in done.rows if row.get("ok") is False]
    assert not failed
    assert done.status == 0, done.err


def test_the_committed_sheet_is_backed_by_its_figures() -> None:
    """What the README says of the 24 pictures is the mean of their rows, and keeps its bounds."""
    images_folder = ROOT / "docs" / "images"
    with (images_folder / "proof.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    own = [row for row in rows if row["method"] == "diffstyler"]
    assert len(own) == 24

    def mean(metric: str, method: str = "diffstyler") -> float:
        return fmean(float(row[metric]) for row in rows if row["method"] == method)

    assert mean("edge_correlation") >= 0.6
    assert mean("pocket-gram") <= 0.75 * mean("pocket-gram", "content_copy")
    assert mean("pocket-gram") < mean("pocket-gram", "palette_transfer")
    for page in (images_folder / "proof.md", ROOT / "README.md"):
        text = page.read_text(encoding="utf-8")
        assert f"{mean('edge_correlation'):.3f}" in text
        assert f"{mean('pocket-gram'):.2f}" in text
        assert f"{mean('pocket-gram', 'palette_transfer'):.2f}" in text
