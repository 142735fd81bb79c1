"""Targets and losses of one moment, against attention of all pairs in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylecli.backbone.capture import Captured
from stylecli.backbone.updates import FLOAT16_SCALE, gradients
from stylecli.methods.stylegallery import keysets
from stylecli.methods.stylegallery import targets as ours
from stylecli.methods.stylegallery.match import Match
from stylecli.recipe.gallery import Gallery
from tests.reference import stylegallery as reference
from tests.small import noise

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 4
FINE, COARSE = "up_blocks.3.a", "up_blocks.2.a"
SPANS = {COARSE: 2, FINE: 1}
SEEDS = st.integers(0, 999)
SIZE, THEIR_SIZE = (6, 8), (8, 4)
# Region of the content -> reference and its regions.
PAIRS: dict[int, tuple[int | None, tuple[int, ...]]] = {
    1: (0, (2,)),
    2: (1, (1, 3)),
    3: (None, ()),
    4: (0, (2,)),
}


def matches(pairs: Mapping[int, tuple[int | None, tuple[int, ...]]] = PAIRS) -> list[Match]:
    return [Match(number, style, regions) for number, (style, regions) in pairs.items()]


def drawn(size: tuple[int, int], regions: int, seed: int) -> Tensor:
    """Labels in which every region has a cell."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, regions + 1, size, generator=random)
    labels.view(-1)[:regions] = torch.arange(1, regions + 1)
    return labels


class Moment:
    """What two layers see of a content, of latents and of two references."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        self.labels = drawn(SIZE, 4, seed)
        self.theirs = [drawn(THEIR_SIZE, 3, seed + 1), drawn(THEIR_SIZE, 3, seed + 2)]
        self.latent, self.content = (self._layers(SIZE, seed + k, dtype) for k in (10, 20))
        self.styles = [self._layers(THEIR_SIZE, seed + k, dtype) for k in (30, 40)]

    @staticmethod
    def _layers(size: tuple[int, int], seed: int, dtype: torch.dtype) -> dict[str, Any]:
        found = {}
        for layer, span in SPANS.items():
            tokens = -(-size[0] // span) * -(-size[1] // span)
            q, k, v = (
                # As projections leave them: tokens first, then heads.
                noise(1, tokens, HEADS, WIDTH, seed=seed + i).to(dtype).transpose(1, 2)
                for i in (0, 1000, 2000)
            )
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            found[layer] = q, k, v, out
        return found

    def plan(self, given: Sequence[Match], settings: Gallery) -> dict[str, keysets.Level]:
        return keysets.levels([(self.labels, given)], self.theirs, SPANS, settings, CPU)

    def gathered(self, plan: Mapping[str, keysets.Level], settings: Gallery) -> ours.Gathered:
        pictures = [*self.styles, self.content]
        taken = {
            (number, layer): (k, v)
            for number in keysets.pictures_of(plan)
            for layer, (_, k, v, _) in pictures[number].items()
        }
        return ours.gathered(plan, taken, zeros=settings.mask_mode == "zero")

    def captured(self) -> Captured:
        q, k, v, out = ({layer: of[i] for layer, of in self.latent.items()} for i in range(4))
        return Captured(queries=q, keys=k, values=v, outputs=out)

    def losses(
        self, settings: Gallery, given: Sequence[Match] | None = None, **parts: Any
    ) -> tuple[Tensor, Tensor]:
        plan = self.plan(matches() if given is None else given, settings)
        own = {layer: of[0] for layer, of in self.content.items()}
        keys = self.gathered(plan, settings)
        return ours.losses(plan, self.captured(), own, keys, settings, [0])

    def targets(self, settings: Gallery, given: Sequence[Match] | None = None) -> dict[str, Tensor]:
        plan = self.plan(matches() if given is None else given, settings)
        queries = {layer: of[0] for layer, of in self.latent.items()}
        keys = self.gathered(plan, settings)
        return ours.targets(plan, queries, keys, settings.attn_scale, [0])

    def explicit(self, settings: Gallery) -> tuple[Tensor, Tensor]:
        given = reference.Settings(
            scale=settings.attn_scale, mask_mode=settings.mask_mode, masks=settings.key_masks
        )
        plan = self.pairs(settings)
        return reference.losses(self.latent, self.content, self.styles, plan, given)

    def pairs(self, settings: Gallery) -> dict[str, list[reference.Pair]]:
        content = reference.Picture(self.labels, self.labels, self.labels)
        styles = [reference.Picture(one, one, one) for one in self.theirs]
        return {
            layer: reference.pairs(content, styles, PAIRS, span, settings.key_masks)
            for layer, span in SPANS.items()
        }


KINDS = [
    Gallery(mask_mode=mask_mode, key_masks=key_masks)
    for mask_mode in ("exclude", "zero")
    for key_masks in ("area", "nearest")
]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("settings", KINDS, ids=lambda one: f"{one.mask_mode}-{one.key_masks}")
@given(seed=SEEDS)
def test_losses_have_the_gradients_of_attention_over_all_pairs(
    settings: Gallery, seed: int
) -> None:
    """Zeros that the authors leave in the softmax, or pairs that are forbidden."""
    moment = Moment(seed)
    leaves = [moment.latent[layer][i].requires_grad_() for layer in SPANS for i in (0, 3)]
    found, wanted = moment.losses(settings), moment.explicit(settings)
    torch.testing.assert_close(found[1][0], wanted[1], rtol=1e-12, atol=1e-12)
    for one, other in zip(found, wanted, strict=True):
        pairs = zip(
            torch.autograd.grad(one.sum(), leaves, allow_unused=True),
            torch.autograd.grad(other, leaves, allow_unused=True, materialize_grads=True),
            strict=True,
        )
        for mine, theirs in pairs:
            mine = torch.zeros_like(theirs) if mine is None else mine
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@given(SEEDS)
def test_targets_are_exact_and_excluding_is_not_zeroing(seed: int) -> None:
    moment = Moment(seed)
    found = {}
    for settings in KINDS:
        explicit = reference.masked if settings.mask_mode == "zero" else reference.excluded
        found[settings.mask_mode] = moment.targets(settings)
        for layer, pairs in moment.pairs(settings).items():
            query = moment.latent[layer][0]
            wanted = torch.zeros_like(query)
            for pair in pairs:
                _, k, v, _ = (moment.content if pair.style is None else moment.styles[pair.style])[
                    layer
                ]
                one = explicit(query, k, v, pair.rows, pair.keys, settings.attn_scale)
                # What a query of zeros finds outside its region is multiplied by zero again.
                wanted = wanted + one
            difference = found[settings.mask_mode][layer] - wanted
            assert float(difference.abs().max()) < 1e-12
    assert not torch.allclose(found["zero"][FINE], found["exclude"][FINE])


@pytest.mark.slow
@given(SEEDS)
def test_the_authors_gate_is_the_share_that_the_zeros_leave(seed: int) -> None:
    """``T_zero = E / (E + n - |K|) T_exclude`` with E the sum of the exponentials of logits."""
    moment = Moment(seed)
    settings = Gallery(mask_mode="zero")
    exact = moment.targets(settings.model_copy(update={"mask_mode": "exclude"}))[FINE]
    zero = moment.targets(settings)[FINE]
    for pair in moment.pairs(settings)[FINE]:
        query = moment.latent[FINE][0][:, :, pair.rows]
        of = moment.content if pair.style is None else moment.styles[pair.style]
        key = of[FINE][1][:, :, pair.keys]
        logits = settings.attn_scale * query @ key.transpose(-1, -2) / math.sqrt(WIDTH)
        total = logits.exp().sum(-1, keepdim=True)
        gate = total / (total + int((~pair.keys).sum()))
        torch.testing.assert_close(zero[:, :, pair.rows], gate * exact[:, :, pair.rows])


@pytest.mark.slow
@given(SEEDS)
def test_style_reaches_matched_regions_alone_and_never_the_queries(seed: int) -> None:
    moment = Moment(seed)
    settings = Gallery(content_weight=0)
    for layer in SPANS:
        q, k, v, out = moment.latent[layer]
        moment.latent[layer] = q.requires_grad_(), k, v, out.detach().requires_grad_()
    style, content = moment.losses(settings, matches({2: PAIRS[2]}))
    assert float(content) == 0
    for layer, span in SPANS.items():
        q, _, _, out = moment.latent[layer]
        to_query, to_output = torch.autograd.grad(
            style.sum(), [q, out], allow_unused=True, retain_graph=True
        )
        assert to_query is None
        inside = reference.token_labels(moment.labels, span, "area") == 2
        # A mean over all tokens: what a region weighs is its area.
        assert torch.equal(
            to_output.abs(), (inside.double() / out.numel())[None, None, :, None].expand_as(out)
        )


def test_regions_of_the_same_keys_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = Moment(3)
    asked: list[tuple[int, int]] = []
    real = ours.attention

    def counted(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        asked.append((query.shape[2], key.shape[2]))
        return real(query, key, *rest)

    monkeypatch.setattr(ours, "attention", counted)
    settings = Gallery()
    moment.targets(settings)
    levels = moment.plan(matches(), settings)
    assert len(asked) == sum(len(level.groups[0]) for level in levels.values()) == 2 * 3
    for layer, pairs in moment.pairs(settings).items():
        rows = [int(pair.rows.sum()) for pair in pairs]
        keys = [int(pair.keys.sum()) for pair in pairs]
        here = asked[:3] if layer == COARSE else asked[3:]
        wanted = [(rows[0] + rows[3], keys[0]), (rows[1], keys[1]), (rows[2], keys[2])]
        assert sorted(here) == sorted(wanted)


def test_without_masks_all_see_every_key_of_all_references() -> None:
    moment = Moment(1)
    given = [Match(number, 0, (1,)) for number in (1, 2, 4)] + [Match(3, None, ())]
    for mask_mode in ("exclude", "zero"):
        found = moment.targets(Gallery(masks=False, mask_mode=mask_mode), given)[FINE]
        key, value = (torch.cat([style[FINE][i] for style in moment.styles], dim=2) for i in (1, 2))
        rows = (moment.labels != 3).flatten()
        everything = torch.ones(key.shape[2], dtype=torch.bool)
        query = moment.latent[FINE][0]
        wanted = reference.excluded(query, key, value, rows, everything, 1.5)
        torch.testing.assert_close(found[:, :, rows], wanted[:, :, rows])


def test_a_whole_reference_is_all_its_regions() -> None:
    moment = Moment(2)
    some, whole = (
        moment.targets(Gallery(mask_mode=mode), [Match(1, 0, regions)])
        for mode, regions in (("exclude", (1, 2, 3)), ("zero", ()))
    )
    for layer in SPANS:
        torch.testing.assert_close(some[layer], whole[layer])


def test_strength_is_a_factor_of_a_regions_part_and_none_is_no_match() -> None:
    moment = Moment(4)
    settings = Gallery()

    def style(*given: Match) -> float:
        return float(moment.losses(settings, given)[0])

    one, other = Match(1, 0, (2,)), Match(2, 1, (1,))
    half = Match(2, 1, (1,), strength=0.5)
    assert style(one, half) == pytest.approx(style(one) + 0.5 * style(other))
    assert style(one, Match(2, 1, (1,), strength=0.0)) == pytest.approx(style(one))
    plan = moment.plan([one, Match(2, 1, (1,), strength=0.0)], settings)
    assert keysets.pictures_of(plan) == [0]


def test_a_region_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"picture 1 has no region \(7,\)"):
        Moment(0).plan([Match(1, 1, (7,))], Gallery())


@pytest.mark.slow
@given(SEEDS)
def test_content_may_attend_to_its_own_region_alone(seed: int) -> None:
    moment = Moment(seed)
    settings = Gallery(content_attn="region", content_weight=0)
    plan = moment.plan(matches(), settings)
    leaves = [moment.latent[FINE][i].requires_grad_() for i in range(3)]
    captured = moment.captured()
    captured.outputs.clear()
    found, _ = ours.losses(plan, captured, {}, moment.gathered(plan, settings), settings, [0])
    wanted: Any = 0.0
    aims = moment.targets(settings)
    for layer, span in SPANS.items():
        q, k, v, _ = moment.latent[layer]
        region = reference.token_labels(moment.labels, span, "area")
        own = sum(
            reference.excluded(q, k, v, region == number, region == number, 1.0)
            for number in region.unique().tolist()
        )
        wanted = wanted + (own - aims[layer]).abs().mean()
    torch.testing.assert_close(found[0], wanted)
    both = (torch.autograd.grad(one, leaves) for one in (found[0], wanted))
    for mine, theirs in zip(*both, strict=True):
        torch.testing.assert_close(mine, theirs)


class Largest(TorchDispatchMode):
    """The most numbers that any operation's result has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return made


@pytest.mark.parametrize("mask_mode", ["exclude", "zero"])
def test_no_matrix_of_attention_is_ever_made(mask_mode: str) -> None:
    tokens = 24 * 24
    labels = drawn((24, 24), 3, 0)
    settings = Gallery.model_validate({"mask_mode": mask_mode})
    given = [Match(number, 0, (number,)) for number in (1, 2, 3)]
    plan = keysets.levels([(labels, given)], [labels], {FINE: 1}, settings, CPU)
    q, k, v = (noise(1, tokens, HEADS, 16, seed=i).transpose(1, 2) for i in range(3))
    with torch.no_grad(), Largest() as largest:
        keys = ours.gathered(plan, {(0, FINE): (k, v)}, zeros=mask_mode == "zero")
        ours.targets(plan, {FINE: q}, keys, 1.5, [0])
    # Queries, keys and values have so many; a third of all pairs are four times as many.
    assert largest.numbers <= q.numel() + HEADS * 16


def test_float16_keeps_gradients_that_it_could_not_hold() -> None:
    """Of a mean over 4096 tokens and 8 heads of 40: 7.6e-7, which float16 has few bits for."""
    noisy = noise(1, 8, 4096, 40)
    target = noise(1, 8, 4096, 40, seed=1)
    found = {}
    for dtype, scale in ((torch.float32, 1.0), (torch.float16, FLOAT16_SCALE)):
        leaf = noisy.clone().requires_grad_()
        captured = Captured(outputs={FINE: leaf.to(dtype)}, queries={FINE: leaf.to(dtype)})
        each = ours.over_layers(captured.outputs, {FINE: target.to(dtype)})
        (found[dtype],) = gradients(each, [leaf], scale)
    full, half = found[torch.float32], found[torch.float16]
    assert float(half.abs().max()) > 0
    is_far = (noisy - target).abs() > 0.01
    assert float(((half - full).abs() / full.abs())[is_far].max()) < 0.01


def test_half_precision_zeros_are_as_many_as_there_are() -> None:
    """In bfloat16 the logarithm of their number would be off by 3 %; the softmax is float32."""
    k, v = (noise(1, 2, 500, 8, seed=i).bfloat16() for i in (1, 2))
    labels = torch.ones(20, 25, dtype=torch.int64)
    labels[:4] = 2
    settings = Gallery(mask_mode="zero")
    plan = keysets.levels([(labels, [Match(1, 0, (2,))])], [labels], {FINE: 1}, settings, CPU)
    q = noise(1, 2, 500, 8).bfloat16()
    keys = ours.gathered(plan, {(0, FINE): (k, v)}, zeros=True)
    found = ours.targets(plan, {FINE: q}, keys, 1.5, [0])[FINE]
    rows, chosen = (labels == 1).flatten(), (labels == 2).flatten()
    wanted = reference.masked(q.float(), k.float(), v.float(), rows, chosen, 1.5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=1e-6)
