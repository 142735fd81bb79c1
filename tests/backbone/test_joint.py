"""Injection in joint attention against explicit matrices, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers import transformer_flux2, transformer_z_image
from torch import Tensor

from stylecli.backbone import anatomies
from stylecli.backbone.anatomies import anatomy_of
from stylecli.backbone.exchange import Mix, Tap
from stylecli.backbone.flow_model import FlowBackbone
from stylecli.backbone.joint import JointExchange, middle
from stylecli.errors import RecipeError
from stylecli.recipe.schema import Injection
from tests import flows
from tests.reference import joint as reference
from tests.small import relative

MODULES = {"z-image": transformer_z_image, "flux2": transformer_flux2}
# Calls of the attention function before the main stack: Z-Image refines picture and words first.
BEFORE = {"z-image": 2, "flux2": 0}
# 48 tokens, which Z-Image fills up to 64 and puts first.
PICTURE = {"z-image": slice(0, 64), "flux2": slice(-48, None)}
# Both fill up to 32 words, so places are the same, as the explicit matrices need it.
SOURCE, STYLED = "", "red ink"
STEP = 600


@pytest.fixture(scope="module", params=flows.KINDS)
def model(request: pytest.FixtureRequest) -> FlowBackbone:
    return flows.backbone(request.param)


def exchange(
    model: FlowBackbone,
    *,
    features: list[int] | None = None,
    attention: list[int] | None = None,
    tap: Tap = "residual",
    mix: Mix = "probs",
) -> JointExchange:
    anatomy = anatomy_of(model.unet)
    every = list(range(len(anatomy.blocks)))
    chosen = [every if attention is None else attention, features or []]
    own, other = ([anatomy.blocks[i] for i in some] for some in chosen)
    return JointExchange(anatomy, features=other, attention=own, tap=tap, mix=mix)


def injected(
    model: FlowBackbone,
    carrier: JointExchange,
    source: Tensor,
    target: Tensor,
    *,
    kappa: float,
    features: bool = False,
    words: str = STYLED,
) -> Tensor:
    null, styled = (
        model.encode_prompt([text]).expand(len(some), -1, -1)
        for text, some in ((SOURCE, source), (words, target))
    )
    with carrier.installed(model.unet), torch.inference_mode():
        with carrier.taking(features=features, attention=True, stop=False):
            model.predict(source, STEP, null)
        with carrier.giving(features=features, kappa=kappa):
            return model.predict(target, STEP, styled)


def plain(model: FlowBackbone, latents: Tensor, words: str = STYLED) -> Tensor:
    embeds = model.encode_prompt([words]).expand(len(latents), -1, -1)
    with torch.inference_mode():
        return model.predict(latents, STEP, embeds)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("mix", ["probs", "qk"])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_attention_is_the_explicit_matrices(model: FlowBackbone, kappa: float, mix: Mix) -> None:
    source, target = (flows.latents(model, seed=seed) for seed in (1, 2))
    ours = injected(model, exchange(model, mix=mix), source, target, kappa=kappa)
    kind = model.flow.kind
    with reference.written(MODULES[kind]) as explicit:
        plain(model, source, SOURCE)
        explicit.begin()
        explicit.kappa, explicit.mix = kappa, mix
        first = BEFORE[kind]
        explicit.layers = list(range(first, first + len(anatomy_of(model.unet).blocks)))
        explicit.picture = PICTURE[kind]
        theirs = plain(model, target)
    assert relative(ours, theirs) < 1e-5
    if kappa < 1:
        assert relative(ours, plain(model, target)) > 1e-3


@pytest.mark.mostly_slow
@pytest.mark.parametrize("tap", ["residual", "output"])
@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_a_row_that_is_given_its_own_stays_as_it_was(
    model: FlowBackbone, kappa: float, tap: Tap
) -> None:
    latents = flows.latents(model)
    carrier = exchange(model, features=[0, 1], tap=tap)
    found = injected(model, carrier, latents, latents, kappa=kappa, features=True, words=SOURCE)
    assert relative(found, plain(model, latents, SOURCE)) < 1e-5


def test_without_a_share_of_the_source_the_answer_is_the_librarys(model: FlowBackbone) -> None:
    source, target = (flows.latents(model, seed=seed) for seed in (1, 2))
    found = injected(model, exchange(model), source, target, kappa=1.0)
    assert torch.equal(found, plain(model, target))


class Watch:
    """What some blocks get and give of the picture, pass by pass."""

    def __init__(self, model: FlowBackbone, carrier: JointExchange) -> None:
        self.seen: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self._carrier = carrier
        self.handles = [
            model.unet.get_submodule(block.path).register_forward_hook(
                self._keeper(block.number, is_double=block.is_double), with_kwargs=True
            )
            for block in anatomy_of(model.unet).blocks
        ]

    def _keeper(self, number: int, *, is_double: bool) -> Any:
        def keep(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            came = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            gave = output[1] if is_double else self._carrier.parted(output)[1]
            came = came if is_double else self._carrier.parted(came)[1]
            self.seen.setdefault(number, []).append((came.clone(), gave.clone()))

        return keep


@pytest.mark.parametrize("tap", ["residual", "output"])
def test_a_feature_is_what_the_block_adds_or_all_that_it_gives(
    model: FlowBackbone, tap: Tap
) -> None:
    source, target = (flows.latents(model, seed=seed) for seed in (1, 2))
    carrier = exchange(model, features=[1], attention=[], tap=tap)
    null, styled = (model.encode_prompt([text]) for text in (SOURCE, STYLED))
    with carrier.installed(model.unet), torch.inference_mode():
        watch = Watch(model, carrier)  # behind the exchange, so it sees what was put in place
        with carrier.taking(features=True, attention=False, stop=False):
            model.predict(source, STEP, null)
        with carrier.giving(features=True, kappa=1.0):
            model.predict(target, STEP, styled)
        for handle in watch.handles:
            handle.remove()
    (in_source, of_source), (in_target, of_target) = watch.seen[1]
    wanted = in_target + (of_source - in_source) if tap == "residual" else of_source
    assert relative(of_target, wanted) < 1e-6
    assert relative(in_target, in_source) > 1e-3


def test_values_are_never_the_sources(model: FlowBackbone) -> None:
    """Where queries and keys are injected wholly, changing those of the picture changes nothing."""
    source, target = (flows.latents(model, seed=seed) for seed in (1, 2))
    block = anatomy_of(model.unet).blocks[0]
    attn = model.unet.get_submodule(block.self_attention[0].removesuffix(".processor"))
    carrier = exchange(model, attention=[0])
    usual = injected(model, carrier, source, target, kappa=0.0)

    def changed(layer: Any, *, between: bool) -> Tensor:
        weight = layer.weight.clone()
        try:
            with carrier.installed(model.unet), torch.inference_mode():
                with carrier.taking(features=False, attention=True, stop=True):
                    model.predict(source, STEP, model.encode_prompt([SOURCE]))
                if between:
                    layer.weight.data += 0.1
                with carrier.giving(features=False, kappa=0.0):
                    return model.predict(target, STEP, model.encode_prompt([STYLED]))
        finally:
            layer.weight.data = weight

    assert relative(changed(attn.to_v, between=True), usual) > 1e-4
    assert torch.equal(changed(attn.to_v, between=False), usual)
    if block.is_double:  # words have projections of their own
        assert torch.equal(changed(attn.to_q, between=True), usual)
        assert torch.equal(changed(attn.to_k, between=True), usual)
        assert not torch.equal(changed(attn.add_q_proj, between=True), usual)


@pytest.mark.mostly_slow
def test_rows_look_through_their_own_source_in_any_chunks(model: FlowBackbone) -> None:
    sources, targets = (flows.latents(model, 2, seed=seed) for seed in (1, 2))
    carrier = exchange(model, features=[1])
    together = injected(model, carrier, sources, targets, kappa=0.3, features=True)
    for row in range(2):
        one = slice(row, row + 1)
        alone = injected(model, carrier, sources[one], targets[one], kappa=0.3, features=True)
        assert relative(together[one], alone) < 1e-5
    chunked = flows.backbone(model.flow.kind)
    chunked.max_rows = 1
    null, styled = (chunked.encode_prompt([t]).expand(2, -1, -1) for t in (SOURCE, STYLED))
    carrier = exchange(chunked, features=[1])
    with carrier.installed(chunked.unet), torch.inference_mode():
        for row in range(2):
            one = slice(row, row + 1)
            with carrier.taking(features=True, attention=True, stop=True, first=row):
                chunked.predict(sources[one], STEP, null[one])
        with carrier.giving(features=True, kappa=0.3):
            found = chunked.predict(targets, STEP, styled)
    assert relative(found, together) < 1e-5


def test_rows_of_fewer_words_are_what_they_are_alone(model: FlowBackbone) -> None:
    """Z-Image fills shorter rows up and masks them; places move with words."""
    source, targets = flows.latents(model, seed=1), flows.latents(model, 2, seed=2)
    texts = ["short", "long " * 20]
    carrier = exchange(model, features=[1])
    embeds = torch.cat([model.encode_prompt([text]) for text in texts])
    with carrier.installed(model.unet), torch.inference_mode():
        with carrier.taking(features=True, attention=True, stop=True):
            model.predict(source, STEP, model.encode_prompt([SOURCE]))
        with carrier.giving(features=True, kappa=0.3):
            together = model.predict(targets, STEP, embeds)
    for row, text in enumerate(texts):
        one = targets[row : row + 1]
        alone = injected(model, carrier, source, one, kappa=0.3, features=True, words=text)
        assert relative(together[row : row + 1], alone) < 1e-5


def test_a_source_pass_ends_with_the_last_thing_wanted(model: FlowBackbone) -> None:
    blocks = [model.unet.get_submodule(block.path) for block in anatomy_of(model.unet).blocks]
    ran: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda _m, _a, number=number: ran.append(number))
        for number, block in enumerate(blocks)
    ]
    carrier = exchange(model, attention=[0])
    with (
        carrier.installed(model.unet),
        torch.inference_mode(),
        carrier.taking(features=False, attention=True, stop=True),
    ):
        model.predict(flows.latents(model), STEP, model.encode_prompt([SOURCE]))
        pytest.fail("the pass went on")
    for handle in handles:
        handle.remove()
    assert ran == [0]


def test_all_is_put_back_also_after_an_exception(model: FlowBackbone) -> None:
    def state() -> list[Any]:
        modules = [m for m in model.unet.modules() if hasattr(m, "processor")]
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.unet.modules())
        return [[id(m.processor) for m in modules], hooks]

    before = state()
    carrier = exchange(model, features=[0, 1])
    with pytest.raises(KeyError), carrier.installed(model.unet):
        _ = carrier.taken["nothing"]
    with carrier.installed(model.unet):
        assert state() != before
    assert state() == before


def test_layers_are_blocks_and_the_second_half_stands_for_a_decoder(model: FlowBackbone) -> None:
    blocks = anatomy_of(model.unet).blocks
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert middle(blocks) == len(blocks) // 2
    own = anatomies.exchange(model.unet, Injection())
    assert own.features == 1
    assert own.attention == len(blocks) - len(blocks) // 2
    chosen = Injection(attn_layers="all", feature_layers=[0])
    assert anatomies.exchange(model.unet, chosen).attention == len(blocks)
    with pytest.raises(RecipeError, match="layer 9 does not exist"):
        anatomies.exchange(model.unet, Injection(attn_layers=[9]))
    with pytest.raises(RecipeError, match="attn_cross"):
        anatomies.exchange(model.unet, Injection(attn_cross="all"))


def test_a_transformer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(RecipeError, match="Linear is a transformer whose attention"):
        anatomy_of(torch.nn.Linear(1, 1))
