"""Pocket's parts train, stop and resume; worse weights do not ship."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from stylecli.errors import UsageError
from stylecli.evaluation.perceptual import PocketLpips
from stylecli.pocket import (
    diffusion,
    judge,
    latents,
    loop,
    parts,
    vae,
    words,
    yardsticks,
)
from stylecli.pocket.data import IconRow, World
from stylecli.tensors import grounds

ASSETS = Path(vae.__file__).parents[1] / "assets" / "pocket"


@pytest.fixture(scope="module")
def world() -> World:
    """Eight squares in two families, one of them of a held-out content, and one photograph."""
    icons = np.zeros((8, 128, 128, 4), np.uint8)
    icons[:, 32:96, 32:96] = [200, 40, 20, 255]
    rows = [
        IconRow(
            family="noto" if index % 2 else "twemoji",
            content=f"thing-{index // 2}",
            caption=f"thing {index // 2}",
            is_held_out=index < 2,
        )
        for index in range(8)
    ]
    photo = torch.randint(0, 256, (3, 160, 200), generator=_generator(), dtype=torch.uint8)
    return World(icons, rows, {"coffee.png": [photo]}, {"chelsea.png": [photo]})


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(world: World, tmp_path: Path):
    def run(steps: int, path: Path) -> loop.Run:
        part = yardsticks.LpipsPart(_tiny_lpips(), _sample(world), batch=4)
        settings = loop.Settings(steps=4, warmup_steps=2)
        started = loop.start(part, settings, path)
        for _ in range(steps):
            started.advance()
        return started

    whole = run(4, tmp_path / "whole.safetensors")
    run(2, tmp_path / "halves.safetensors").save()
    resumed = run(2, tmp_path / "halves.safetensors")
    assert resumed.step == whole.step == 4
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name
    for one, other in zip(
        whole.part.module.parameters(), resumed.part.module.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_checkpoint_of_another_model_is_refused_and_nothing_of_it_taken_up(
    world: World, tmp_path: Path
):
    part = yardsticks.LpipsPart(_tiny_lpips(), _sample(world), batch=4)
    run = loop.start(part, loop.Settings(steps=2), tmp_path / "a")
    run.save()
    part.module.add_module("further", torch.nn.Linear(2, 2))
    with torch.no_grad():
        next(part.module.parameters()).fill_(7.0)
    with pytest.raises(UsageError, match="a is the checkpoint of another model"):
        loop.start(part, loop.Settings(steps=2), tmp_path / "a")
    assert torch.equal(
        next(part.module.parameters()), torch.full_like(next(part.module.parameters()), 7.0)
    )


def test_averaged_weights_leave_with_the_block(world: World, tmp_path: Path):
    part = yardsticks.LpipsPart(_tiny_lpips(), _sample(world), batch=4)
    run = loop.start(part, loop.Settings(steps=2, learning_rate=0.1), tmp_path / "a")
    run.advance()
    own = part.module.state_dict()["content_head.weight"].clone()
    with loop.averaged(run) as module:
        assert not torch.equal(module.state_dict()["content_head.weight"], own)
    assert torch.equal(part.module.state_dict()["content_head.weight"], own)


@pytest.mark.slow
def test_decoder_training_leaves_the_latents_alone(world: World, tmp_path: Path):
    model = _tiny_vae()
    pictures = torch.rand(2, 3, 32, 32, generator=_generator())
    before = vae.encode(model, pictures)
    part = vae.VaePart(model, world, batch=2, px=32, decoder_only=True)
    run = loop.start(part, loop.Settings(steps=2), tmp_path / "vae")
    weight = model.decoder.conv_out.weight.clone()
    run.advance()
    assert torch.equal(vae.encode(model, pictures), before)
    assert not torch.equal(model.decoder.conv_out.weight, weight)


@pytest.mark.slow
def test_the_denoiser_learns_from_mixed_sizes(world: World, tmp_path: Path):
    tokenizer = words.train(["thing one, flat style", "thing two"], tmp_path / "tokenizer")
    banks = [
        latents.bank(
            tmp_path / f"{px}.safetensors",
            world,
            _tiny_vae(),
            px=px,
            count=diffusion.FIXED_ROWS + 4,
            photo_share=0.5,
            seed=px,
        )
        for px in (16, 32)
    ]
    shares = [diffusion.Share(bank, 0.5, 2) for bank in banks]
    part = diffusion.DiffusionPart(_tiny_denoiser(len(tokenizer)), tokenizer, shares)
    losses = [float(part.losses(0.5, _generator())["loss"].detach()) for _ in range(2)]
    assert losses[0] == losses[1] > 0
    assert set(part.figures()) == {"error_4", "error_8"}
    again = latents.bank(
        tmp_path / "16.safetensors", world, _tiny_vae(), px=16, count=1, photo_share=0, seed=0
    )
    assert torch.equal(again.latents, banks[0].latents)


def test_captions_are_dropped_in_the_stated_proportions():
    generator = _generator()
    found = [latents.caption(("cat", "flat", ""), generator) for _ in range(4000)]
    share = {text: found.count(text) / len(found) for text in ("cat, flat", "cat", "flat", "")}
    expected = {"cat, flat": 0.5, "cat": 0.25, "flat": 0.12, "": 0.13}
    assert share == pytest.approx(expected, abs=0.03)


def test_unknown_words_are_spelt_out_not_lost(tmp_path: Path):
    tokenizer = words.train(["a cat"], tmp_path)
    pieces = tokenizer.tokenize("żółw 日本!")
    assert words.END not in pieces
    assert len(pieces) >= 3
    assert len(tokenizer("x " * 90, truncation=True).input_ids) == words.MAX_TOKENS


def test_an_icon_keeps_its_place_and_its_edges():
    icon = torch.zeros(4, 128, 128)
    icon[:, 32:96, 32:96] = 1
    placed = grounds.place(icon, 64, 1.0, (0.0, 0.0), 0.0)
    assert placed[:, 16:48, 16:48].min() > 0.99
    assert placed[:, :14].max() < 0.01
    moved = grounds.place(icon, 64, 1.0, (0.25, 0.0), 0.0)
    assert torch.allclose(moved[:, :, 32:], placed[:, :, 16:48], atol=0.02)


def test_grey_stays_grey_when_colours_are_shaken():
    grey = torch.full((3, 4, 4), 0.4)
    assert torch.allclose(grounds.shake_colours(grey, _generator()), grey, atol=1e-5)


def test_lab_of_known_colours():
    known = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])[:, :, None, None]
    lab = vae.to_lab(known).flatten(1)
    assert lab[0].tolist() == pytest.approx([100, 0, 0], abs=0.1)
    assert lab[1].tolist() == pytest.approx([53.2, 80.1, 67.2], abs=0.2)


def test_the_ratchet_refuses_worse_weights_and_changes_nothing(tmp_path: Path):
    candidate, shipped = tmp_path / "candidate", tmp_path / "shipped"
    candidate.mkdir()
    (candidate / "model.safetensors").write_bytes(b"new")
    good = dict.fromkeys(judge.TOLERANCE, 1.0)
    judge.ship(candidate, good, shipped)
    (candidate / "model.safetensors").write_bytes(b"worse")
    for fault in ({"inversion_psnr": 0.5}, {"vae_colour_error": 1.5}):
        with pytest.raises(UsageError, match=next(iter(fault))):
            judge.ship(candidate, good | fault, shipped)
    with pytest.raises(UsageError, match="not measured"):
        judge.ship(candidate, {"inversion_psnr": 9.0}, shipped)
    assert (shipped / "model.safetensors").read_bytes() == b"new"
    assert json.loads((shipped / "figures.json").read_text())["figures"] == good
    judge.ship(candidate, good | {"vae_colour_error": 0.5}, shipped)
    assert (shipped / "model.safetensors").read_bytes() == b"worse"


def test_what_ships_is_within_its_limits():
    assert judge.oversized(ASSETS) == []
    assert set(judge.TOLERANCE) >= judge.LOWER_IS_BETTER


def test_a_share_of_hits_counts_the_best_of_the_chosen():
    scores = torch.zeros(2, 60)
    scores[0, 7] = 1.0
    scores[1] = torch.arange(60.0)
    own = torch.tensor([7, 0])
    assert yardsticks.top_share(scores, own, choose=50, best=5) == 0.5


def _generator() -> Generator:
    return torch.Generator().manual_seed(0)


def _sample(world: World) -> yardsticks.Views:
    made = yardsticks.views(world, 8, 0.0, _generator())
    rows = torch.arange(8).repeat(yardsticks.FIXED_ROWS // 8 + 2)
    return dataclasses.replace(
        made, pictures=made.pictures[rows], words=[made.words[int(row)] for row in rows]
    )


def _tiny_lpips() -> PocketLpips:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PocketLpips(["thing-1", "thing-2", "thing-3"], ["noto", "twemoji"])


def _tiny_vae() -> vae.AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return vae.AutoencoderKL(
            **(vae.CONFIG | {"block_out_channels": (8, 8, 8), "norm_num_groups": 2})
        )


def _tiny_denoiser(vocabulary: int) -> diffusion.Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = diffusion.CLIPTextModel(
            diffusion.CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=words.MAX_TOKENS,
            )
        )
        shape = {"block_out_channels": (8, 8, 8, 8), "cross_attention_dim": 16}
        return diffusion.Denoiser(
            diffusion.UNet2DConditionModel(**(diffusion.UNET | shape | {"norm_num_groups": 4})),
            text,
        )


def test_workers_are_found_by_new_processes_of_the_program() -> None:
    # Which know nothing of the module that `python -m` runs.
    workers = [f for name, f in vars(parts).items() if name.endswith("_worker")]
    assert workers
    assert {worker.__module__ for worker in workers} == {"stylecli.pocket.parts"}
