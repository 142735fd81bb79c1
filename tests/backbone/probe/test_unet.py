"""Attention of a UNet's cells to words: equal to the softmax written out, and no more than seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.backbone.probe.base import twice
from stylecli.backbone.probe.unet import UnetProbe, chosen, cross_attention, finest
from stylecli.errors import RecipeError
from tests.small import noise

TOKENS, WIDTH, HEADS = 6, 12, 2
GRID = (8, 8)
ONE = [[[2, 3]], [[4]]]
DOWN = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn2"
UP = tuple(
    f"up_blocks.{block}.attentions.{place}.transformer_blocks.0.attn2"
    for block in (0, 1)
    for place in (0, 1)
)


@pytest.fixture(scope="module")
def unet() -> Any:
    """Cross-attention at 4 x 4 in the encoder, the middle and the decoder, there at 8 x 8 too."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            block_out_channels=(16, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=WIDTH,
            attention_head_dim=HEADS,
        )
        # Such that some words are looked at more than others.
        for name, module in made.named_modules():
            if name.endswith(("attn2.to_q", "attn2.to_k")):
                nn.init.normal_(module.weight, std=0.8)
    return made.requires_grad_(False).eval()


def rows(count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What a pass is given: latents beside a reference, timesteps, words."""
    seen = noise(count, 8, *GRID, seed=seed)
    return seen, torch.arange(count) * 300 + 7, noise(count, TOKENS, WIDTH, seed=seed + 1)


def answer(unet: Any, seen: Tensor, times: Tensor, words: Tensor) -> Tensor:
    out: Tensor = unet(seen, times, words, return_dict=False)[0]
    return out


@contextmanager
def open_probe(unet: Any, layers: str = "auto") -> Iterator[UnetProbe]:
    probe = UnetProbe(chosen(unet, layers))
    with probe.installed(unet):
        yield probe


def written_out(unet: Any, given: tuple[Tensor, ...], name: str, phrase: list[int]) -> Tensor:
    """One layer's map of a phrase in every row, (rows, cells), from what its projections say."""
    heard: dict[str, Tensor] = {}
    attn = unet.get_submodule(name)
    handles = [
        getattr(attn, part).register_forward_hook(
            lambda _m, _i, output, part=part: heard.__setitem__(part, output)
        )
        for part in ("to_q", "to_k")
    ]
    answer(unet, *given)
    for handle in handles:
        handle.remove()
    query, key = (heard[part].unflatten(-1, (HEADS, -1)) for part in ("to_q", "to_k"))
    found = torch.zeros(query.shape[:2])
    for row in range(len(query)):
        for head in range(HEADS):
            scores = query[row, :, head] @ key[row, :, head].T / query.shape[-1] ** 0.5
            found[row] += scores.softmax(-1)[:, phrase].mean(-1) / HEADS
    return found


@pytest.mark.slow
def test_maps_are_the_softmax_written_out(unet: Any) -> None:
    given = rows()
    with open_probe(unet, "all") as probe:
        probe.watch([[[2, 3], [4]], [[2, 3], [4]]], GRID)
        answer(unet, *given)
        layers, mean = probe.per_layer(), probe.maps()
    assert probe.layers == (DOWN, MIDDLE, *UP)
    for place, phrase in enumerate(([2, 3], [4])):
        expected = []
        for name, found in zip(probe.layers, layers, strict=True):
            own = written_out(unet, given, name, phrase)
            if own.shape[1] == 16:
                grid = own.unflatten(1, (1, 4, 4))
                own = F.interpolate(grid, GRID, mode="bilinear").flatten(1)
            torch.testing.assert_close(found[..., place], own, atol=1e-6, rtol=0)
            expected.append(own)
        torch.testing.assert_close(mean[..., place], torch.stack(expected).mean(0))


@pytest.mark.slow
def test_all_tokens_together_are_all_that_is_looked_at(unet: Any) -> None:
    with open_probe(unet) as probe:
        probe.watch([[[token] for token in range(TOKENS)]] * 2, GRID)
        answer(unet, *rows())
        maps = probe.maps()
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 64), atol=1e-5, rtol=0)


def test_a_phrase_is_the_mean_of_its_tokens(unet: Any) -> None:
    with open_probe(unet) as probe:
        probe.watch([[[1, 2, 4], [1], [2], [4]]] * 2, GRID)
        answer(unet, *rows())
        maps = probe.maps()
    torch.testing.assert_close(maps[..., 0], maps[..., 1:].mean(-1))


def test_the_answer_is_the_stock_answer_to_the_bit(unet: Any) -> None:
    given = rows()
    stock = answer(unet, *given)
    with open_probe(unet, "all") as probe:
        assert torch.equal(answer(unet, *given), stock), "nothing watched"
        probe.watch(ONE, GRID)
        assert torch.equal(answer(unet, *given), stock), "on"
        probe.enabled = False
        assert torch.equal(answer(unet, *given), stock), "off"
    assert torch.equal(answer(unet, *given), stock), "closed"
    assert {type(one).__name__ for one in unet.attn_processors.values()} == {"AttnProcessor2_0"}


def test_two_phrases_in_one_pass_are_two_passes(unet: Any) -> None:
    given = rows()
    with open_probe(unet) as probe:
        apart = []
        for phrase in ([1, 2], [4]):
            probe.watch([[phrase]] * 2, GRID)
            answer(unet, *given)
            apart.append(probe.maps())
        probe.watch([[[1, 2], [4]]] * 2, GRID)
        answer(unet, *given)
        together = probe.maps()
    torch.testing.assert_close(together, torch.cat(apart, dim=-1))


def test_a_row_sees_nothing_of_another(unet: Any) -> None:
    seen, times, words = rows()
    other = words.clone()
    other[1] = noise(TOKENS, WIDTH, seed=9)
    maps = []
    with open_probe(unet) as probe:
        for phrases, embeds in ((ONE, words), ([ONE[0], [[5], [1]]], other)):
            probe.watch(phrases, GRID)
            answer(unet, seen, times, embeds)
            maps.append(probe.maps())
    torch.testing.assert_close(maps[0][0, :, 0], maps[1][0, :, 0])
    assert not torch.allclose(maps[0][1, :, 0], maps[1][1, :, 0])
    assert not maps[1][0, :, 1].any(), "a row with fewer phrases leaves zeros"


def test_a_key_in_the_direction_of_a_query_takes_all_of_that_cell(unet: Any) -> None:
    given, cell = rows(), 5
    attn = unet.get_submodule(MIDDLE)
    query: list[Tensor] = []

    def plant(_module: nn.Module, _inputs: object, key: Tensor) -> Tensor:
        planted = key.clone()
        planted[:, 3] = 1e4 * query[0][:, cell]
        return planted

    handles = [
        attn.to_q.register_forward_hook(lambda _m, _i, out: query.append(out)),
        attn.to_k.register_forward_hook(plant),
    ]
    try:
        with open_probe(unet, MIDDLE) as probe:
            probe.watch([[[3], [1, 2, 4]]] * 2, (4, 4))
            answer(unet, *given)
            lit, dark = probe.maps().unbind(-1)
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(lit[:, cell], torch.ones(2))
    assert not dark[:, cell].any()
    assert dark.any()


def _gradient(unet: Any, *, checkpoints: bool) -> tuple[Tensor, Tensor]:
    seen, times, words = rows()
    words.requires_grad_(True)
    if checkpoints:
        unet.enable_gradient_checkpointing()
    try:
        with open_probe(unet) as probe:
            probe.watch(ONE, GRID)
            out = answer(unet, seen, times, words)
            maps = probe.maps()
            (maps.square().sum() * 10 + out.square().mean()).backward()
    finally:
        unet.disable_gradient_checkpointing()
    assert words.grad is not None
    return maps.detach(), words.grad


def test_gradients_pass_through_maps_also_where_blocks_are_computed_twice(unet: Any) -> None:
    maps, gradient = _gradient(unet, checkpoints=False)
    again, same = _gradient(unet, checkpoints=True)
    torch.testing.assert_close(again, maps, atol=0, rtol=0)
    torch.testing.assert_close(same, gradient, atol=1e-7, rtol=1e-5)


def test_gradients_are_those_of_the_softmax_written_out(unet: Any) -> None:
    def of(layer: str, *, by_probe: bool) -> Tensor:
        seen, times, words = rows()
        words.requires_grad_(True)
        if by_probe:
            with open_probe(unet, layer) as probe:
                probe.watch([[[2, 3]]] * 2, GRID)
                answer(unet, seen, times, words)
                found = probe.maps()[..., 0]
        else:
            found = written_out(unet, (seen, times, words), layer, [2, 3])
        (found * torch.linspace(-1, 1, 64)).sum().backward()
        assert words.grad is not None
        return words.grad

    torch.testing.assert_close(
        of(UP[3], by_probe=True), of(UP[3], by_probe=False), atol=1e-6, rtol=0
    )


def test_of_more_rows_than_were_asked_about_the_first_count(unet: Any) -> None:
    seen, times, words = rows(6)
    with open_probe(unet) as probe:
        probe.watch(ONE, GRID)
        answer(unet, seen, times, words)
        more = probe.maps()
        answer(unet, seen[:2], times[:2], words[:2])
        torch.testing.assert_close(more, probe.maps())


def test_rows_may_come_one_by_one(unet: Any) -> None:
    seen, times, words = rows(3)
    with open_probe(unet) as probe:
        probe.watch(ONE, GRID)
        answer(unet, seen, times, words)
        whole = probe.maps()
        for first in range(3):
            probe.first = first
            row = slice(first, first + 1)
            answer(unet, seen[row], times[row], words[row])
        torch.testing.assert_close(probe.maps(), whole)


def test_maps_of_no_pass_or_of_too_few_rows_are_refused(unet: Any) -> None:
    with open_probe(unet) as probe:
        with pytest.raises(RuntimeError, match="no pass was recorded"):
            probe.maps()
        probe.watch(ONE, GRID)
        with pytest.raises(RuntimeError, match="no pass was recorded"):
            probe.maps()
        answer(unet, *rows(1))
        with pytest.raises(RuntimeError, match="1 rows passed, and 2 were asked about"):
            probe.maps()
        answer(unet, *rows())
        assert probe.maps().shape == (2, 64, 1)
        probe.clear()
        with pytest.raises(RuntimeError, match="no pass was recorded"):
            probe.maps()


def test_what_sampling_recorded_does_not_spoil_what_training_records(unet: Any) -> None:
    seen, times, words = rows()
    with open_probe(unet) as probe:
        probe.watch(ONE, GRID)
        with torch.inference_mode():
            answer(unet, seen, times, words)
        words.requires_grad_(True)
        answer(unet, seen, times, words)
        probe.maps().sum().backward()
    assert words.grad is not None


def test_a_grid_that_is_coarser_than_a_layer_is_its_mean(unet: Any) -> None:
    given = rows()
    with open_probe(unet, UP[3]) as probe:
        probe.watch(ONE, (4, 2))
        answer(unet, *given)
        (coarse,) = probe.per_layer()
        probe.watch(ONE, GRID)
        answer(unet, *given)
        (fine,) = probe.per_layer()
    blocks = fine[..., 0].view(2, 4, 2, 2, 4).mean(dim=(2, 4)).flatten(1)
    torch.testing.assert_close(coarse[..., 0], blocks)


def test_pictures_need_not_be_square(unet: Any) -> None:
    seen, times, words = noise(2, 8, 8, 12), torch.tensor([5, 500]), rows()[2]
    with open_probe(unet) as probe:
        probe.watch(ONE, (8, 12))
        answer(unet, seen, times, words)
        layers = probe.per_layer()
    assert {found.shape for found in layers} == {(2, 96, 1)}


def test_names_of_layers(unet: Any) -> None:
    assert cross_attention(unet) == (DOWN, MIDDLE, *UP)
    assert chosen(unet, "all") == (DOWN, MIDDLE, *UP)
    assert chosen(unet, "auto") == (MIDDLE, *UP)
    assert chosen(unet, "every:2") == (DOWN, UP[0], UP[2])
    assert chosen(unet, f"up_blocks.1,{MIDDLE}") == (MIDDLE, *UP[2:])
    assert chosen(unet, "up_blocks.1.attentions.0") == UP[2:3]
    with pytest.raises(RecipeError, match="no blocks of two kinds"):
        chosen(unet, "double")
    with pytest.raises(RecipeError, match=r"no attention layer called 'up_blocks\.9'"):
        chosen(unet, "mid_block,up_blocks.9")


def test_the_finest_layer_sets_the_grid(unet: Any) -> None:
    assert finest(unet, noise(1, 4, 8, 12)) == (8, 12)


def test_of_a_large_model_the_decoders_finest_layers_are_left_out(unet: Any) -> None:
    unet.register_to_config(sample_size=64)
    try:
        assert chosen(unet, "auto") == (MIDDLE, *UP[:2])
        assert finest(unet, noise(1, 4, 64, 96)) == (32, 48)
    finally:
        unet.register_to_config(sample_size=8)


def test_what_runs_again_on_the_way_back_leaves_the_first_runs_maps(unet: Any) -> None:
    seen, times, words = rows()
    words.requires_grad_(True)
    with open_probe(unet) as probe:
        unet.enable_gradient_checkpointing(lambda *given: twice(probe, *given))
        try:
            probe.watch(ONE, GRID)
            answer(unet, seen, times, words)
            before = [one.pieces[0] for one in probe._processors.values()]
            # As often as anyone goes back.
            probe.maps().sum().backward(retain_graph=True)
            probe.maps().sum().backward()
            after = [one.pieces[0] for one in probe._processors.values()]
        finally:
            unet.disable_gradient_checkpointing()
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_a_token_that_is_named_twice_counts_once(unet: Any) -> None:
    seen, times, words = rows()
    found = []
    for phrase in ([2, 3], [2, 3, 3]):
        with open_probe(unet) as probe:
            probe.watch([[phrase]] * 2, GRID)
            answer(unet, seen, times, words)
            found.append(probe.maps().detach())
    assert torch.equal(*found)


def test_an_attention_layer_of_another_kind_is_refused_and_nothing_changed(unet: Any) -> None:
    before = unet.attn_processors
    attn = unet.get_submodule(UP[0])
    attn.residual_connection = True
    try:
        with pytest.raises(RecipeError, match="residual_connection"), open_probe(unet):
            pass
    finally:
        attn.residual_connection = False
    assert unet.attn_processors == before
