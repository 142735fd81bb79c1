"""What becomes of SAM's masks: crops put back, halves and specks dropped, twins told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from stylecli.masks import hub
from stylecli.masks.sam2 import Sam2, Shape
from stylecli.masks.segments import crops, objects, segments, without_specks
from tests.masks import finders
from tests.masks.setups import picture, setup

SIDE = 128


class Drawn(Sam2):
    """A SAM that finds rectangles, wherever it is shown them; it knows pixels by their colour."""

    def __init__(self, *shapes: Tensor, closer: Tensor | None = None) -> None:
        super().__init__(hub.Networks(setup()), "nobody asks")
        self.whole = [(shape, 0.99) for shape in shapes]
        self.in_crops = self.whole if closer is None else [(closer, 0.985)]
        self.asked: list[tuple[tuple[int, int], int | None]] = []

    def picture(self) -> Image.Image:
        """Each pixel of a colour that tells its place."""
        places = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"))
        pixels = torch.cat([places, torch.zeros(1, SIDE, SIDE, dtype=torch.long)])
        return Image.fromarray(pixels.permute(1, 2, 0).to(torch.uint8).contiguous().numpy())

    def everything(self, image: Image.Image, **options: Any) -> list[Shape]:
        assert options["min_quality"] == 0.98
        self.asked.append((image.size, options["points"]))
        top, left, _ = image.getpixel((0, 0))
        view = slice(top, top + image.height), slice(left, left + image.width)
        return [
            Shape(mask=mask[view], quality=quality)
            for mask, quality in (self.in_crops if image.width < SIDE else self.whole)
            if mask[view].any()
        ]


def box(left: int, top: int, right: int, bottom: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_thing_seen_in_the_whole_and_in_crops_is_one_segment_at_its_place() -> None:
    small, large = box(60, 50, 70, 60), box(10, 70, 120, 120)
    sam = Drawn(small, large)
    found = segments(sam, sam.picture())
    assert [int(one.sum()) for one in found] == [int(large.sum()), int(small.sum())]
    assert torch.equal(found[0], large)
    assert torch.equal(found[1], small)
    shared = int(512 / 1500 * SIDE)
    assert sam.asked == [((SIDE, SIDE), 16)] + [(((SIDE + shared + 1) // 2,) * 2, 8)] * 4


def test_what_was_seen_from_closer_is_put_at_its_place_and_comes_first() -> None:
    rough, fine = box(88, 88, 106, 106), box(89, 88, 106, 106)
    alone = box(90, 30, 102, 40)
    (found,) = segments(Drawn(rough, closer=fine), Drawn().picture())
    assert torch.equal(found, fine)
    (found,) = segments(Drawn(closer=alone), Drawn().picture())
    assert torch.equal(found, alone)


@pytest.mark.slow
def test_objects_are_the_proposals_that_are_likely_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    features = 0.1 * torch.randn(8, 16, 24, generator=torch.Generator().manual_seed(0))
    features[:, 4:10, 6:14] += torch.linspace(-3, 3, 8)[:, None, None]
    found = objects(features, features[:4], seed=0)
    assert found[0, 4:10, 6:14].all()
    assert int(found[0].sum()) == 48
    monkeypatch.setattr("stylecli.masks.segments.MIN_OBJECTNESS", 1.1)
    assert tuple(objects(features, features[:4], seed=0).shape) == (0, 16, 24)


def test_pieces_below_a_thousand_of_512_squared_pixels_are_dropped_in_proportion() -> None:
    least = 1000 * SIDE**2 / 512**2  # 62.5
    speck, piece = box(0, 0, 9, 6), box(40, 40, 48, 48)
    assert int(speck.sum()) < least < int(piece.sum())
    sam = Drawn(speck, piece | box(100, 100, 107, 108))
    (found,) = segments(sam, sam.picture())
    assert torch.equal(found, piece), "a piece of 56 px belongs to no segment"
    assert torch.equal(without_specks(speck | piece, 54), speck | piece)


def test_nothing_found_is_no_segment_of_the_pictures_size() -> None:
    sam = Drawn()
    assert tuple(segments(sam, sam.picture()).shape) == (0, SIDE, SIDE)


@pytest.mark.parametrize("size", [(64, 64), (301, 150), (17, 90)])
def test_crops_cover_the_picture_and_each_other_by_a_third_of_its_shorter_side(
    size: tuple[int, int],
) -> None:
    width, height = size
    seen = torch.zeros(height, width)
    for left, top, right, bottom in crops(width, height):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1
    shared = int(512 / 1500 * min(size))
    assert int((seen[0] == 2).sum()) in (shared, shared + 1)
    assert int((seen[:, 0] == 2).sum()) in (shared, shared + 1)


@pytest.mark.slow
def test_the_real_classes_give_masks_of_the_pictures_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.masks.sam2.MIN_STABILITY", 0.0)
    monkeypatch.setattr("stylecli.masks.segments.MIN_QUALITY", 0.0)
    monkeypatch.setattr("stylecli.masks.segments.POINTS", 2)
    monkeypatch.setattr("stylecli.masks.segments.POINTS_IN_CROPS", 1)
    sam = Sam2(hub.Networks(setup()), str(finders.sam2(tmp_path / "sam2")))
    found = segments(sam, picture(50, 30))
    assert len(found) >= 1
    assert found.dtype == torch.bool
    assert tuple(found.shape[1:]) == (30, 50)
    areas = found.sum(dim=(1, 2)).tolist()
    assert areas == sorted(areas, reverse=True)
