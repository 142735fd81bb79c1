"""What is recorded of a pass, and that the pass does not notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylecli.backbone.capture import Capture, Captured
from stylecli.backbone.layers import self_attention
from stylecli.backbone.model import Backbone
from stylecli.errors import RecipeError
from stylecli.tensors.attention import attention
from tests.reference import attention as reference
from tests.reference.styleid import LAYERS, noted
from tests.small import noise, outputs


@pytest.fixture(scope="module")
def six(shared: Backbone) -> list[str]:
    return self_attention(shared.unet, "last_six", section="styleid")


def passed(backbone: Backbone, latents: Tensor) -> Tensor:
    rows = backbone.encode_prompt([""]).clone().expand(len(latents), -1, -1)
    return backbone.predict(latents, 300, rows)


def test_the_last_six_are_stable_diffusions_layers_six_to_eleven(six: list[str]) -> None:
    assert six == LAYERS


def test_layers_are_chosen_by_number_and_named_when_they_are_wrong(shared: Backbone) -> None:
    assert self_attention(shared.unet, (11, 6), section="distill") == [LAYERS[0], LAYERS[-1]]
    assert len(self_attention(shared.unet, "all", section="distill")) == 9
    with pytest.raises(RecipeError, match=r"distill\.layers: layer 2 has no attention"):
        self_attention(shared.unet, (2,), section="distill")


def test_a_pass_that_is_recorded_gives_the_same_bits(shared: Backbone, six: list[str]) -> None:
    before, processors = outputs(shared), dict(shared.unet.attn_processors)
    capture = Capture(six)
    with capture.installed(shared.unet):
        with capture.recording("queries", "keys", "values", "outputs"):
            watched = outputs(shared)
        unwatched = outputs(shared)
    assert torch.equal(watched, before)
    assert torch.equal(unwatched, before)
    assert shared.unet.attn_processors == processors
    assert torch.equal(outputs(shared), before)


def test_the_unet_is_put_back_after_a_failure(shared: Backbone, six: list[str]) -> None:
    processors = dict(shared.unet.attn_processors)
    capture = Capture(six)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        capture.installed(shared.unet),
        capture.recording("queries"),
    ):
        raise RuntimeError("on purpose")
    assert shared.unet.attn_processors == processors


def test_what_is_recorded_is_what_the_layers_compute(shared: Backbone, six: list[str]) -> None:
    latents, capture = noise(2, 4, 8, 12), Capture(six)
    with (
        torch.no_grad(),
        capture.installed(shared.unet),
        capture.recording("queries", "keys", "values", "outputs") as captured,
    ):
        passed(shared, latents)
    with torch.no_grad(), noted(shared.unet, six) as notes:
        passed(shared, latents)
    for name in six:
        query, key, value = notes[name]
        ours = captured.queries[name], captured.keys[name], captured.values[name]
        for one, other in zip(ours, (query, key, value), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        wanted = torch.einsum("rhnm,rhmd->rhnd", reference.matrix(query, key), value)
        torch.testing.assert_close(captured.outputs[name], wanted, rtol=1e-4, atol=1e-5)


def test_only_what_was_asked_for_is_held(shared: Backbone, six: list[str]) -> None:
    capture = Capture(six)
    with torch.no_grad(), capture.installed(shared.unet):
        with capture.recording("keys", "values") as captured:
            passed(shared, noise(1, 4, 8, 8))
        passed(shared, noise(1, 4, 8, 8, seed=1))
    assert list(captured.keys) == list(captured.values) == six
    assert not captured.queries
    assert not captured.outputs


@pytest.mark.mostly_slow
@pytest.mark.parametrize("parts", [("queries",), ("keys", "values"), ("queries", "outputs")])
def test_a_pass_that_stops_early_recorded_the_same(
    shared: Backbone, six: list[str], parts: tuple[str, ...]
) -> None:
    reached: list[bool] = []
    hook = shared.unet.conv_out.register_forward_hook(lambda *_: reached.append(True))
    capture, found = Capture(six), []
    for stop in (False, True):
        with (
            torch.no_grad(),
            capture.installed(shared.unet),
            capture.recording(*parts, stop=stop) as captured,  # type: ignore[arg-type]
        ):
            passed(shared, noise(1, 4, 8, 8))
        found.append(captured)
    hook.remove()
    assert reached == [True], "the whole pass alone reaches the end"
    for part in parts:
        whole, stopped = (getattr(one, part) for one in found)
        assert list(stopped) == six
        assert all(torch.equal(whole[name], stopped[name]) for name in six)


def of_outputs(captured: Captured) -> Tensor:
    """A number that every output has a part in, each in its own way."""
    return sum(
        (one * noise(*one.shape, seed=i)).sum() for i, one in enumerate(captured.outputs.values())
    )


@pytest.mark.mostly_slow
@pytest.mark.parametrize("stop", [False, True])
def test_gradients_are_those_of_the_graph_nobody_watches(
    shared: Backbone, six: list[str], stop: bool
) -> None:
    unwatched = Captured()
    latents = noise(1, 4, 8, 8).requires_grad_()
    hooks = []
    for name in six:
        attn = shared.unet.get_submodule(name.removesuffix(".processor"))

        def note(_module: object, inputs: tuple[Tensor], name: str = name, attn=attn) -> None:
            unwatched.outputs[name] = reference.split_heads(inputs[0], attn.heads)

        hooks.append(attn.to_out[0].register_forward_pre_hook(note))
    passed(shared, latents)
    (wanted,) = torch.autograd.grad(of_outputs(unwatched), latents)
    for hook in hooks:
        hook.remove()
    capture = Capture(six)
    with capture.installed(shared.unet):
        with capture.recording("outputs", stop=stop) as captured:
            passed(shared, latents)
        (found,) = torch.autograd.grad(of_outputs(captured), latents)
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_checkpoints_change_no_gradient_and_hold_nothing_twice(
    shared: Backbone, six: list[str]
) -> None:
    capture, found = Capture(six), []
    with capture.installed(shared.unet):
        for checkpoints in (False, True):
            if checkpoints:
                shared.unet.enable_gradient_checkpointing()
            latents = noise(1, 4, 8, 8).requires_grad_()
            try:
                with capture.recording("queries", "outputs") as captured:
                    passed(shared, latents)
                before = dict(captured.outputs)
                found += torch.autograd.grad(of_outputs(captured), latents)
            finally:
                shared.unet.disable_gradient_checkpointing()
            assert captured.outputs == before
    assert torch.equal(found[0], found[1])


def test_a_layer_that_is_answered_for_gives_the_answer(shared: Backbone, six: list[str]) -> None:
    latents, capture = noise(1, 4, 8, 8), Capture(six)
    with torch.no_grad(), capture.installed(shared.unet):
        with capture.recording("keys", "values") as own:
            plain = passed(shared, latents)

        def same(name: str, query: Tensor) -> Tensor:
            return attention(query, own.keys[name], own.values[name])

        with capture.replaced(same):
            answered = passed(shared, latents)
        with capture.replaced(lambda _, query: torch.zeros_like(query)):
            silenced = passed(shared, latents)
        after = passed(shared, latents)
    torch.testing.assert_close(answered, plain)
    assert not torch.allclose(silenced, plain)
    assert torch.equal(after, plain)


def test_attention_of_another_kind_is_refused_and_nothing_changed(
    shared: Backbone, six: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processors = dict(shared.unet.attn_processors)
    attn = shared.unet.get_submodule(six[3].removesuffix(".processor"))
    monkeypatch.setattr(attn, "residual_connection", True)
    with (
        pytest.raises(RecipeError, match="residual_connection"),
        Capture(six).installed(shared.unet),
    ):
        pass
    assert shared.unet.attn_processors == processors
