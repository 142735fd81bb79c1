"""Attention Distillation against the slow reference: its loss, one update, and all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.capture import Captured
from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError, RecipeError
from stylecli.methods.attention_distillation import distil, losses, one_update
from stylecli.recipe.baselines import Distill
from tests.reference import attention_distillation as reference
from tests.reference import ddim
from tests.small import noise, outputs, relative

SETTINGS = Distill(iterations=3)
NAMES = ("up.a", "up.b")
# Layers of several sizes: tokens, width.
SIZES = {"up.a": (6, 4), "up.b": (9, 2)}


def layers(seed: int, tokens: int | None = None) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys and values of two layers of one row."""
    found = {}
    for i, (name, (n, width)) in enumerate(SIZES.items()):
        q, k, v = (noise(1, 2, tokens or n, width, seed=seed + 10 * i + j) for j in range(3))
        found[name] = q, k, v
    return found


def captured(of: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Captured:
    return Captured(
        queries={name: q for name, (q, _, _) in of.items()},
        keys={name: k for name, (_, k, _) in of.items()},
        values={name: v for name, (_, _, v) in of.items()},
        outputs={
            name: torch.nn.functional.scaled_dot_product_attention(*qkv) for name, qkv in of.items()
        },
    )


@given(st.integers(0, 999), st.floats(0, 2), st.floats(0.2, 3), st.integers(1, 12))
def test_the_loss_and_its_gradients_are_the_papers(
    seed: int, weight: float, scale: float, style_tokens: int
) -> None:
    own, content, style = layers(seed), layers(seed + 100), layers(seed + 200, style_tokens)
    leaves = [x.requires_grad_() for qkv in own.values() for x in qkv]
    found = losses(captured(own), captured(content), captured(style), weight, scale)
    wanted = reference.loss(own, content, style, weight, scale)
    torch.testing.assert_close(found[0], wanted, rtol=1e-5, atol=1e-6)
    gradients = zip(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(wanted, leaves), strict=True
    )
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 999), st.floats(0, 2))
def test_there_is_no_loss_only_where_attention_and_queries_are_the_same(
    seed: int, weight: float
) -> None:
    own = layers(seed)
    assert float(losses(captured(own), captured(own), captured(own), weight)) == 0
    other = layers(seed + 50)
    assert float(losses(captured(own), captured(own), captured(other), weight)) > 0
    apart = float(losses(captured(own), captured(other), captured(own), weight))
    assert apart == pytest.approx(
        weight * sum(float((own[n][0] - other[n][0]).abs().mean()) for n in NAMES),
        rel=1e-5,
    )


def test_the_target_sends_no_gradient_to_the_queries() -> None:
    """One token looks at itself alone, so its output does not depend on its query."""
    own = {"one": tuple(noise(1, 1, 1, 2, seed=i).requires_grad_() for i in range(3))}
    style = {"one": tuple(noise(1, 1, 3, 2, seed=i + 5) for i in range(3))}
    loss = losses(captured(own), captured(own), captured(style), 0.0)
    query, _, value = torch.autograd.grad(loss.sum(), own["one"])
    assert not query.any()
    assert value.abs().tolist() == [[[[0.5, 0.5]]]]


def test_one_update_is_adams_first_step() -> None:
    latents = noise(1, 2, 3, 4).requires_grad_()
    before = latents.detach().clone()

    def look(z: Tensor) -> Captured:
        return Captured(outputs={"a": z.tanh()})

    def loss(found: Captured) -> Tensor:
        return found.outputs["a"].square().sum(dim=(1, 2, 3))

    optimiser = torch.optim.Adam([latents], lr=0.05)
    first = one_update(latents, optimiser, look, loss)
    torch.testing.assert_close(first, before.tanh().square().sum()[None])
    leaf = before.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(leaf.tanh().square().sum(), leaf)
    adam = reference.Adam(0.05, torch.zeros_like(before), torch.zeros_like(before))
    assert relative(latents.detach(), adam.step(before, gradient)) < 1e-6
    # As a power of two it changes no digit.
    scaled = before.clone().requires_grad_()
    one_update(scaled, torch.optim.Adam([scaled], lr=0.05), look, loss, scale=2.0**14)
    assert torch.equal(scaled, latents)


@pytest.mark.slow
def test_its_updates_are_those_of_the_reference(shared: Backbone) -> None:
    """Through the whole model, with a style of another size; Adam's moments go on."""
    content, style = noise(1, 4, 8, 8), noise(1, 4, 8, 16, seed=1)
    (found,) = distil(shared, content, [style], SETTINGS)
    timesteps = ddim.leading_grid(3)[::-1]
    path = reference.distil(
        shared.unet,
        content,
        style,
        timesteps,
        null=shared.encode_prompt([""]).clone(),
        lr=0.05,
        weight=0.25,
    )
    assert relative(found, path[-1]) < 1e-5
    assert relative(found - content, path[-1] - content) < 1e-3


@pytest.mark.slow
def test_a_content_that_is_its_own_style_stays(shared: Backbone) -> None:
    content = noise(1, 4, 8, 8)
    (found,) = distil(shared, content, [content], SETTINGS)
    assert torch.equal(found, content)


@pytest.mark.slow
def test_updates_come_nearer_to_the_styles_attention(shared: Backbone) -> None:
    content, style = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    null = shared.encode_prompt([""]).clone()

    def loss_of(latents: Tensor) -> float:
        with torch.no_grad():
            notes = []
            for one in (latents, content, style):
                with reference.noted(shared.unet, reference.LAYERS) as found:
                    shared.unet(one, 1, encoder_hidden_states=null)
                notes.append(found)
            return float(reference.loss(*notes, weight=0.0))

    (made,) = distil(shared, content, [style], Distill(iterations=10, content_weight=0))
    assert loss_of(made) < loss_of(content)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "change",
    [{"lr": 0.01}, {"content_weight": 2.0}, {"scale": 2.0}, {"layers": (11,)}, {"iterations": 2}],
)
def test_every_setting_changes_the_result(shared: Backbone, change: dict[str, object]) -> None:
    content, style = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    (usual,) = distil(shared, content, [style], SETTINGS)
    changed = Distill.model_validate(SETTINGS.model_dump() | change)
    (other,) = distil(shared, content, [style], changed)
    assert relative(other, usual) > 1e-4


@pytest.mark.slow
def test_checkpoints_change_no_bit_and_are_taken_out_again(shared: Backbone) -> None:
    content, style = noise(1, 4, 8, 8), noise(1, 4, 8, 8, seed=1)
    (usual,) = distil(shared, content, [style], SETTINGS)
    settings = SETTINGS.model_copy(update={"gradient_checkpointing": True})
    (less_memory,) = distil(shared, content, [style], settings)
    assert torch.equal(less_memory, usual)
    assert not shared.unet.is_gradient_checkpointing


@pytest.mark.slow
def test_a_result_does_not_depend_on_what_is_made_beside_it(shared: Backbone) -> None:
    content, style, other = (noise(1, 4, 8, 8, seed=i) for i in range(3))
    (alone,) = distil(shared, content, [style], SETTINGS)
    first, second = distil(shared, content, [other, style], SETTINGS)
    assert torch.equal(second, alone)
    assert not torch.allclose(first, second)
    (batch,) = distil(shared, torch.cat([other, content]), [style], SETTINGS)
    assert relative(batch[1:], alone) < 1e-4


@pytest.mark.slow
def test_an_update_costs_two_rows_more_than_its_own(shared: Backbone) -> None:
    """Content and style beside it; none of the three reaches the end of the model."""
    rows, ends = [], []
    hooks = [
        shared.unet.conv_in.register_forward_hook(lambda _, i, __: rows.append(len(i[0]))),
        shared.unet.conv_out.register_forward_hook(lambda _, i, __: ends.append(len(i[0]))),
    ]
    style = noise(1, 4, 8, 8, seed=1)
    distil(shared, noise(1, 4, 8, 8), [style, style], SETTINGS)
    for hook in hooks:
        hook.remove()
    assert sum(rows) == 3 * (1 + 2 * 2)
    assert not ends


@pytest.mark.slow
def test_the_model_is_as_it_was_and_has_no_gradients(shared: Backbone) -> None:
    before = outputs(shared)
    distil(shared, noise(1, 4, 8, 8), [noise(1, 4, 8, 8, seed=1)], SETTINGS)
    assert torch.equal(outputs(shared), before)
    assert all(parameter.grad is None for parameter in shared.unet.parameters())


def test_more_updates_than_timesteps_are_refused(shared: Backbone) -> None:
    with pytest.raises(RecipeError, match="1000 steps"):
        distil(shared, noise(1, 4, 8, 8), [noise(1, 4, 8, 8)], Distill(iterations=1000))


def test_an_end_that_is_no_number_is_an_error(shared: Backbone) -> None:
    broken = noise(1, 4, 8, 8) * float("nan")
    with pytest.raises(ItemError, match=r"distill|NaN"):
        distil(shared, broken, [noise(1, 4, 8, 8)], Distill(iterations=1))
