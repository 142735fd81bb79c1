"""A probe of FLUX: what it records is the model's own attention, and recording changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from stylecli.backbone.editors.base import Text
from stylecli.backbone.editors.flux_kontext import FluxKontext
from stylecli.backbone.probe.base import Phrases
from stylecli.errors import RecipeError
from tests import tiny_kontext
from tests.conftest import ROOT
from tests.small import noise

GRID = (3, 5)
CELLS = GRID[0] * GRID[1]
TEXT = 24
PHRASES = [[[1, 2, 3]], [[4], [0, 9]]]
LAYERS = 3


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> FluxKontext:
    return tiny_kontext.editor(tiny_kontext.save_folder(tmp_path_factory.mktemp("flux")))


@pytest.fixture
def editor(shared: FluxKontext) -> Iterator[FluxKontext]:
    """Put back to frozen weights and no checkpointing; of its weights nothing ever changes."""
    yield shared
    shared.checkpointing(on=False)
    shared.model.requires_grad_(False)
    for parameter in shared.model.parameters():
        parameter.grad = None


def rows(count: int = 2, *, text_seed: int = 3) -> tuple[Tensor, Tensor, Text, Tensor]:
    """What `predict` takes."""
    size = (count, 4, 2 * GRID[0], 2 * GRID[1])
    text = Text(noise(count, TEXT, 24, seed=text_seed), noise(count, 32, seed=4))
    return noise(*size), torch.tensor([0.3, 0.8][:count]), text, noise(*size, seed=1)


def recorded(editor: FluxKontext, phrases: Phrases = PHRASES, layers: str = "all") -> list[Tensor]:
    with editor.probing(layers) as probe, torch.no_grad():
        probe.watch(phrases, GRID)
        editor.predict(*rows(len(phrases)))
        return probe.per_layer()


def test_maps_are_the_attention_that_the_stock_layers_compute(
    editor: FluxKontext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From queries and keys on their way into the library's attention, of either kind of block."""
    from diffusers.models.transformers import transformer_flux

    seen: list[tuple[Tensor, Tensor]] = []
    real = transformer_flux.dispatch_attention_fn

    def spy(query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
        seen.append((query.transpose(1, 2), key.transpose(1, 2)))
        found: Tensor = real(query, key, value, **more)
        return found

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(transformer_flux, "dispatch_attention_fn", spy)
        editor.predict(*rows())
    maps = recorded(editor)
    assert len(maps) == len(seen) == LAYERS
    for layer, (query, key) in zip(maps, seen, strict=True):
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)
        assert weights.shape[-1] == TEXT + 2 * CELLS
        targets = weights[:, TEXT : TEXT + CELLS]
        for row, asked in enumerate(PHRASES):
            for phrase, places in enumerate(asked):
                wanted = targets[row][:, places].mean(dim=-1)
                assert (layer[row, :, phrase] - wanted).abs().max() < 1e-5
    # The first row has one phrase, the second two.
    assert all(layer[0, :, 1].abs().max() == 0 for layer in maps)


def test_the_mean_over_layers_is_what_maps_gives(editor: FluxKontext) -> None:
    with editor.probing() as probe, torch.no_grad():
        probe.watch(PHRASES, GRID)
        editor.predict(*rows())
        assert probe.layers == (
            "transformer_blocks.0",
            "single_transformer_blocks.0",
            "single_transformer_blocks.1",
        )
        mean = torch.stack(probe.per_layer()).mean(dim=0)
        assert torch.equal(probe.maps(), mean)
        assert mean.shape == (2, CELLS, 2)


def test_recording_changes_not_a_bit_of_the_answer(editor: FluxKontext) -> None:
    with torch.no_grad():
        stock = editor.predict(*rows())
        with editor.probing() as probe:
            assert torch.equal(editor.predict(*rows()), stock)
            probe.watch(PHRASES, GRID)
            assert torch.equal(editor.predict(*rows()), stock)
            assert probe.maps().abs().max() > 0
            probe.clear()
            probe.enabled = False
            assert torch.equal(editor.predict(*rows()), stock)
            with pytest.raises(RuntimeError, match="no pass was recorded"):
                probe.maps()
        assert torch.equal(editor.predict(*rows()), stock)


def test_after_a_block_the_processors_are_those_from_before(editor: FluxKontext) -> None:
    model: Any = editor.model
    before = dict(model.attn_processors)

    def failing() -> None:
        with editor.probing("single"):
            assert dict(model.attn_processors) != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert dict(model.attn_processors) == before


def test_a_probe_within_a_probe_is_refused(editor: FluxKontext) -> None:
    with (
        editor.probing(),
        pytest.raises(RuntimeError, match="replaced already"),
        editor.probing(),
    ):
        pytest.fail("the block was entered")


def test_two_phrases_at_once_are_two_runs(editor: FluxKontext) -> None:
    both = recorded(editor, [[[1, 2], [5]]])
    one, other = recorded(editor, [[[1, 2]]]), recorded(editor, [[[5]]])
    for together, first, second in zip(both, one, other, strict=True):
        assert torch.allclose(together, torch.cat([first, second], dim=-1), atol=1e-7)


def test_a_rows_map_is_its_own_whatever_the_other_row_says(editor: FluxKontext) -> None:
    """Losses on a row's attention never see another row's words."""
    noisy, times, text, reference = rows()
    changed = Text(torch.cat([text.embeds[:1], noise(1, TEXT, 24, seed=8)]), text.pooled)
    found = []
    for words, phrases in ((text, PHRASES), (changed, [PHRASES[0], [[7], [8]]])):
        with editor.probing() as probe, torch.no_grad():
            probe.watch(phrases, GRID)
            editor.predict(noisy, times, words, reference)
            found.append(probe.maps())
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


def test_a_place_beyond_the_text_is_an_error(editor: FluxKontext) -> None:
    with editor.probing() as probe, pytest.raises(IndexError, match="24 tokens"):
        probe.watch([[[TEXT]]], GRID)


@pytest.mark.parametrize(
    ("layers", "count"),
    [("auto", 3), ("double", 1), ("single", 2), ("every:2", 2), ("single_transformer_blocks.1", 1)],
)
def test_layers_are_chosen_by_name_or_number(editor: FluxKontext, layers: str, count: int) -> None:
    assert len(recorded(editor, layers=layers)) == count


def test_unknown_layers_are_refused_with_those_there_are(editor: FluxKontext) -> None:
    with (
        pytest.raises(RecipeError, match=r"transformer_blocks.7") as caught,
        editor.probing("transformer_blocks.7"),
    ):
        pytest.fail("the block was entered")
    assert "single_transformer_blocks.1" in caught.value.fix


def learn(editor: FluxKontext, *, probe_on: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss on answer and attention, and its gradients of the queries' weights."""
    learning = {
        name: parameter
        for name, parameter in editor.model.named_parameters()
        if ".to_q." in name or ".to_k." in name
    }
    for parameter in learning.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    with editor.probing() as probe:
        probe.watch(PHRASES, GRID)
        answer = editor.predict(*rows())
        maps, layers = probe.maps(), probe.per_layer()
        assert maps.requires_grad
        loss = answer.square().mean() - (probe_on * maps.clamp(min=1e-6).log()).mean()
        kept = [recorder.last for recorder in probe._recorders]
        loss.backward()
        # What ran again on the way back left nothing: it would hold on to all that it computed.
        assert all(
            recorder.last is last for recorder, last in zip(probe._recorders, kept, strict=True)
        )
        assert len(layers) == LAYERS
    return loss.detach(), {
        name: p.grad.clone() for name, p in learning.items() if p.grad is not None
    }


def test_checkpointing_changes_neither_loss_nor_gradients(editor: FluxKontext) -> None:
    loss, slopes = learn(editor)
    editor.checkpointing(on=True)
    again, same = learn(editor)
    assert torch.equal(loss, again)
    assert slopes.keys() == same.keys()
    assert all(torch.equal(slope, same[name]) for name, slope in slopes.items())
    _, without = learn(editor, probe_on=False)
    assert any(not torch.allclose(slope, without[name]) for name, slope in slopes.items())


@pytest.mark.slow
def test_blocks_are_compiled_once_for_all_layers() -> None:
    """12 blocks of two kinds, recording or not; gradients are those of the eager model.

    In a process of its own: what checks shapes in tests cannot be compiled.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.backbone.probe.compiled_flux"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rounds = json.loads(done.stdout.splitlines()[-1])
    # Two kinds of block, watched or not, with gradients or without; what runs again on the way back
    # may be what was compiled for the way there.
    assert 0 < sum(graphs for graphs, *_ in rounds) <= 2 * 2 * 2 * 2
    assert rounds[0][0] <= 2 * 2 * 2
    for _, loss, slopes in rounds:
        assert loss < 1e-5
        assert slopes < 1e-6


@pytest.mark.slow
def test_noise_levels_and_rows_come_back_in_float32_from_bfloat16(
    tmp_path_factory: pytest.TempPathFactory, editor: FluxKontext
) -> None:
    half = tiny_kontext.editor(
        tiny_kontext.save_folder(tmp_path_factory.mktemp("half")), dtype=torch.bfloat16
    )
    with half.probing() as probe, torch.no_grad():
        probe.watch(PHRASES, GRID)
        assert half.predict(*rows()).dtype == torch.float32
        maps = probe.maps()
    assert maps.dtype == torch.float32
    wanted = torch.stack(recorded(editor)).mean(dim=0)
    assert (maps - wanted).norm() < 0.05 * wanted.norm()
    times = half.sample_times(8, rows()[0], Generator().manual_seed(0))
    assert times.dtype == torch.float32
