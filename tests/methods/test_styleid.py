"""StyleID against the slow reference, and the laws of its one formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.inversion import Trajectory, invert, null_prediction
from stylecli.backbone.model import Backbone
from stylecli.errors import ItemError, RecipeError
from stylecli.methods.styleid import attend, stylise
from stylecli.recipe.baselines import StyleId
from stylecli.tensors.attention import attention
from tests.reference import ddim
from tests.reference import styleid as reference
from tests.small import noise, outputs, relative

STEPS = 4
LAYER = (2, 2, 5, 3)  # rows, heads, tokens, width


def inverted(backbone: Backbone, clean: Tensor) -> Trajectory:
    schedule = backbone.schedule
    predict = null_prediction(backbone, len(clean))
    return invert(clean, predict, schedule, schedule.levels(STEPS))


@pytest.fixture(scope="module")
def content(shared: Backbone) -> Trajectory:
    return inverted(shared, noise(1, 4, 8, 8))


@pytest.fixture(scope="module")
def style(shared: Backbone) -> Trajectory:
    """Of another size than the content."""
    return inverted(shared, noise(1, 4, 8, 16, seed=1) * 2 + 0.3)


@given(st.floats(0, 1), st.floats(0.1, 4), st.integers(1, 6))
def test_a_layer_is_the_papers_formula(gamma: float, temperature: float, tokens: int) -> None:
    query_content, query = noise(*LAYER), noise(*LAYER, seed=1)
    key, value = (noise(2, 2, tokens, 3, seed=seed) for seed in (2, 3))
    given_all = (query_content, query, key, value, gamma, temperature)
    torch.testing.assert_close(
        attend(*given_all), reference.attend(*given_all), rtol=1e-5, atol=1e-5
    )


@given(st.floats(0.1, 4), st.integers(0, 99))
def test_gamma_says_whose_queries_look(temperature: float, seed: int) -> None:
    one, other = noise(*LAYER, seed=seed), noise(*LAYER, seed=seed + 100)
    key, value = noise(*LAYER, seed=2), noise(*LAYER, seed=3)

    def looking(query: Tensor) -> Tensor:
        return attention(query, key, value, temperature)

    of_content = attend(one, other, key, value, 1.0, temperature)
    torch.testing.assert_close(of_content, looking(one))
    own = attend(one, other, key, value, 0.0, temperature)
    torch.testing.assert_close(own, looking(other))


@given(st.floats(0, 1), st.integers(0, 99))
def test_equal_features_at_temperature_one_are_plain_attention(gamma: float, seed: int) -> None:
    query, key, value = (noise(*LAYER, seed=seed + i) for i in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    found = attend(query, query, key, value, gamma, 1.0)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_it_is_what_the_reference_does(
    prediction: str, shared: Backbone, shared_velocity: Backbone
) -> None:
    backbone = shared if prediction == "epsilon" else shared_velocity
    paths = [inverted(backbone, noise(1, 4, 8, 8 * n, seed=n)) for n in (1, 2)]
    settings = StyleId(gamma=0.6, temperature=1.3)
    (found,) = stylise(backbone, paths[0], paths[1:], settings)
    timesteps = ddim.leading_grid(STEPS)
    wanted = reference.stylise(
        backbone.unet,
        list(paths[0].latents.clone()),
        list(paths[1].latents.clone()),
        timesteps,
        ddim.level_alphas(timesteps),
        prediction=prediction,
        null=backbone.encode_prompt([""]).clone(),
        gamma=0.6,
        temperature=1.3,
    )
    assert relative(found, wanted) < 1e-5


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    "change", [{"gamma": 0.2}, {"temperature": 3.0}, {"adain": False}, {"layers": (9, 10, 11)}]
)
def test_every_setting_changes_the_result(
    shared: Backbone, content: Trajectory, style: Trajectory, change: dict[str, object]
) -> None:
    (usual,) = stylise(shared, content, [style], StyleId())
    (changed,) = stylise(shared, content, [style], StyleId.model_validate(change))
    assert relative(changed, usual) > 1e-4


def test_without_adain_it_starts_from_the_contents_noise(
    shared: Backbone, content: Trajectory
) -> None:
    """And a content that is its own style then has nothing to look for elsewhere."""
    settings = StyleId(gamma=1, temperature=1, adain=False)
    one_step = shared.schedule.levels(1)
    path = Trajectory(one_step, torch.stack([content.latents[0], content.latents[-1]]))
    (found,) = stylise(shared, path, [path], settings)
    output = null_prediction(shared, 1)(path.latents[-1], one_step.timesteps[0])
    wanted = shared.schedule.step(path.latents[-1], output, *reversed(one_step.alphas))
    torch.testing.assert_close(found, wanted)


@pytest.mark.slow
def test_a_result_does_not_depend_on_what_is_made_beside_it(
    shared: Backbone, content: Trajectory, style: Trajectory
) -> None:
    other = inverted(shared, noise(1, 4, 8, 8, seed=5))
    (alone,) = stylise(shared, content, [style], StyleId())
    first, second = stylise(shared, content, [other, style], StyleId())
    assert torch.equal(second, alone)
    assert not torch.allclose(first, second)
    both = Trajectory(content.levels, torch.cat([other.latents, content.latents], dim=1))
    (batch,) = stylise(shared, both, [style], StyleId())
    assert relative(batch[1:], alone) < 1e-5


@pytest.mark.slow
def test_a_step_costs_a_row_of_the_content_and_two_of_every_style(
    shared: Backbone, content: Trajectory, style: Trajectory
) -> None:
    """What ends early counts as a row, and does not reach the end."""
    rows, ends = [], []
    hooks = [
        shared.unet.conv_in.register_forward_hook(lambda _, i, __: rows.append(len(i[0]))),
        shared.unet.conv_out.register_forward_hook(lambda _, i, __: ends.append(len(i[0]))),
    ]
    stylise(shared, content, [style, style], StyleId())
    for hook in hooks:
        hook.remove()
    assert sum(rows) == STEPS * (1 + 2 * 2)
    assert sum(ends) == STEPS * 2


@pytest.mark.slow
def test_the_model_is_as_it_was(shared: Backbone, content: Trajectory, style: Trajectory) -> None:
    before = outputs(shared)
    stylise(shared, content, [style], StyleId())
    assert torch.equal(outputs(shared), before)


def test_a_layer_that_is_not_there_is_named(
    shared: Backbone, content: Trajectory, style: Trajectory
) -> None:
    with pytest.raises(RecipeError, match=r"styleid\.layers: layer 12 does not exist"):
        stylise(shared, content, [style], StyleId(layers=(12,)))


def test_a_result_that_is_no_number_is_an_error(shared: Backbone, style: Trajectory) -> None:
    broken = Trajectory(style.levels, style.latents * float("nan"))
    with pytest.raises(ItemError, match="NaN"):
        stylise(shared, broken, [style], StyleId())
