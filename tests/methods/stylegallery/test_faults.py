"""Updates that fail, and what a run leaves of the model, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone.capture import Capture
from stylecli.backbone.layers import self_attention
from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError, RecipeError
from stylecli.methods.stylegallery import optimise
from stylecli.methods.stylegallery.optimise import Subject, stylise
from stylecli.recipe.gallery import Gallery
from tests.methods.stylegallery.leading import (
    MATCHES,
    Told,
    content,
    led,
    references,
)
from tests.reference import ddim
from tests.reference import stylegallery as reference
from tests.small import lora, noise, outputs, relative, with_loras

pytestmark = pytest.mark.slow

SHORT = Gallery(steps=3)


def null(backbone: Backbone) -> Tensor:
    return backbone.encode_prompt([""]).clone()


# What fails


def spoiling(backbone: Backbone, when: Callable[[int], bool]) -> Any:
    """A hook by which the n-th pass with gradients becomes NaN in the last decoder block."""
    count = 0

    def spoil(_module: object, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal count
        if not torch.is_grad_enabled():
            return None
        count += 1
        return output * float("nan") if when(count - 1) else None

    return backbone.unet.up_blocks[3].resnets[1].register_forward_hook(spoil)


def test_an_update_without_a_number_is_left_out_and_counted(shared: Backbone) -> None:
    told = Told()
    usual = led(shared, content(), Gallery(steps=1, iterations=3))
    with spoiling(shared, lambda n: n in (1, 2, 4)):
        found = led(shared, content(), Gallery(steps=1, iterations=6), watch=told)
    assert told.skipped == [[], [0], [0], [], [0], []]
    # Adam does not notice: three sound updates are three updates.
    assert torch.equal(found, usual)


def test_one_content_of_a_batch_that_fails_leaves_the_others_alone(
    shared: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [content(), content(1)]
    real = optimise.gradients

    def broken(each: Tensor, leaves: Any, scale: float) -> list[Tensor]:
        first, second = real(each, leaves, scale)
        return [first, second * float("inf")]

    (alone,) = stylise(shared, subjects[:1], references(), SHORT, seeds=[0])
    monkeypatch.setattr(optimise, "gradients", broken)
    told = Told()
    both = stylise(shared, subjects, references(), SHORT, seeds=[0, 1], watch=told)
    assert told.skipped == [[1]] * 3
    assert relative(both[0], alone) < 1e-3
    start = reference.channel_normalised(subjects[1].noise[None])[0]
    torch.testing.assert_close(both[1], start)


def test_more_than_five_in_a_row_are_an_error_that_names_timestep_and_layer(
    shared: Backbone,
) -> None:
    with (
        spoiling(shared, lambda n: n >= 2),
        pytest.raises(ItemError, match="6 updates in a row") as caught,
    ):
        led(shared, content(), Gallery(steps=10))
    timestep = ddim.leading_grid(10)[::-1][7]
    assert f"timestep {timestep} in up_blocks.3.attentions.1" in caught.value.what
    assert "--dtype" in caught.value.fix


def test_an_end_that_is_no_number_is_an_error(shared: Backbone) -> None:
    broken = content()
    subject = Subject(broken.clean, broken.noise * float("nan"), broken.labels, MATCHES)
    with pytest.raises(ItemError, match="ended in NaN"):
        led(shared, subject, Gallery(steps=1))


def test_more_timesteps_than_the_model_has_are_refused(shared: Backbone) -> None:
    with pytest.raises(RecipeError, match="1000 steps"):
        led(shared, content(), Gallery(steps=1000))


# The model afterwards, and on the way


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (7, 9)])
def test_what_a_pass_that_is_cut_short_leaves_is_what_a_whole_one_does(
    shared: Backbone, size: tuple[int, int]
) -> None:
    capture = Capture(self_attention(shared.unet, "last_six", section="gallery"))
    latents, prompts = noise(3, 4, *size), null(shared).expand(3, -1, -1)
    with torch.no_grad(), capture.installed(shared.unet):
        with capture.recording("queries", "keys", "values", "outputs") as whole:
            shared.predict(latents, 500, prompts)
        rows: Any = {"queries": [0], "keys": [2, 1], "values": [2, 1]}
        with capture.recording("queries", "keys", "values", stop=True, rows=rows) as short:
            shared.predict(latents, 500, prompts)
        with capture.recording("outputs", stop=True) as to_the_last:
            shared.predict(latents, 500, prompts)
    assert to_the_last.outputs.keys() == whole.outputs.keys()
    for name in whole.queries:
        assert torch.equal(to_the_last.outputs[name], whole.outputs[name])
        for part in ("queries", "keys", "values"):
            wanted = getattr(whole, part)[name][rows[part]]
            # The last layer's projections see fewer rows, and may round otherwise.
            torch.testing.assert_close(getattr(short, part)[name], wanted)


def test_checkpoints_change_no_bit_and_are_taken_out_again(shared: Backbone) -> None:
    usual = led(shared, content(), SHORT)
    settings = SHORT.model_copy(update={"gradient_checkpointing": True})
    assert torch.equal(led(shared, content(), settings), usual)
    assert not shared.unet.is_gradient_checkpointing


def test_the_model_is_as_it_was_and_has_no_gradients(shared: Backbone) -> None:
    before, processors = outputs(shared), shared.unet.attn_processors
    with spoiling(shared, lambda _: True), pytest.raises(ItemError):
        led(shared, content(), Gallery(steps=8))
    assert torch.equal(outputs(shared), before)
    assert shared.unet.attn_processors == processors
    assert all(parameter.grad is None for parameter in shared.unet.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_an_accelerator_is_on_while_latents_are_led_and_off_again_even_after_an_error(
    fresh: Backbone, fused: bool
) -> None:
    from stylecli.backbone.adapters import Adapters

    without = led(fresh, content(), SHORT)
    before = outputs(fresh)
    with_loras(fresh, fast=lora(fresh.unet))
    adapters = Adapters(fresh.unet, fused=fused)
    adapters.adopt("fast")
    assert torch.equal(led(fresh, content(), SHORT), without)
    inside = led(fresh, content(), SHORT, adapters=adapters)
    assert relative(inside, without) > 1e-4
    with adapters.use({"fast": 1.0}):
        assert torch.equal(led(fresh, content(), SHORT), inside)
    assert torch.equal(outputs(fresh), before)
    with spoiling(fresh, lambda _: True), pytest.raises(ItemError):
        led(fresh, content(), Gallery(steps=8), adapters=adapters)
    assert torch.equal(outputs(fresh), before)


def test_latents_from_inference_mode_can_be_led_and_nothing_random_is_drawn(
    shared: Backbone,
) -> None:
    usual = led(shared, content(), SHORT)
    with torch.inference_mode():
        subject = content()
        styles = references()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert torch.equal(led(shared, subject, SHORT, references=styles), usual)
    assert torch.equal(torch.get_rng_state(), state)
