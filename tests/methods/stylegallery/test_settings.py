"""What settings change, and the first latents of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.recipe.gallery import Gallery
from tests.methods.stylegallery.leading import PAIRS, content, led, references
from tests.small import relative

SHORT = Gallery(steps=3)
GUIDED: dict[str, Any] = {"mode": "guided", "steps": 10}
CHANGES: list[dict[str, Any]] = [
    {"lr": 0.01},
    {"style_weight": 0.3},
    {"content_weight": 1.0},
    {"attn_scale": 1.0},
    {"layers": (11,)},
    {"mask_mode": "zero"},
    {"content_attn": "region"},
    {"masks": False},
    {"key_masks": "nearest"},
    {"timesteps": "trailing"},
    {"timesteps": "lcm"},
    {"iterations": 2},
    {"refresh": 3},
    {"steps": 2},
    GUIDED,
    *({"init": init} for init in ("inv", "inv_instnorm", "content", "noise", "adain")),
]
# What others read before latents are led, and what changes nothing but the memory it takes.
OF_OTHERS = {
    *("profile", "preset", "accelerator", "fit", "alpha", "gradient_checkpointing"),
    *("mask", "ref_masks", "match", "only", "exclude", "strength"),
}


@pytest.fixture(scope="module")
def usual(shared: Backbone) -> Tensor:
    return led(shared, content(), SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_setting_changes_the_result(
    shared: Backbone, usual: Tensor, change: dict[str, Any]
) -> None:
    other = led(shared, content(), Gallery.model_validate(SHORT.model_dump() | change))
    assert relative(other, usual) > 1e-5


@pytest.mark.slow
def test_noise_is_for_guided_mode_alone(shared: Backbone, usual: Tensor) -> None:
    drawn = SHORT.model_copy(update={"noise": "random"})
    assert torch.equal(led(shared, content(), drawn), usual)
    own = led(shared, content(), Gallery(**GUIDED))
    assert relative(led(shared, content(), Gallery(noise="random", **GUIDED)), own) > 1e-5


def test_no_setting_of_the_updates_is_forgotten_here() -> None:
    changed = {name for change in CHANGES for name in change} | {"noise"}
    assert changed == set(Gallery.model_fields) - OF_OTHERS


def test_normalised_channels_sum_to_zero_and_their_squares_to_three(shared: Backbone) -> None:
    off = {"style_weight": 0.0, "content_weight": 0.0, "steps": 1}
    subject = content()

    def start(init: str) -> Tensor:
        return led(shared, subject, Gallery.model_validate(off | {"init": init}))

    normalised = start("inv_chnorm")
    assert float(normalised.sum(dim=0).abs().max()) < 1e-6
    torch.testing.assert_close(
        normalised.square().sum(dim=0), torch.full((8, 12), 3.0).double(), rtol=1e-6, atol=0
    )
    assert torch.equal(start("inv"), subject.noise)
    assert torch.equal(start("content"), subject.clean)
    flat = start("inv_instnorm").flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(flat.std(dim=1), torch.ones(4).double(), atol=1e-6, rtol=0)
    drawn_ = start("noise")
    torch.manual_seed(5)
    assert torch.equal(start("noise"), drawn_)
    assert abs(float(drawn_.std()) - 1) < 0.2


def test_adain_gives_each_region_the_statistics_of_its_match(shared: Backbone) -> None:
    subject = content()
    settings = Gallery(steps=1, init="adain", style_weight=0, content_weight=0)
    found = led(shared, subject, settings)
    styles = references()
    for number, (style, regions) in PAIRS.items():
        here = subject.labels == number
        if style is None:
            torch.testing.assert_close(found[:, here], subject.noise[:, here])
            continue
        there = sum(styles[style].labels == region for region in regions) > 0
        for channel in range(4):
            own, theirs = found[channel, here], styles[style].noise[channel, there]
            assert float(own.mean()) == pytest.approx(float(theirs.mean()), abs=1e-6)
            assert float(own.std(correction=0)) == pytest.approx(
                float(theirs.std(correction=0)), rel=1e-5
            )
