"""Targets, commands and seeds: the same whenever they are made."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts import images
from stylecli.engine.route.data import making
from stylecli.engine.route.data.making import Styled, Subject, View
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, Style, instruct

OBJECTS = ("cat", "dining table", "café au lait", "8-ball", "style", "pixel-art print", "the cat")
STYLES = (*PAPER, Style("streamline-emojis", "outlined pastel"), Style("x", "black and white"))


def pictured(seed: int, size: tuple[int, int] = (24, 32)) -> tuple[View, Styled]:
    chance = torch.Generator().manual_seed(seed)
    before, after = torch.rand(2, 3, *size, generator=chance)
    before = images.to_float(images.to_pixels(before))
    mask = torch.rand(size, generator=chance) < 0.4
    mask[0, 0] = True
    return View(b"", ".png", before, mask), Styled(after, mask, 0, {})


@given(st.integers(0, 200))
def test_a_target_is_the_picture_outside_and_the_styled_one_inside(seed: int) -> None:
    view, styled = pictured(seed)
    target = torch.from_numpy(np.array(making.target_of(view, styled, 0.0)))
    before, after = images.to_pixels(view.picture), images.to_pixels(styled.picture)
    assert torch.equal(target[~view.mask], before[~view.mask])
    assert torch.equal(target[view.mask], after[view.mask])


def test_a_feathered_target_is_the_picture_far_outside_and_the_styled_one_deep_inside() -> None:
    view, styled = pictured(0, (64, 64))
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    view, styled = View(b"", ".png", view.picture, mask), Styled(styled.picture, mask, 0, {})
    target = torch.from_numpy(np.array(making.target_of(view, styled, 2.0)))
    hard = torch.from_numpy(np.array(making.target_of(view, styled, 0.0)))
    far = torch.zeros(64, 64, dtype=torch.bool)
    far[:8] = far[:, :8] = far[28:36, 28:36] = True
    assert torch.equal(target[far], hard[far])
    assert not torch.equal(target, hard)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.id)
def test_spans_are_on_the_object_and_on_the_style(template: str, style: Style) -> None:
    for thing in OBJECTS:
        said = instruct(thing, style, template)
        assert said.prompt[slice(*said.object_span)] == thing
        assert said.prompt[slice(*said.style_span)] == style.phrase
        assert said.prompt == template.format(object=thing, style=style.phrase)


def test_half_of_varied_commands_are_canonical_and_the_others_evenly_otherwise() -> None:
    told = [
        making.told(Subject(f"{k}", "cat", "train"), PAPER[0], varies=True).prompt
        for k in range(1400)
    ]
    counts = [told.count(t.format(object="cat", style="pixel-art")) for t in TEMPLATES]
    assert sum(counts) == len(told)
    assert abs(counts[0] - 700) < 80
    assert all(abs(count - 700 / 6) < 45 for count in counts[1:])


def test_a_command_is_the_same_every_time_and_canonical_where_nothing_varies() -> None:
    subject = Subject("142", "bread", "train")
    once, again = (making.told(subject, PAPER[3], varies=True) for _ in range(2))
    assert once == again
    plain = making.told(subject, PAPER[3], varies=False)
    assert plain.prompt == "make the bread in line-art style, keep other area unchanged"
    longer = making.told(subject, PAPER[3], varies=False, include_style_word=True)
    assert longer.prompt[slice(*longer.style_span)] == "line-art style"


def test_seeds_are_the_first_eight_digits_of_the_digest() -> None:
    digest = hashlib.sha256(b"000000000142|pixel_art").hexdigest()
    assert making.seed_of("000000000142", PAPER[0]) == int(digest[:8], 16)


@given(st.text(max_size=20))
def test_names_become_parts_of_file_names(name: str) -> None:
    made = making.slug(name)
    assert made
    assert re.fullmatch(r"[A-Za-z0-9_-]+", made)


def test_a_mask_is_one_bit_a_pixel() -> None:
    mask = torch.tensor([[True, False, True]])
    image = making.mask_image(mask)
    assert image.mode == "1"
    assert np.array(image).tolist() == mask.tolist()
