"""What the source hands to the target, against attention matrices written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stylecli.backbone.attention import UnetExchange
from stylecli.backbone.exchange import Mix, Tap
from stylecli.backbone.layers import decoder_layers
from stylecli.backbone.model import Backbone
from stylecli.errors import RecipeError
from tests import tiny
from tests.reference import attention as reference
from tests.small import assert_same_state, folder, noise, outputs, relative, state

STEP = 400
SELF = tuple(
    f"up_blocks.{n // 3}.attentions.{n % 3}.transformer_blocks.0.attn1.processor"
    for n in range(4, 12)
)
CROSS = tuple(
    f"up_blocks.{n // 3}.attentions.{n % 3}.transformer_blocks.0.attn2.processor"
    for n in range(3, 12)
)
MIXES = {"probs": reference.mix_matrices, "qk": reference.mix_queries_and_keys}


@dataclass(frozen=True)
class Call:
    """One call of a module: its first input, its text where it has one, its first output."""

    seen: Tensor
    text: Tensor | None
    output: Tensor


@contextmanager
def watching(unet: Any, names: list[str]) -> Iterator[dict[str, Call]]:
    """Record what modules are given and return, without touching it."""
    calls: dict[str, Call] = {}

    def record(name: str) -> Any:
        def hook(_module: Any, inputs: Any, named: Any, output: Any) -> None:
            text = named.get("encoder_hidden_states")
            seen = inputs[0] if inputs else named["hidden_states"]
            calls[name] = Call(seen, text, output[0] if isinstance(output, tuple) else output)

        return hook

    hooks = [
        unet.get_submodule(name).register_forward_hook(record(name), with_kwargs=True)
        for name in names
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def attentions(unet: Any) -> list[str]:
    return [name.removesuffix(".processor") for name in unet.attn_processors]


def exchange(
    backbone: Backbone, *numbers: int, attention: tuple[str, ...] = (), **kinds: Any
) -> UnetExchange:
    """An exchange of some decoder layers' features and of some attentions."""
    layers = decoder_layers(backbone.unet)
    return UnetExchange(features=[layers[n] for n in numbers], attention=attention, **kinds)


def prompts(backbone: Backbone, rows: int, text: str) -> Tensor:
    return backbone.encode_prompt([text]).expand(rows, -1, -1)


def source_pass(backbone: Backbone, rows: int = 1) -> Tensor:
    with torch.inference_mode():
        return backbone.predict(noise(rows, 4, 8, 8, seed=8), STEP, prompts(backbone, rows, ""))


def target_pass(backbone: Backbone, rows: int = 2) -> Tensor:
    with torch.inference_mode():
        text = prompts(backbone, rows, "a cat in sss style")
        return backbone.predict(noise(rows, 4, 8, 8, seed=9), STEP, text)


def projected(attn: Any, call: Call, name: str) -> Tensor:
    x = call.seen if name == "to_q" or call.text is None else call.text
    return reference.split_heads(getattr(attn, name)(x), attn.heads)


def written_out(attn: Any, source: Call, target: Call, mix: str, kappa: float) -> Tensor:
    """The output of one attention, by its matrices; values are always the target's own."""
    pairs = []
    for call in (source, target):
        query, key = projected(attn, call, "to_q"), projected(attn, call, "to_k")
        repeats = len(target.seen) // len(call.seen)
        pairs.append((query.repeat(repeats, 1, 1, 1), key.repeat(repeats, 1, 1, 1)))
    mixed = MIXES[mix](pairs[0], pairs[1], projected(attn, target, "to_v"), kappa)
    output: Tensor = attn.to_out[0](reference.join_heads(mixed))
    return output


def check_against_matrices(
    backbone: Backbone, chosen: tuple[str, ...], mix: Mix, kappa: float, contents: int, rows: int
) -> None:
    unet, names = backbone.unet, attentions(backbone.unet)
    shared = exchange(backbone, attention=chosen, mix=mix)
    with watching(unet, names) as sources:
        source_pass(backbone, contents)
    with shared.installed(unet), watching(unet, names) as targets:
        with shared.taking(features=False, attention=True, stop=True):
            source_pass(backbone, contents)
        with shared.giving(features=False, kappa=kappa):
            target_pass(backbone, rows)
    assert len(targets) == len(names) == 32
    for name in names:
        share = kappa if f"{name}.processor" in chosen else 1.0
        with torch.inference_mode():
            wanted = written_out(unet.get_submodule(name), sources[name], targets[name], mix, share)
        assert relative(targets[name].output, wanted) < 1e-5, name


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mix", ["qk", "probs"])
@pytest.mark.parametrize("chosen", [(*SELF, *CROSS), SELF, CROSS], ids=["both", "self", "cross"])
@pytest.mark.parametrize("kappa", [0.3, 0.0, 1.0])
def test_every_attention_equals_its_matrices_and_layers_not_chosen_keep_their_own(
    shared: Backbone, chosen: tuple[str, ...], mix: Mix, kappa: float
) -> None:
    """Point 9, with two contents in four rows: row ``r`` looks through source row ``r mod 2``."""
    check_against_matrices(shared, chosen, mix, kappa, contents=2, rows=4)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    kappa=st.floats(0, 1),
    mix=st.sampled_from(["probs", "qk"]),
    contents=st.integers(1, 3),
    chosen=st.sets(st.sampled_from((*SELF, *CROSS)), min_size=1).map(lambda names: tuple(names)),
)
def test_any_share_of_any_layers_equals_its_matrices(
    shared: Backbone, kappa: float, mix: Mix, contents: int, chosen: tuple[str, ...]
) -> None:
    check_against_matrices(shared, chosen, mix, kappa, contents, rows=2 * contents)


def injected(backbone: Backbone, carrier: UnetExchange, *, features: bool, kappa: float) -> Tensor:
    """The target's output after one source pass."""
    with carrier.installed(backbone.unet):
        with carrier.taking(features=features, attention=kappa < 1, stop=True):
            source_pass(backbone)
        with carrier.giving(features=features, kappa=kappa):
            return target_pass(backbone)


@pytest.mark.slow
def test_mixing_matrices_is_not_mixing_queries_and_keys(shared: Backbone) -> None:
    """Point 9: they meet at 0 and 1 only; at 1 both are the model without injection."""

    def with_mix(mix: Mix, kappa: float) -> Tensor:
        return injected(
            shared, exchange(shared, attention=SELF, mix=mix), features=False, kappa=kappa
        )

    assert torch.equal(with_mix("probs", 0.0), with_mix("qk", 0.0))
    assert torch.equal(with_mix("probs", 1.0), target_pass(shared))
    assert torch.equal(with_mix("qk", 1.0), target_pass(shared))
    assert relative(with_mix("probs", 0.5), with_mix("qk", 0.5)) > 1e-4
    assert relative(with_mix("probs", 0.0), target_pass(shared)) > 1e-3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("tap", ["residual", "output"])
@pytest.mark.parametrize("numbers", [(4,), tuple(range(4, 12)), (0,)], ids=str)
def test_a_feature_is_replaced_where_its_tap_says(
    shared: Backbone, tap: Tap, numbers: tuple[int, ...]
) -> None:
    """Point 13: the fast way equals a hook that swaps the tensor, in all layers and no other."""
    hooked = []
    for n in numbers:
        resnet = shared.unet.up_blocks[n // 3].resnets[n % 3]
        hooked.append(resnet.conv2 if tap == "residual" else resnet)
    kept: dict[Any, Tensor] = {}

    def keep(module: Any, _inputs: Any, output: Tensor) -> None:
        kept[module] = output

    def swap(module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return kept[module].expand_as(output)

    for hook, run in ((keep, source_pass), (swap, target_pass)):
        handles = [module.register_forward_hook(hook) for module in hooked]
        wanted = run(shared)
        for handle in handles:
            handle.remove()
    ours = injected(shared, exchange(shared, *numbers, tap=tap), features=True, kappa=1.0)
    assert relative(ours, wanted) < 1e-5
    assert relative(ours, target_pass(shared)) > 1e-4


@pytest.mark.slow
def test_the_taps_differ_by_the_shortcut(fresh: Backbone) -> None:
    """Point 13: only the residual tap leaves the target's own shortcut in place."""

    def with_tap(tap: Tap) -> Tensor:
        return injected(fresh, exchange(fresh, 4, tap=tap), features=True, kappa=1.0)

    assert relative(with_tap("residual"), with_tap("output")) > 1e-3
    shortcut = fresh.unet.up_blocks[1].resnets[1].conv_shortcut
    shortcut.weight.zero_()
    shortcut.bias.zero_()
    assert relative(with_tap("residual"), with_tap("output")) < 1e-6


def test_the_encoder_and_the_middle_are_not_touched(shared: Backbone) -> None:
    """Point 14: and both target rows change."""
    names = [f"down_blocks.{n}" for n in range(4)] + ["mid_block"]
    carrier = exchange(shared, 4, attention=SELF)
    with watching(shared.unet, names) as plain:
        untouched = target_pass(shared)
    with carrier.installed(shared.unet):
        with carrier.taking(features=True, attention=True, stop=True):
            source_pass(shared)
        with carrier.giving(features=True, kappa=0), watching(shared.unet, names) as steered:
            changed = target_pass(shared)
    for name in names:
        assert torch.equal(steered[name].output, plain[name].output), name
    for row in range(2):
        assert relative(changed[row], untouched[row]) > 1e-3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("tap", ["residual", "output"])
def test_being_watched_changes_nothing_for_the_source(shared: Backbone, tap: Tap) -> None:
    """Also a source that goes to the end, as ``source: denoise`` needs."""
    before = source_pass(shared)
    carrier = exchange(shared, *range(12), attention=(*SELF, *CROSS), tap=tap)
    with carrier.installed(shared.unet):
        with carrier.taking(features=True, attention=True, stop=False):
            assert torch.equal(source_pass(shared), before)
        assert torch.equal(source_pass(shared), before), "idle, it must be as if it were not there"


def test_a_source_steered_by_itself_is_itself(shared: Backbone) -> None:
    """Point 6: with identical branches no injection, at any share, changes the output."""
    before = source_pass(shared)
    carrier = exchange(shared, *range(12), attention=(*SELF, *CROSS))
    with carrier.installed(shared.unet):
        with carrier.taking(features=True, attention=True, stop=True):
            source_pass(shared)
        for kappa in (0.0, 0.4, 1.0):
            with carrier.giving(features=True, kappa=kappa):
                assert relative(source_pass(shared), before) < 1e-6


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("number", "attention", "reached", "spared"),
    [
        pytest.param(4, (), "up_blocks.1.resnets.0", "up_blocks.1.resnets.2", id="feature"),
        pytest.param(4, SELF, "up_blocks.3.resnets.2", "conv_out", id="attention"),
    ],
)
def test_the_source_stops_after_the_last_tensor_wanted(
    shared: Backbone, number: int, attention: tuple[str, ...], reached: str, spared: str
) -> None:
    """And hands over the same as a source that ran to the end."""
    carrier = exchange(shared, number, attention=attention)
    results = []
    for stop in (True, False):
        with carrier.installed(shared.unet):
            with (
                watching(shared.unet, [reached, spared]) as calls,
                carrier.taking(features=True, attention=True, stop=stop),
            ):
                source_pass(shared)
            assert list(calls) == ([reached] if stop else [reached, spared])
            with carrier.giving(features=True, kappa=0.0 if attention else 1.0):
                results.append(target_pass(shared))
    assert torch.equal(*results)


def test_leaving_puts_everything_back(shared: Backbone) -> None:
    """Point 19: after success, after a fault inside a pass, after a fault between passes."""
    unet = shared.unet
    processors, weights, before = unet.attn_processors, state(unet), outputs(shared)
    modules = dict(unet.named_modules())
    carrier = exchange(shared, *range(12), attention=(*SELF, *CROSS))

    def fault(*_: object) -> None:
        raise ZeroDivisionError

    with carrier.installed(unet), carrier.taking(features=True, attention=True, stop=True):
        source_pass(shared)
    handle = unet.up_blocks[2].register_forward_pre_hook(fault)
    with (
        pytest.raises(ZeroDivisionError),
        carrier.installed(unet),
        carrier.taking(features=True, attention=True, stop=True),
    ):
        source_pass(shared)
    handle.remove()
    with pytest.raises(ZeroDivisionError), carrier.installed(unet):
        fault()

    now = unet.attn_processors
    assert now.keys() == processors.keys()
    assert all(now[name] is processor for name, processor in processors.items())
    assert dict(unet.named_modules()) == modules
    assert not [name for name, module in modules.items() if module._forward_hooks]
    assert "forward" not in {key for module in modules.values() for key in vars(module)}
    assert_same_state(unet, weights)
    assert torch.equal(outputs(shared), before)


def test_nothing_of_one_run_is_left_for_the_next(shared: Backbone) -> None:
    carrier = exchange(shared, 4, attention=SELF)
    with carrier.installed(shared.unet), carrier.taking(features=True, attention=True, stop=True):
        source_pass(shared)
    with (
        carrier.installed(shared.unet),
        carrier.giving(features=True, kappa=1.0),
        pytest.raises(KeyError),
    ):
        target_pass(shared)


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("residual_connection", True, "residual_connection"),
        ("rescale_output_factor", 2.0, "rescale_output_factor"),
        ("group_norm", torch.nn.GroupNorm(1, 16), "group_norm"),
        ("norm_q", torch.nn.LayerNorm(4), "norm_q"),
        ("fused_projections", True, "fused projections"),
    ],
)
def test_an_attention_of_another_kind_is_refused_before_anything_changed(
    attribute: str, value: object, words: str
) -> None:
    backbone = tiny.backbone(folder())
    name = SELF[2].removesuffix(".processor")
    setattr(backbone.unet.get_submodule(name), attribute, value)
    processors = backbone.unet.attn_processors
    with (
        pytest.raises(RecipeError, match=f"{name} uses {words}"),
        exchange(backbone, 4, attention=SELF).installed(backbone.unet),
    ):
        pytest.fail("the block was entered")
    assert backbone.unet.attn_processors == processors
