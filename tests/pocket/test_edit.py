"""Pocket's editor: scenes whose edits are true, and changes that are learned, kept and shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from stylecli.artifacts import glyphs
from stylecli.backbone.editors import delta as deltas
from stylecli.backbone.registry import DELTA, THINGS
from stylecli.errors import UsageError, WeightsError
from stylecli.pocket import asking, edit, edit_part, edits, loop, words
from stylecli.pocket.asking import Asked, Sentence
from stylecli.pocket.changes import Changes
from stylecli.pocket.data import IconRow, World
from stylecli.pocket.edit_part import EditPart, Speaker
from stylecli.tensors.filters import FILTERS
from tests.small import base_unet, noise

# Two of whole pictures only are among them.
FAMILIES = [
    *[
        name
        for name, family in glyphs.FAMILIES.items()
        if not family.is_held_out and name not in edits.WHOLE_ONLY
    ][:4],
    *sorted(edits.WHOLE_ONLY),
]
CONTENTS = ("airplane", "red-apple", "snail")
BLUE = {"airplane": 40, "red-apple": 125, "snail": 210}
TOKENIZER = words.load(edit.BASE / "tokenizer")


@pytest.fixture(scope="module")
def world() -> World:
    """Each family draws a square of its own size and red; how blue it is says what it is."""
    icons = np.zeros((18, 128, 128, 4), np.uint8)
    rows = []
    for index in range(18):
        content, family = CONTENTS[index // 6], index % 6
        inset = 8 + 4 * family
        icons[index, inset:-inset, inset:-inset] = [
            40 * family,
            200 - 30 * family,
            BLUE[content],
            255,
        ]
        rows.append(IconRow(FAMILIES[family], content, content, is_held_out=False))
    photo = torch.randint(0, 256, (3, 160, 200), generator=chance(), dtype=torch.uint8)
    return World(icons, rows, {"coffee.png": [photo]}, {})


@pytest.fixture(scope="module")
def shards(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[edits.Shard]:
    folder, stage = tmp_path_factory.mktemp("shards"), edits.Stage(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edits, "PX", 16)
        return [
            edits.shard(folder / f"{seed}", stage, tiny_vae(), count=8, seed=seed)
            for seed in (1, 2)
        ]


def chance(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def tiny_vae() -> AutoencoderKL:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            mid_block_add_attention=False,
            scaling_factor=0.5,
        ).eval()


def middle(picture: Tensor, mask: Tensor) -> list[float]:
    """Of where a thing is seen whole: its median colour."""
    inside = mask > 0.99
    return [float(channel[inside].median()) * 255 for channel in picture]


class Mute(Speaker):
    """A text encoder with as many words as there are prompts."""

    def __init__(self) -> None:
        self._said: dict[str, Tensor] = {}

    def places(self, sentence: Sentence) -> list[tuple[int, ...]]:
        return [() if sentence.span is None else (1,)]

    def __call__(self, prompts: Any) -> Tensor:
        for prompt in prompts:
            self._said.setdefault(prompt, noise(4, 32, seed=sum(map(ord, prompt))))
        return torch.stack([self._said[prompt] for prompt in prompts])


def tiny_encoder() -> CLIPTextModel:
    """Of as many words as pocket's, and as wide as the tiny UNet listens."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(TOKENIZER),
                hidden_size=32,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=words.MAX_TOKENS,
            )
        ).eval()


def part(
    shards: list[edits.Shard], monkeypatch: pytest.MonkeyPatch, *, listens: bool = False
) -> tuple[Any, EditPart]:
    monkeypatch.setattr(edit_part, "FIXED_ROWS", 5)
    unet, encoder = base_unet(), tiny_encoder()
    changes = Changes(unet, encoder, 4, chance())
    speaker = Speaker(TOKENIZER, encoder) if listens else Mute()
    return unet, EditPart(unet, changes, speaker, shards, batch=3)


@pytest.mark.slow
def test_every_edit_of_a_scene_is_true(world: World) -> None:
    stage, generator, seen = edits.Stage(world), chance(), set()
    for _ in range(25):
        row, pictures, masks = stage.scene(generator)
        assert len(pictures) == 1 + len(row.edits)
        source, redrawn = pictures[0], []
        for one in row.edits:
            target = pictures[one.target]
            seen.add((one.kind, one.look in FILTERS))
            changed = (target - source).abs().amax(0) > 1e-6
            if one.look in FAMILIES:
                # Whoever draws a thing, its middle is of their red.
                drawn = range(len(row.things)) if one.mask is None else [one.mask]
                for k in drawn:
                    assert middle(target, masks[k])[0] == pytest.approx(
                        40 * FAMILIES.index(one.look), abs=12
                    )
            if one.kind == "whole":
                assert one.thing == ""
                if one.look in FILTERS:
                    assert torch.equal(target, FILTERS[one.look](source))
                assert one.mask is None
                continue
            assert row.things[one.mask] == one.thing
            assert 0 < float(changed.float().mean()) < 0.6
            # What is redrawn is there before and after, the larger of both seen wherever one is.
            showing = (source, target) if one.kind == "redraw" else (source,)
            blues = [float(picture[2][changed].median()) * 255 for picture in showing]
            blue = pytest.approx(BLUE[one.thing.replace(" ", "-")], abs=20)
            assert any(each == blue for each in blues)
            if one.kind == "redraw":
                assert one.look not in edits.WHOLE_ONLY
                redrawn.append(one.thing)
            if one.kind == "tint":
                # As far to the tint as its soft edge lets it, all channels alike; most of what can
                # be seen to change is all the way there.
                step = edits.tint(source, edits.COLOURS[one.look]) - source
                share = ((target - source) * step).sum(0) / (step.square().sum(0) + 1e-9)
                torch.testing.assert_close(target - source, share * step, atol=1e-4, rtol=0)
                shaken = step.abs().amax(0) > 0.05
                torch.testing.assert_close(
                    share[shaken], masks[one.mask][shaken], atol=1e-3, rtol=0
                )
                assert float(share.min()) > -1e-3
                assert float(share.max()) == pytest.approx(1, abs=1e-3)
                assert int((share > 0.9).sum()) > 0.5 * int((share > 0.1).sum())
        assert redrawn == list(row.things)
    assert seen == {
        ("whole", True),
        ("whole", False),
        ("redraw", False),
        ("tint", False),
        ("remove", False),
    }


def test_only_plain_things_that_many_hands_draw_are_on_stage(world: World) -> None:
    stage, generator = edits.Stage(world), chance()
    things = {thing for _ in range(30) for thing in stage.scene(generator)[0].things}
    assert things == {"airplane", "red apple", "snail"}
    among = edits.Stage(world, among=edits.KNOWN)
    assert {t for _ in range(9) for t in among.scene(generator)[0].things} == {"airplane", "snail"}
    assert not any(edits.is_plain(name) for name in ("keycap-10", "grinning-face", "one-oclock"))


@pytest.mark.slow
def test_a_shard_is_made_once_and_always_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "PX", 16)
    stage, vae = edits.Stage(world), tiny_vae()
    first = edits.shard(tmp_path / "a", stage, vae, count=3, seed=5)
    monkeypatch.setattr(edits.Stage, "scene", None)
    again = edits.shard(tmp_path / "a", stage, vae, count=3, seed=5)
    monkeypatch.undo()
    monkeypatch.setattr(edits, "PX", 16)
    other = edits.shard(tmp_path / "b", stage, vae, count=3, seed=5)
    for shard in (again, other):
        assert shard.rows == first.rows
        assert torch.equal(shard.references, first.references)
        assert torch.equal(shard.targets, first.targets)
        assert torch.equal(shard.masks, first.masks)
    assert first.references.dtype == torch.float16
    assert sorted(e.target for row in first.rows for e in row.edits) == list(
        range(len(first.targets))
    )
    things = [thing for row in first.rows for thing in row.things]
    assert len(first.masks) == len(things)
    for row in first.rows:
        for one in row.edits:
            assert one.mask is None or things[one.mask] == one.thing
    assert first.masks.shape[1:] == first.references.shape[2:]


@pytest.mark.slow
def test_instructions_name_what_changes(shards: list[edits.Shard]) -> None:
    shard, generator, kinds = shards[0], chance(), set()
    targets = list(shard.targets)
    for scene, reference in zip(shard.rows, shard.references, strict=True):
        same = asking.asked(scene, reference, targets, "identity", generator) or pytest.fail(
            "identity can always be asked for"
        )
        assert same.sentence.text in asking.IDENTITIES
        assert torch.equal(same.reference, same.target)
        assert same.sentence == Sentence(same.sentence.text)
        for _ in range(6):
            local = asking.asked(scene, reference, targets, "local", generator)
            assert local is not None
            (one,) = [e for e in scene.edits if torch.equal(local.target, targets[e.target])]
            assert one.kind != "whole"
            said = local.sentence
            assert said.span is not None
            assert said.text[slice(*said.span)] == one.thing
            assert said.mask == one.mask
            assert asking.LOOKS.get(one.look, one.look) in said.text
            kinds.add(one.kind)
        whole = asking.asked(scene, reference, targets, "whole", generator)
        assert whole is not None
        assert whole.sentence == Sentence(whole.sentence.text)
        looks = [
            asking.LOOKS[each.look]
            for each in scene.edits
            if each.kind == "whole" and torch.equal(whole.target, shard.targets[each.target])
        ]
        assert any(look in whole.sentence.text for look in looks)
    assert kinds == set(asking.LOCALS)


@pytest.mark.slow
def test_words_and_pictures_are_left_out_in_the_stated_proportions() -> None:
    generator, reference = chance(), torch.ones(4, 2, 2)
    whole = Asked(Sentence("a", (0, 1), 0), reference, reference)
    rows = [asking.dropped(whole, generator) for _ in range(6000)]
    assert {
        row.sentence.mask for row in rows if not (row.sentence.text and row.reference.any())
    } == {None}
    found = [(bool(row.sentence.text), bool(row.reference.any())) for row in rows]
    share = {way: found.count(way) / len(found) for way in set(found)}
    expected = {(True, True): 0.85, (False, True): 0.05, (True, False): 0.05, (False, False): 0.05}
    assert share == pytest.approx(expected, abs=0.012)


@pytest.mark.slow
def test_changes_are_none_at_first_and_the_file_holds_what_they_become(
    shards: list[edits.Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, made = part(shards, monkeypatch)
    z, embeds = noise(1, 4, 8, 8), noise(1, 4, 32, seed=2)
    seen = torch.cat([z, noise(1, 4, 8, 8, seed=1)], dim=1)
    before = base_unet()(z, 9, embeds).sample
    torch.testing.assert_close(unet(seen, 9, embeds).sample, before)
    run = loop.start(made, loop.Settings(steps=3, learning_rate=0.05), tmp_path / "run")
    run.advance()
    run.advance()
    trained = unet(seen, 9, embeds).sample
    assert not torch.allclose(trained, before, atol=1e-3)
    edit.write(made.module, tmp_path / "editor", base_fingerprint="f")
    file = tmp_path / "editor" / DELTA
    assert (tmp_path / "editor" / "SHA256SUMS").read_text().endswith(f"  {DELTA}\n")
    loaded = base_unet()
    deltas.apply(loaded, tiny_encoder(), deltas.read(file), file, base_fingerprint="f")
    torch.testing.assert_close(loaded(seen, 9, embeds).sample, trained, atol=0.02, rtol=0.02)
    # Training goes on from what shipped.
    other, again = part(shards, monkeypatch)
    again.module.take_up(deltas.read(file).tensors)
    torch.testing.assert_close(other(seen, 9, embeds).sample, trained, atol=0.02, rtol=0.02)
    larger = base_unet()
    Changes(larger, tiny_encoder(), 9, chance()).take_up(deltas.read(file).tensors)
    torch.testing.assert_close(larger(seen, 9, embeds).sample, trained, atol=0.02, rtol=0.02)
    smaller = Changes(base_unet(), tiny_encoder(), 2, chance())
    with pytest.raises(WeightsError, match="the editor that ships has another"):
        smaller.take_up(deltas.read(file).tensors)


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(
    shards: list[edits.Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(steps: int, path: Path) -> loop.Run:
        _, made = part(shards, monkeypatch)
        started = loop.start(made, loop.Settings(steps=4, warmup_steps=2), path)
        for _ in range(steps):
            started.advance()
        return started

    whole = run(4, tmp_path / "whole")
    run(2, tmp_path / "halves").save()
    resumed = run(2, tmp_path / "halves")
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name


@pytest.mark.slow
def test_figures_are_of_scenes_that_training_never_draws(
    shards: list[edits.Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = part(shards, monkeypatch)
    assert made.figures().keys() == {
        *(f"error_{kind}" for kind in asking.KINDS),
        "named_inside",
    }
    assert made.figures() == made.figures()
    drawn: list[int] = []
    real = edit_part._asked_of

    def note(shard: edits.Shard, row: int, kind: str, generator: Generator) -> Any:
        if shard is shards[-1]:
            drawn.append(row)
        return real(shard, row, kind, generator)

    monkeypatch.setattr(edit_part, "_asked_of", note)
    for seed in range(12):
        made.losses(0.5, chance(seed))
    assert drawn
    assert max(drawn) < len(shards[-1].rows) - 5


@pytest.mark.slow
def test_nothing_is_called_by_its_name_among_the_others(
    shards: list[edits.Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    named, others = shards
    unet, encoder = base_unet(), tiny_encoder()
    changes = Changes(unet, encoder, 4, chance())
    monkeypatch.setattr(edit_part, "FIXED_ROWS", 5)
    made = EditPart(unet, changes, Mute(), [named], batch=3, others=[others])
    drawn: list[tuple[bool, str]] = []
    real, real_unnamed = edit_part._asked_of, edit_part.unnamed

    def note(shard: edits.Shard, row: int, kind: str, generator: Generator) -> Any:
        drawn.append((shard is others, kind))
        return real(shard, row, kind, generator)

    def unnamed(scene: edits.Row, *rest: Any) -> Any:
        assert not drawn[-1][0]
        return real_unnamed(scene, *rest)

    monkeypatch.setattr(edit_part, "_asked_of", note)
    monkeypatch.setattr(edit_part, "unnamed", unnamed)
    for seed in range(12):
        made.losses(0.5, chance(seed))
    assert set(drawn) == {
        (False, "whole"),
        (False, "local"),
        (False, "identity"),
        (True, "whole"),
        (True, "identity"),
    }


def test_what_a_sentence_leaves_unnamed_is_named_by_others() -> None:
    scene = edits.Row(
        ("cat", "dog"),
        (
            edits.Edit(0, "whole", "noto", "", None),
            edits.Edit(1, "tint", "blue", "cat", 4),
            edits.Edit(2, "redraw", "noto", "cat", 4),
            edits.Edit(3, "redraw", "noto", "dog", 5),
        ),
    )
    generator = chance()

    def named(sentence: Sentence) -> dict[int | None, str]:
        found = asking.unnamed(scene, sentence, generator)
        return {one.mask: one.text[slice(*(one.span or ()))] for one in found}

    assert named(Sentence("make everything in noto style")) == {4: "cat", 5: "dog"}
    assert named(Sentence("remove the cat", (11, 14), 4)) == {5: "dog"}


@pytest.mark.slow
def test_an_editor_of_another_base_does_not_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(edit, "SHIPPED", shipped)
    edit.ship(tmp_path)
    assert not shipped.exists(), "nothing was trained"
    assert edit.editor_in(tmp_path) is None
    changes = Changes(base_unet(), tiny_encoder(), 1, chance())
    edit.write(changes, tmp_path / edit.FOLDER, base_fingerprint="other")
    with pytest.raises(UsageError, match="changes other, and what ships is"):
        edit.ship(tmp_path)
    assert not shipped.exists()
    monkeypatch.setattr(edit, "fingerprint", lambda _: "other")
    edit.ship(tmp_path)
    assert edit.editor_in(tmp_path / "elsewhere") == shipped
    assert {file.name for file in shipped.iterdir()} == {DELTA, THINGS, "SHA256SUMS"}


@pytest.mark.slow
def test_the_text_encoder_learns_too_and_the_file_holds_it(
    shards: list[edits.Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = part(shards, monkeypatch, listens=True)
    said = ["a cat", "cyberpunk", "a cat"]
    first = made._speaker(said)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    run = loop.start(made, loop.Settings(steps=3, learning_rate=0.05), tmp_path / "run")
    run.advance()
    run.advance()
    learned = made._speaker(said)
    assert not torch.allclose(learned, first, atol=1e-3)
    edit.write(made.module, tmp_path / "editor", base_fingerprint="f")
    file, loaded = tmp_path / "editor" / DELTA, tiny_encoder()
    assert not torch.allclose(Speaker(TOKENIZER, loaded)(said), learned, atol=1e-3)
    deltas.apply(base_unet(), loaded, deltas.read(file), file, base_fingerprint="f")
    torch.testing.assert_close(Speaker(TOKENIZER, loaded)(said), learned, atol=0.02, rtol=0.02)


def test_what_is_said_twice_in_a_batch_is_read_once() -> None:
    calls: list[int] = []
    encoder = tiny_encoder()
    encoder.register_forward_pre_hook(lambda _m, inputs: calls.append(len(inputs[0])))
    Speaker(TOKENIZER, encoder)(["a cat", "a dog", "a cat"])
    assert calls == [2]
