"""Latents led to their regions' styles, against the plain implementation of the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.methods.stylegallery.match import Match
from stylecli.methods.stylegallery.optimise import Reference, Subject, stylise
from stylecli.recipe.gallery import Gallery
from tests.methods.stylegallery.leading import (
    MATCHES,
    PAIRS,
    Told,
    content,
    drawn,
    led,
    passes,
    picture,
    precise,
    references,
)
from tests.reference import ddim
from tests.reference import stylegallery as reference
from tests.small import relative

SHORT = Gallery(steps=3)


@pytest.fixture(scope="module")
def double() -> Backbone:
    return precise()


def null(backbone: Backbone) -> Tensor:
    return backbone.encode_prompt([""]).clone()


# The same as the plain implementation


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("mask_mode", "key_masks", "iterations"),
    [
        ("zero", "nearest", 1),
        pytest.param("exclude", "area", 1, marks=pytest.mark.slow),
        pytest.param("exclude", "nearest", 2, marks=pytest.mark.slow),
    ],
)
def test_ten_timesteps_are_those_of_the_plain_implementation(
    double: Backbone, mask_mode: str, key_masks: str, iterations: int
) -> None:
    """Latents in float64, a reference of another size among the two, one region kept."""
    subject = content()
    settings = Gallery.model_validate(
        {"steps": 10, "mask_mode": mask_mode, "key_masks": key_masks, "iterations": iterations}
    )
    told = Told()
    found = led(double, subject, settings, watch=told)
    timesteps = ddim.leading_grid(10)[::-1]
    path = reference.stylise(
        double.unet,
        picture(subject),
        [picture(one) for one in references()],
        PAIRS,
        timesteps,
        null=null(double),
        settings=reference.Settings(mask_mode=mask_mode, masks=key_masks, iterations=iterations),
    )
    assert relative(found, path[-1][0]) < 1e-12
    assert told.timesteps == [t for t in timesteps for _ in range(iterations)]


@pytest.mark.slow
def test_a_content_that_is_its_own_style_has_no_loss_until_logits_are_sharpened(
    double: Backbone,
) -> None:
    one = references()[1]

    def first(regions: int, **settings: Any) -> tuple[float, float]:
        labels = drawn((8, 12), regions, 0)
        matches = [Match(number, 0, (number,)) for number in range(1, regions + 1)]
        told = Told()
        led(
            double,
            Subject(one.clean, one.noise, labels, matches),
            Gallery(steps=1, init="content", **settings),
            references=[Reference(one.clean, one.noise, labels)],
            watch=told,
        )
        return float(told.style[0]), float(told.content[0])

    style, own = first(1, attn_scale=1.0)
    assert style < 1e-6
    assert own == 0
    assert first(1)[0] > 1e-4
    # The authors' zeros draw every target towards nothing, and so does a region its own way.
    assert first(2, attn_scale=1.0, mask_mode="zero")[0] > 1e-4


@pytest.mark.slow
def test_updates_lower_the_loss(double: Backbone) -> None:
    told = Told()
    led(double, content(), Gallery(steps=1, iterations=10), watch=told)
    whole = [float(s + 0.26 * c) for s, c in zip(told.style, told.content, strict=True)]
    assert whole[-1] < 0.9 * whole[0]


# Batches


@pytest.mark.slow
def test_a_batch_is_its_contents_one_by_one(double: Backbone) -> None:
    """Of other regions and matches, also where few rows pass together."""
    subjects = [
        content(),
        content(7, [Match(1, 2, (1,)), Match(2, 0, ()), Match(3, 2, (1,), strength=0.5)]),
        content(8, [Match(2, 1, (2,))]),
    ]
    for settings in (Gallery(steps=2, init="noise"), Gallery(steps=2, mode="guided")):
        alone = [
            stylise(double, [one], references(), settings, seeds=[seed])
            for seed, one in enumerate(subjects)
        ]
        for at_once in (None, 2):
            double.max_rows = at_once
            try:
                batch = stylise(double, subjects, references(), settings, seeds=[0, 1, 2])
            finally:
                double.max_rows = None
            # Guided mode takes what the model predicts in float32.
            bound = 1e-8 if settings.mode == "optimize" else 1e-5
            assert relative(batch, torch.cat(alone)) < bound


@pytest.mark.slow
def test_references_pass_once_for_all_contents_and_only_those_that_are_named(
    shared: Backbone,
) -> None:
    """Contents together, as their latents will; each reference alone, whatever its size."""
    subjects = [content(), content(1)]
    with passes(shared) as found:
        stylise(shared, subjects, references(), SHORT, seeds=[0, 1])
    assert found.seen == [2, 1, 1] * 3
    assert found.led == [2] * 3
    assert not found.ended
    with passes(shared) as kept:
        led(shared, content(2, [Match(1, None, ()), Match(2, None, (), strength=0.0)]), SHORT)
    assert kept.seen == [1] * 3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_contents_have_the_queries_of_latents_that_start_there_to_the_last_bit(
    shared: Backbone, double: Backbone, at_once: int | None
) -> None:
    """Three in a batch, or as many passes as it takes; updates follow signs, so none is too small.

    One keeps a region, so its keys and values are taken from the pass that its queries are from.
    """
    others = [Match(1, 0, (2,)), Match(2, 1, (1,)), Match(3, 2, ())]
    subjects = [content(), content(7, others), content(8, others[:1])]
    for backbone in (shared, double):
        told = Told()
        backbone.max_rows = at_once
        try:
            stylise(
                backbone,
                subjects,
                references(),
                Gallery(steps=1, init="content"),
                seeds=[0, 1, 2],
                watch=told,
            )
        finally:
            backbone.max_rows = None
        assert told.content[0].tolist() == [0.0] * 3


@pytest.mark.slow
def test_the_number_of_references_changes_no_bit_of_a_content(shared: Backbone) -> None:
    """Neither those that nobody names, nor those that its companion does, of its size or not.

    Latents start at the content, where a last bit of its queries already turns a sign.
    """
    one = content(0, [Match(1, 0, (2,)), Match(2, 0, (1,)), Match(3, 0, ())])

    def made(styles: int, *companions: int) -> Tensor:
        named = [Match(number, at, ()) for number, at in enumerate(companions, start=1)]
        subjects = [one, content(7, named)]
        given = [*references(), *references()[1:]][:styles]
        settings = Gallery(steps=2, init="content")
        return stylise(shared, subjects, given, settings, seeds=[0, 1])[0]

    usual = made(1, 0, 0, 0)
    assert torch.equal(made(5, 0, 0, 0), usual)
    assert torch.equal(made(5, 0, 1, 2), usual)
    assert torch.equal(made(5, 3, 1, 4), usual)


@pytest.mark.slow
def test_few_rows_pass_at_once_where_so_many_fit(shared: Backbone) -> None:
    shared.max_rows = 1
    try:
        with passes(shared) as found:
            stylise(shared, [content(), content(1)], references(), SHORT, seeds=[0, 1])
    finally:
        shared.max_rows = None
    assert found.seen == [1] * 4 * 3
    assert found.led == [1] * 2 * 3


@pytest.mark.slow
def test_refresh_passes_what_stays_the_same_less_often(shared: Backbone) -> None:
    with passes(shared) as found:
        led(shared, content(), Gallery(steps=5, refresh=2, iterations=2))
    assert sum(found.seen) == 3 * 3  # at timesteps 1, 3 and 5
    assert found.led == [1] * 2 * 5
    once = led(shared, content(), Gallery(steps=1, refresh=9, iterations=2))
    assert torch.equal(once, led(shared, content(), Gallery(steps=1, iterations=2)))


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("change", "seen", "is_led"),
    [
        ({"style_weight": 0.0}, [1], True),
        # The content's own keys are still what one region looks at.
        ({"content_weight": 0.0}, [1, 1, 1], True),
        ({"style_weight": 0.0, "content_weight": 0.0}, [], False),
    ],
    ids=str,
)
def test_what_weighs_nothing_does_not_pass(
    shared: Backbone, change: dict[str, Any], seen: list[int], is_led: bool
) -> None:
    settings = Gallery.model_validate(SHORT.model_dump() | change)
    with passes(shared) as found:
        led(shared, content(), settings)
    assert sorted(found.seen) == sorted(seen * 3)
    assert found.led == ([1] * 3 if is_led else [])
    without = content(0, [match for match in MATCHES if match.style is not None])
    with passes(shared) as found:
        led(shared, without, Gallery(steps=3, content_weight=0))
    assert found.seen == [1, 1] * 3
