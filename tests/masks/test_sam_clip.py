"""v1's algorithm against the same in plain loops, with a CLIP and a mask generator made up here."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stylecli.errors import UsageError, WeightsError
from stylecli.masks.sam2 import Shape
from stylecli.masks.sam_clip import FastSam, SamClip, crops, ranked
from stylecli.recipe.finding import Masks
from tests.masks import finders
from tests.masks.setups import picture, setup

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "white": (1.0, 1.0, 1.0)}


def rank(crops: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
    """A CLIP that knows colours: the cosine of a crop's mean colour and the one named, over ten."""
    rows = []
    for crop in crops:
        mean = crop.mean(dim=(1, 2))
        row = [
            float(mean @ torch.tensor(COLOURS[text]))
            / (float(mean.norm()) * math.sqrt(sum(COLOURS[text])) * 10 + 1e-9)
            for text in texts
        ]
        rows.append(row)
    return torch.tensor(rows)


def scene() -> tuple[Image.Image, list[Shape]]:
    """Coloured rectangles on grey, and specks of 100 px and fewer between them."""
    pixels = np.full((60, 90, 3), 90, dtype=np.uint8)
    shapes = []
    for i, (left, top, width, height, colour) in enumerate(
        [
            (2, 3, 10, 10, (255, 255, 255)),  # 100 px: dropped
            (20, 5, 30, 20, (230, 30, 20)),
            (60, 0, 30, 12, (200, 60, 40)),
            (0, 55, 7, 5, (255, 0, 0)),  # 35 px: dropped, beside the one before
            (3, 30, 40, 28, (20, 220, 40)),
            (55, 20, 11, 11, (90, 90, 90)),
        ]
    ):
        pixels[top : top + height, left : left + width] = colour
        mask = torch.zeros(60, 90, dtype=torch.bool)
        mask[top : top + height, left : left + width] = True
        if i == 4:
            mask[30:40, 3:20] = False  # not a rectangle, so white shows in its crop
        shapes.append(Shape(mask=mask, quality=0.5 + i / 20))
    return Image.fromarray(pixels), shapes


def by_hand(image: Image.Image, shapes: list[Shape], text: str) -> dict[int, float]:
    """Index of a candidate -> its share, pixel by pixel."""
    pixels = np.asarray(image).astype(np.float64) / 255
    cosines = {}
    for index, shape in enumerate(shapes):
        inside = [(y, x) for y in range(60) for x in range(90) if shape.mask[y, x]]
        if len(inside) <= 100:
            continue
        top, bottom = min(y for y, _ in inside), max(y for y, _ in inside) + 1
        left, right = min(x for _, x in inside), max(x for _, x in inside) + 1
        dy, dx = round((bottom - top) / 10), round((right - left) / 10)
        top, bottom = max(top - dy, 0), min(bottom + dy, 60)
        left, right = max(left - dx, 0), min(right + dx, 90)
        plain = pixels[top:bottom, left:right].copy()
        white = plain.copy()
        for y in range(top, bottom):
            for x in range(left, right):
                if not shape.mask[y, x]:
                    white[y - top, x - left] = 1.0
        pair = [torch.tensor(a.transpose(2, 0, 1), dtype=torch.float32) for a in (plain, white)]
        cosines[index] = sum(float(rank([crop], [text])[0, 0]) for crop in pair) / 2
    total = sum(math.exp(100 * cosine) for cosine in cosines.values())
    return {index: math.exp(100 * cosine) / total for index, cosine in cosines.items()}


@pytest.mark.parametrize("text", list(COLOURS))
def test_the_evidence_is_that_of_plain_loops(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylecli.masks.sam_clip.CROPS_PER_BATCH", 3)
    image, shapes = scene()
    wanted = by_hand(image, shapes, text)
    found = ranked(image, shapes, [text], lambda: rank, Masks(threshold=0.0))
    assert len(found) == len(wanted) == 4, "specks were kept, or more than specks dropped"
    order = sorted(wanted, key=lambda i: -wanted[i])
    for one, index in zip(found, order, strict=True):
        assert torch.equal(one.mask, shapes[index].mask.float()), "an index slipped"
        assert one.score == pytest.approx(wanted[index], rel=1e-4)
        assert one.detail["mask_quality"] == shapes[index].quality
    assert sum(one.score for one in found) == pytest.approx(1, abs=1e-5)


def test_the_colour_named_is_found_behind_dropped_specks() -> None:
    image, shapes = scene()
    found = ranked(image, shapes, ["green", "red"], lambda: rank, Masks())
    best = {one.prompt: one for one in reversed(found)}
    assert torch.equal(best["green"].mask, shapes[4].mask.float())
    assert torch.equal(best["red"].mask, shapes[1].mask.float())


def test_the_best_stays_unless_a_threshold_says_otherwise() -> None:
    image, _ = scene()
    masks = [torch.zeros(60, 90, dtype=torch.bool) for _ in range(30)]
    for i, mask in enumerate(masks):
        mask[:, i : i + 3] = True
    shapes = [Shape(mask=mask, quality=0.9) for mask in masks]

    def equal(crops: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        return torch.zeros(len(crops), len(texts))

    def found(**settings: Any) -> int:
        return len(ranked(image, shapes, ["red"], lambda: equal, Masks(**settings)))

    assert found() == 30, "equals of the best are as good as it"
    assert found(threshold=0.1) == 0
    assert found(threshold=0.0) == 30


def test_a_crop_reaches_a_tenth_further_and_ends_with_the_picture() -> None:
    image = torch.arange(3 * 40 * 60).reshape(3, 40, 60) / 7200
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[0:20, 10:40] = True
    mask[5, 20] = False
    plain, white = crops(image, mask)
    assert torch.equal(plain, image[:, 0:22, 7:43])
    assert (white[:, ~mask[0:22, 7:43]] == 1).all()
    assert torch.equal(white[:, mask[0:22, 7:43]], plain[:, mask[0:22, 7:43]])


def test_without_words_all_but_specks_come_by_their_own_quality() -> None:
    image, shapes = scene()

    def never() -> Any:
        raise AssertionError("CLIP was loaded for nothing")

    found = ranked(image, shapes, [], never, Masks())
    assert [one.score for one in found] == [0.75, 0.7, 0.6, 0.55]
    assert ranked(image, shapes[:1], ["red"], never, Masks()) == []


@pytest.mark.slow
def test_sam_clip_with_real_classes_finds_masks_of_the_pictures_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.masks.sam2.MIN_STABILITY", 0.0)
    monkeypatch.setattr("stylecli.masks.sam2.MIN_QUALITY", 0.0)
    monkeypatch.setattr("stylecli.masks.sam2.POINTS_PER_SIDE", 2)
    sam, clip = finders.sam2(tmp_path / "sam2"), finders.clip(tmp_path / "clip")
    backend = SamClip(setup(model=str(sam), segmenter=str(clip), threshold=0.0))
    image = picture(50, 30)
    found = backend.segment(image, ["red deer", "sky"])
    assert {one.prompt for one in found} == {"red deer", "sky"}
    for prompt in ("red deer", "sky"):
        assert sum(o.score for o in found if o.prompt == prompt) == pytest.approx(1, abs=1e-5)
    assert all(tuple(one.mask.shape) == (30, 50) for one in found)
    (at,) = backend.segment_at(image, points=[(3.0, 4.0, True)])
    assert tuple(at.mask.shape) == (30, 50)


def test_sam_clip_is_ranked_by_the_clip_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def ranker() -> Any:
        loads.append(1)
        return rank

    image, shapes = scene()
    backend = SamClip(setup(ranker))
    monkeypatch.setattr(backend._sam, "everything", lambda _: shapes)
    for _ in range(2):
        found = backend.segment(image, ["green"])
        assert torch.equal(found[0].mask, shapes[4].mask.float())
    assert len(loads) == 1


def test_the_clip_of_transformers_gives_the_cosines_of_its_own_embeddings(tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    from stylecli.masks.hub import Networks
    from stylecli.masks.sam_clip import clip_ranker

    folder = finders.clip(tmp_path / "clip")
    pictures = [picture(20, 31, seed=1), picture(40, 25, seed=2)]
    tensors = [torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures]
    ours = clip_ranker(Networks(setup()), str(folder))(tensors, ["deer", "red sky"])
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=["deer", "red sky"], images=pictures, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    wanted = torch.nn.functional.cosine_similarity(
        out.image_embeds[:, None], out.text_embeds[None], dim=-1
    )
    assert torch.allclose(ours, wanted, atol=2e-3), "the resize on floats rounds less"


def test_fastsam_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UsageError, match=r"AGPL-3\.0") as caught:
        FastSam(setup())
    assert "pip install ultralytics" in caught.value.fix


def test_fastsam_fetches_no_weights_and_keeps_v1s_indices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, shapes = scene()
    asked: dict[str, Any] = {}

    class Found:
        class masks:  # noqa: N801
            data = torch.stack([shape.mask.float() for shape in shapes])

        class boxes:  # noqa: N801
            conf = torch.tensor([shape.quality for shape in shapes])

    class FakeFastSAM:
        def __init__(self, path: str) -> None:
            asked["path"] = path

        def __call__(self, given: Image.Image, **options: Any) -> list[Any]:
            asked.update(options)
            return [Found]

    module = types.ModuleType("ultralytics")
    module.FastSAM = FakeFastSAM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ultralytics", module)
    for model in (None, str(tmp_path / "absent.pt")):
        with pytest.raises(WeightsError, match="not named, or not there"):
            FastSam(setup(model=model))
    weights = tmp_path / "FastSAM-s.pt"
    weights.touch()
    found = FastSam(setup(lambda: rank, model=str(weights))).segment(image, ["green"])
    assert torch.equal(found[0].mask, shapes[4].mask.float())
    assert asked["path"] == str(weights)
    assert asked["retina_masks"] is True, "or masks would not be of the picture's size"
