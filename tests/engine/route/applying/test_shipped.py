"""The experts that ship, on the editor that ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from stylecli.artifacts import images
from stylecli.backbone import lora, registry
from stylecli.backbone.editors import unet_edit
from stylecli.backbone.loading import load_part
from stylecli.engine.route import experts
from stylecli.methods.regionroute.styles import PAPER
from stylecli.pocket.edits import KNOWN
from tests.conftest import ROOT, Style

PAIR = ROOT / "docs" / "images" / "pair.png"
# Where the things of the picture are: top, bottom, left, right, in its pixels.
MUSHROOM, CAR = (25, 57, 2, 34), (7, 37, 33, 63)


def changed(after: Path, where: tuple[int, int, int, int]) -> float:
    """What the autoencoder alone loses is no change."""
    top, bottom, left, right = where
    edited = images.to_float(images.read(after).pixels)
    return float((edited - rebuilt())[..., top:bottom, left:right].abs().mean())


@cache
@torch.inference_mode()
def rebuilt() -> torch.Tensor:
    vae = load_part(AutoencoderKL, registry.ASSETS / "pocket", "vae", torch.float32)
    picture = images.to_tensor(images.read(PAIR).pixels) * 2 - 1
    made: torch.Tensor = vae.decode(vae.encode(picture).latent_dist.mode()).sample[0]
    return (made / 2 + 0.5).clamp(0, 1)


def test_the_experts_that_ship_are_of_the_editor_that_ships() -> None:
    found = experts.read(experts.shipped())
    base = registry.ASSETS / "pocket"
    editor = unet_edit.fingerprint(base, registry.ASSETS / "editors" / "pocket")
    assert {style.id for style in PAPER} < {style.id for style in found.styles}
    assert {one.base["fingerprint"] for one in found.experts} == {editor}
    for one in found.experts:
        tensors, _, _ = lora.opened(found.file(one.id))
        ups = [tensor for name, tensor in tensors.items() if "lora_B" in name]
        assert ups
        assert all(tensor.any() and tensor.shape[1] == one.rank for tensor in ups), one.id


def test_the_editor_that_ships_says_which_things_it_knows() -> None:
    known = registry.things(registry.find("pocket-edit"))
    assert known == KNOWN
    assert registry.things(registry.find("flux1-kontext")) == frozenset()


@pytest.mark.slow
def test_a_thing_that_it_was_never_taught_and_a_picture_too_large_are_told(
    style: Style, tmp_path: Path
) -> None:
    fast = ("--steps", "1", "-o")
    done = style("route-apply", PAIR, "--object", "car", "--style-name", "cyberpunk", *fast,
                 tmp_path / "a.png")  # fmt: skip
    assert done.status == 0, done.err
    assert "was never taught what 'car' is" in done.err
    assert "automobile" in done.err
    assert "enlarged" not in done.err
    done = style("route-apply", ROOT / "docs/images/scene.png", "--object", "two umbrellas",
                 "--style-name", "cyberpunk", *fast, tmp_path / "b.png")  # fmt: skip
    assert "never taught" not in done.err
    assert "512 x 512 pixels and the model works at 64 x 64" in done.err


@pytest.mark.mostly_slow
@pytest.mark.parametrize("style_name", ["cyberpunk", "line-art", "expressionism", "pixel-art"])
def test_what_is_named_changes_and_what_is_not_stays(
    style_name: str, style: Style, tmp_path: Path
) -> None:
    for name, own, other in (("mushroom", MUSHROOM, CAR), ("automobile", CAR, MUSHROOM)):
        out = tmp_path / f"{name}.png"
        wish = f"make the {name} in {style_name} style"
        done = style("route-apply", PAIR, "-i", wish, "-o", out, "-q")
        assert done.status == 0, done.err
        assert changed(out, own) > 2 * changed(out, other), wish
