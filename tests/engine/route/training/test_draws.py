"""What is drawn and what is kept: by a sample's own id, whatever the order."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from stylecli.artifacts import images
from stylecli.artifacts.store import file_sha256
from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.engine.route.data import items
from stylecli.engine.route.data.items import Dataset, Sample
from stylecli.engine.route.training import buckets
from stylecli.engine.route.training.draws import Draws, Lesson, batch, times
from stylecli.errors import ImageError
from stylecli.recipe.route import Route, Train
from stylecli.tensors.seeds import generator
from tests.engine.route.training import toy

AT_512 = (
    (784, 336), (752, 352), (736, 352), (704, 384), (672, 400), (624, 416), (592, 448),
    (544, 480), (512, 512),
)  # fmt: skip


def of_style(pairs: Dataset, style_id: str = "line_art") -> list[Sample]:
    return [one for one in pairs.split("train") if one.style_id == style_id]


def test_sizes_are_those_of_the_model_scaled_and_turned() -> None:
    tall = set(AT_512)
    assert set(buckets.sizes(side=512, multiple=16)) == tall | {(w, h) for h, w in tall}
    cells = [h * w / 256 for h, w in AT_512]
    assert min(cells) >= 1012
    assert max(cells) <= 1056


@given(height=st.integers(40, 4000), width=st.integers(40, 4000), multiple=st.sampled_from([8, 16]))
def test_a_picture_is_seen_in_the_nearest_shape(height: int, width: int, multiple: int) -> None:
    found = buckets.bucket((height, width), side=256, multiple=multiple)
    assert all(side % multiple == 0 for side in found)
    shape = math.log(height / width)
    off = [abs(math.log(h / w) - shape) for h, w in buckets.sizes(side=256, multiple=multiple)]
    assert abs(math.log(found[0] / found[1]) - shape) == pytest.approx(min(off))
    turned = buckets.bucket((width, height), side=256, multiple=multiple)
    assert math.prod(turned) == pytest.approx(math.prod(found), rel=0.2)


@pytest.mark.slow
def test_every_pair_is_seen_once_an_epoch_and_a_batch_is_of_one_size(
    made: UnetEdit, tmp_path: Path
) -> None:
    folder = toy.dataset(tmp_path, pictures=9, held_out=0, sizes=((32, 32), (32, 64), (64, 32)))
    settings = Route(train=Train(micro_batch=2, accumulation=3))
    material = toy.material(made, settings)
    samples = of_style(items.read(folder))
    draws = Draws(samples, material.encoded, settings.train, seed=0)
    assert draws.batches == 6, "three sizes of three pairs in batches of two"
    seen = [draws.at(step) for step in range(4)]
    for step in seen:
        assert [len(group) for group in step] == [2, 2, 2]
        for group in step:
            assert len({material.encoded.size(one.sample) for one in group}) == 1
    for epoch in (seen[:2], seen[2:]):
        counts = Counter(one.sample.id for step in epoch for group in step for one in group)
        assert set(counts) == {sample.id for sample in samples}
        assert sum(counts.values()) == 12
        assert max(counts.values()) == 2
    orders = [
        [one.sample.id for step in epoch for group in step for one in group]
        for epoch in (seen[:2], seen[2:])
    ]
    assert orders[0] != orders[1], "epochs are shuffled anew"


def test_a_step_is_the_same_whoever_asks_and_when(pairs: Dataset, made: UnetEdit) -> None:
    settings = Route(train=Train(p_drop_text=0.3))
    encoded = toy.material(made, settings).encoded

    def said(step: int, seed: int = 0) -> list[tuple[str, bool, float]]:
        draws = Draws(of_style(pairs), encoded, settings.train, seed)
        return [
            (one.sample.id, one.has_text, float(torch.rand((), generator=one.chance)))
            for group in draws.at(step)
            for one in group
        ]

    assert said(7) == said(7)
    assert said(7) != said(8)
    assert said(7) != said(7, seed=1)
    draws = Draws(list(reversed(of_style(pairs))), encoded, settings.train, 0)
    assert {one.sample.style_id for group in draws.at(0) for one in group} == {"line_art"}


def test_what_is_left_out_takes_its_share_and_moves_no_other_draw(
    pairs: Dataset, made: UnetEdit
) -> None:
    some = Train(p_drop_text=0.2, p_drop_picture=0.3, p_drop_both=0.1)
    encoded = toy.material(made, Route()).encoded

    def lessons(settings: Train) -> list[Lesson]:
        draws = Draws(of_style(pairs), encoded, settings, 0)
        return [one for step in range(60) for group in draws.at(step) for one in group]

    plain, mixed = lessons(Train()), lessons(some)
    assert all(one.has_text and one.has_picture for one in plain)
    counts = Counter((one.has_text, one.has_picture) for one in mixed)
    for key, share in (((False, True), 0.2), ((True, False), 0.3), ((False, False), 0.1)):
        assert counts[key] / len(mixed) == pytest.approx(share, abs=0.07)
    for a, b in zip(plain, mixed, strict=True):
        assert a.sample == b.sample
        assert torch.equal(*(torch.rand(3, generator=one.chance) for one in (a, b)))


def lesson(sample: Sample, *, text: bool = True, picture: bool = True) -> Lesson:
    return Lesson(sample, text, picture, generator(sample.id))


def expected(made: UnetEdit, path: Path) -> Tensor:
    with torch.no_grad():
        return made.encode_image(images.scaled(items.picture(path), (32, 32))[None])


@pytest.mark.mostly_slow
@pytest.mark.parametrize("is_kept", [False, True])
def test_a_cache_gives_a_samples_own_latents_words_and_mask_in_any_order(
    pairs: Dataset, made: UnetEdit, is_kept: bool
) -> None:
    """Kept by position, as in the authors' code, all but the first order would be wrong."""
    samples = pairs.split("train")
    for order in (samples, tuple(reversed(samples)), samples[3:] + samples[:3]):
        material = toy.material(made, Route(), is_kept=is_kept)
        for sample in order:
            some = batch(made, material.encoded, [lesson(sample)])
            assert torch.equal(some.clean, expected(made, sample.target))
            assert torch.equal(some.reference, expected(made, sample.source))
            with torch.no_grad():
                assert torch.equal(some.text.embeds, made.encode_prompt([sample.prompt]).embeds)
            mask = items.mask_of(sample.edits[0])
            assert float(some.masks.mean()) == pytest.approx(float(mask.mean()), abs=1e-3)


@pytest.mark.slow
def test_from_the_cache_nothing_is_encoded_again(
    pairs: Dataset, made: UnetEdit, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = pairs.split("train")
    first = toy.material(made, Route(), is_kept=True)
    before = batch(made, first.encoded, [lesson(one) for one in samples])
    for name in ("encode_image", "encode_prompt"):
        monkeypatch.setattr(made, name, None)
    again = toy.material(made, Route(), is_kept=True)
    after = batch(made, again.encoded, [lesson(one) for one in samples])
    assert torch.equal(before.clean, after.clean)
    assert torch.equal(before.text.embeds, after.text.embeds)
    assert torch.equal(before.masks, after.masks)


@pytest.mark.slow
def test_a_picture_that_is_another_than_it_was_is_refused_by_name(
    made: UnetEdit, tmp_path: Path
) -> None:
    sample = items.read(toy.dataset(tmp_path)).samples[0]
    sample.target.write_bytes(sample.source.read_bytes())
    encoded = toy.material(made, Route()).encoded
    with pytest.raises(ImageError, match=r"0_thing\.png: is not the picture"):
        encoded.target(sample)
    assert encoded.source(sample).shape[0] == 1


@pytest.mark.slow
def test_a_mask_that_is_another_than_it_was_or_of_another_size_is_refused_by_name(
    made: UnetEdit, tmp_path: Path
) -> None:
    sample = items.read(toy.dataset(tmp_path)).samples[0]
    encoded = toy.material(made, Route()).encoded
    mask = sample.edits[0].mask
    Image.new("1", (toy.PX, toy.PX)).save(mask)
    with pytest.raises(ImageError, match=r"0_thing\.png: is not the mask"):
        encoded.mask(sample, sample.edits, (4, 4))
    Image.new("1", (24, 16), 1).save(mask)
    other = replace(sample, sha256={**sample.sha256, "mask": file_sha256(mask)})
    with pytest.raises(ImageError, match=r"0_thing\.png: is 24x16, and the pictures"):
        encoded.mask(other, other.edits, (4, 4))


@pytest.mark.slow
def test_rows_without_words_or_picture_are_empty_and_their_attention_is_not_looked_at(
    pairs: Dataset, made: UnetEdit
) -> None:
    first, second = pairs.split("train")[:2]
    encoded = toy.material(made, Route()).encoded
    some = batch(made, encoded, [lesson(first, text=False), lesson(second, picture=False)])
    with torch.no_grad():
        assert torch.equal(some.text.embeds[:1], made.encode_prompt([""]).embeds)
    assert some.valid.tolist() == [[False], [True]]
    assert some.reference[0].any()
    assert not some.reference[1].any()


@pytest.mark.slow
def test_two_objects_of_one_phrase_have_one_mask_and_of_two_phrases_two(
    made: UnetEdit, tmp_path: Path
) -> None:
    folder = toy.dataset(tmp_path, held_out=0)
    rows = toy.lines(folder)
    for row in rows[:2]:
        row["edits"].append(row["edits"][0] | {"mask": rows[2]["edits"][0]["mask"]})  # type: ignore[attr-defined, index, operator]
    prompt = str(rows[0]["prompt"])
    rows[0]["prompt"] = prompt + " line-art"
    rows[0]["edits"][1]["style_span"] = [len(prompt) + 1, len(prompt) + 9]  # type: ignore[index]
    toy.write(folder, rows, toy.STYLES)
    samples = items.read(folder).samples
    encoded = toy.material(made, Route()).encoded
    two, one = samples[0], samples[1]
    some = batch(made, encoded, [lesson(two), lesson(one)])
    assert some.valid.tolist() == [[True, True], [True, False]]
    assert not some.masks[1, :, 1].any()
    union = torch.stack([items.mask_of(edit) for edit in one.edits]).amax(dim=0)
    assert float(some.masks[1, :, 0].mean()) == pytest.approx(float(union.mean()), abs=1e-3)
    assert len(some.phrases[0]) == 2
    assert set(some.phrases[0][0]).isdisjoint(some.phrases[0][1])


def test_even_times_are_even_and_others_are_the_models(made: UnetEdit) -> None:
    latents = torch.zeros(1, 4, 16, 16)
    even = times(made, 4000, latents, generator("a"), is_even=True)
    assert torch.equal(even, even.round())
    assert 0 <= float(even.min()) < float(even.max()) <= 999
    assert float(even.mean()) == pytest.approx(499.5, abs=15)
    own = times(made, 50, latents, generator("a"), is_even=False)
    assert torch.equal(own, made.sample_times(50, latents, generator("a")))
