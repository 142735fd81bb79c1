"""Drawn shapes are found by words, points and boxes, at the picture's own size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from stylecli.backbone import loading, registry
from stylecli.backbone.model import Backbone
from stylecli.masks import proposals
from stylecli.masks.base import MaskResult, PointsBackend, Setup
from stylecli.masks.clusters import Clusters, clusters, crop, evidence, look
from stylecli.recipe.finding import Masks
from tests import small, tiny

WIDTH, HEIGHT = 140, 100
HUES = {"red disc": (0.9, 0.1, 0.1), "blue square": (0.1, 0.2, 0.9)}


def truth() -> dict[str, Tensor]:
    rows, columns = torch.arange(HEIGHT)[:, None] + 0.5, torch.arange(WIDTH)[None] + 0.5
    disc = (rows - 42) ** 2 + (columns - 38) ** 2 < 26**2
    square = (rows > 40) & (rows < 84) & (columns > 82) & (columns < 124)
    return {"red disc": disc, "blue square": square}


@cache
def drawing() -> Image.Image:
    picture = torch.full((3, HEIGHT, WIDTH), 0.85)
    for name, inside in truth().items():
        picture = torch.where(inside, torch.tensor(HUES[name])[:, None, None], picture)
    return as_image(picture)


def as_image(picture: Tensor) -> Image.Image:
    return Image.fromarray((picture * 255).byte().permute(1, 2, 0).contiguous().numpy())


def by_colour(crops: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
    """How near a crop's coloured pixels are to the hue that a text names; nothing for others."""
    rows = []
    for piece in crops:
        pixels = piece.flatten(1).T
        seen = pixels[pixels.std(dim=1) > 0.1]
        mean = seen.mean(dim=0) if len(seen) else torch.ones(3)
        share = len(seen) / len(pixels)
        rows.append(
            [
                share * (1 - float((mean - torch.tensor(HUES[text])).norm()))
                if text in HUES
                else 0.0
                for text in texts
            ]
        )
    return torch.tensor(rows)


@cache
def pocket() -> Backbone:
    source = registry.find("pocket")
    return loading.load(
        "pocket", registry.snapshot(source), fingerprint="p", device=torch.device("cpu")
    )


@cache
def little() -> Backbone:
    """Random weights: its regions mean nothing, but there are some."""
    return tiny.backbone(small.folder())


def sketch() -> Image.Image:
    return drawing().resize((56, 40))


def setup(backbone: Backbone | None = None, **settings: object) -> Setup:
    return Setup(
        settings=Masks.model_validate(settings),
        device=torch.device("cpu"),
        dtype=torch.float32,
        backbone=lambda: backbone or pocket(),
        ranker=lambda: by_colour,
        sharpness=30.0,
    )


@cache
def finder() -> Clusters:
    """Shared, because it keeps what it saw of the last picture."""
    made = clusters(setup())
    assert isinstance(made, Clusters)
    return made


def overlap(result: MaskResult, true: Tensor) -> float:
    found = result.mask > 0.5
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.slow
def test_words_choose_the_shape_they_name() -> None:
    results = finder().segment(drawing(), list(HUES))
    for name, true in truth().items():
        first = next(one for one in results if one.prompt == name)
        assert overlap(first, true) > 0.9


@pytest.mark.slow
def test_a_word_alone_is_found_too() -> None:
    for name, true in truth().items():
        assert overlap(finder().segment(drawing(), [name])[0], true) > 0.9


@pytest.mark.slow
def test_finds_are_few_the_best_first_and_at_the_size_of_the_picture() -> None:
    results = finder().segment(drawing(), list(HUES))
    assert [one.prompt for one in results] == sorted(
        (one.prompt for one in results), key=list(HUES).index
    )
    for name in HUES:
        own = [one for one in results if one.prompt == name]
        assert 1 <= len(own) <= 5
        assert [one.score for one in own] == sorted((one.score for one in own), reverse=True)
        for one in own:
            assert one.mask.shape == (HEIGHT, WIDTH)
            assert 0 <= one.mask.min() <= one.mask.max() <= 1
            assert 0 <= one.score <= 1
            assert set(one.detail) == {"cosine", "objectness"}


@pytest.mark.slow
def test_weak_finds_are_dropped_by_the_threshold() -> None:
    """Of a word that fits nothing, every find has a middling share."""
    strict, open_ = (
        Clusters(setup(little(), threshold=threshold)).segment(sketch(), ["green"])
        for threshold in (0.99, 0.0)
    )
    assert strict == []
    assert len(open_) > 1


@pytest.mark.slow
def test_no_words_part_the_whole_picture() -> None:
    results = finder().segment(drawing(), [])
    total = torch.stack([one.mask for one in results]).sum(dim=0)
    torch.testing.assert_close(total, torch.ones(HEIGHT, WIDTH))
    areas = [float(one.mask.sum()) for one in results]
    assert areas == sorted(areas, reverse=True)
    assert all(one.prompt == "" for one in results)


@pytest.mark.slow
def test_the_parts_of_noise_meet_everywhere() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    parts = Clusters(setup(little(), clusters=4)).segment(Image.fromarray(noise), [])
    assert len(parts) > 1
    total = torch.stack([one.mask for one in parts]).sum(dim=0)
    torch.testing.assert_close(total, torch.ones(40, 56))


@pytest.mark.slow
def test_the_number_of_clusters_can_be_fixed() -> None:
    for count in (2, 3):
        assert len(Clusters(setup(little(), clusters=count)).segment(sketch(), [])) == count


def test_a_point_finds_what_lies_under_it_and_another_leaves_out() -> None:
    assert isinstance(finder(), PointsBackend)
    (disc,) = finder().segment_at(drawing(), points=[(38, 42, True), (100, 60, False)])
    assert overlap(disc, truth()["red disc"]) > 0.9
    (both,) = finder().segment_at(drawing(), points=[(38, 42, True), (100, 60, True)])
    assert both.mask[42, 38] > 0.5
    assert both.mask[60, 100] > 0.5


def test_points_that_contradict_each_other_find_nothing() -> None:
    """Both lie in one piece; an empty mask would be a find that shows nothing."""
    assert finder().segment_at(drawing(), points=[(38, 42, True), (39, 43, False)]) == []


def test_every_box_is_answered_in_order() -> None:
    boxes = [(80.0, 38.0, 126.0, 86.0), (10.0, 14.0, 66.0, 70.0)]
    results = finder().segment_at(drawing(), boxes=boxes)
    for result, name in zip(results, ("blue square", "red disc"), strict=True):
        assert overlap(result, truth()[name]) > 0.9
        assert result.boxes[0] == pytest.approx(boxes[name == "red disc"], abs=6)


def test_only_points_to_leave_out_find_nothing() -> None:
    assert finder().segment_at(drawing(), points=[(5, 5, False)]) == []


@pytest.mark.slow
def test_a_flat_picture_is_one_region() -> None:
    flat = Image.new("RGB", (64, 48), (90, 120, 200))
    (whole,) = Clusters(setup()).segment(flat, [])
    assert whole.mask.min() > 0.999
    assert whole.boxes == ((0.0, 0.0, 64.0, 48.0),)


@pytest.mark.slow
def test_one_picture_is_looked_at_once() -> None:
    asked: list[int] = []

    def counted() -> Backbone:
        asked.append(1)
        return little()

    made = setup()
    once = Clusters(
        Setup(
            settings=made.settings,
            device=made.device,
            dtype=made.dtype,
            backbone=counted,
            ranker=made.ranker,
        )
    )
    first = once.segment(sketch(), ["red disc"])
    again = once.segment(sketch().copy(), ["red disc"])
    assert len(asked) == 1
    assert torch.equal(first[0].mask, again[0].mask)
    once.close()
    once.segment(sketch().transpose(Image.Transpose.FLIP_LEFT_RIGHT), [])
    assert len(asked) == 2


@pytest.mark.slow
def test_equal_seeds_give_equal_masks() -> None:
    one, other = (Clusters(setup(little())).segment(sketch(), list(HUES)) for _ in range(2))
    for first, again in zip(one, other, strict=True):
        assert torch.equal(first.mask, again.mask)
        assert first.score == again.score


@pytest.mark.slow
@pytest.mark.parametrize("size", [(37, 11), (3, 5), (70, 24)])
def test_any_size_and_shape_comes_back_as_it_went_in(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    backbone = little()
    own = Clusters(setup(backbone))
    for result in own.segment(Image.fromarray(noise), []):
        assert result.mask.shape == (size[1], size[0])
    (found,) = own.segment_at(Image.fromarray(noise), points=[(size[0] - 1, size[1] - 1, True)])
    assert found.mask.shape == (size[1], size[0])


@pytest.mark.slow
def test_large_pictures_are_looked_at_small() -> None:
    backbone = little()
    view = look(backbone, torch.rand(3, 150, 400, generator=torch.Generator().manual_seed(0)))
    assert view.working.shape == (3, 48, 128)
    assert view.latents.shape[1:] == view.features.shape[1:] == (24, 64)


def test_evidence_is_shared_out_per_text_and_texts_compete() -> None:
    cosines, equal = torch.tensor([[0.5, 0.6], [0.4, 0.1]]), torch.ones(2)
    shares = evidence(cosines, equal, 30.0)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(2))
    assert shares[1, 0] > shares[0, 0]  # the first find fits the second text better
    assert evidence(cosines[:, :1], equal, 30.0)[0, 0] > 0.5
    assert evidence(torch.zeros(2, 1), torch.tensor([0.2, 0.8]), 30.0)[1, 0] > 0.5


@given(st.integers(0, 20), st.integers(0, 30), st.integers(1, 12), st.integers(1, 9))
def test_a_crop_is_square_and_shows_only_the_region(
    top: int, left: int, height: int, width: int
) -> None:
    picture = torch.zeros(3, 32, 40)
    mask = torch.zeros(32, 40)
    mask[top : top + height, left : left + width] = 1
    found = crop(picture, mask)
    assert found.shape[1] == found.shape[2] >= max(height, width)
    assert int((found[0] == 0).sum()) == int(mask.sum())
    assert int((found[0] == 1).sum()) == found[0].numel() - int(mask.sum())


def test_every_union_is_of_pieces_that_touch() -> None:
    pieces = np.array([[1, 1, 2, 3], [1, 1, 2, 3]])
    values = np.array([[[0, 0, 5, 5.5], [0, 0, 5, 5.5]]], dtype=np.float32)
    found = proposals.unions(pieces, values)
    assert [set(np.unique(pieces[cells]).tolist()) for cells in found] == [
        {1},
        {2},
        {3},
        {2, 3},
        {1, 2, 3},
    ]


def test_what_the_border_leaves_over_is_found_whole() -> None:
    labels = np.zeros((7, 9), np.int64)
    labels[2:5, 1:4], labels[3, 2], labels[2:5, 6:8] = 1, 2, 3
    found = [frozenset(map(tuple, np.argwhere(cells))) for cells in proposals.left_over(labels)]
    two_toned = frozenset((row, column) for row in range(2, 5) for column in range(1, 4))
    assert two_toned in found


@given(st.integers(0, 100))
def test_masks_that_sum_to_one_still_do_at_the_edges(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = torch.rand(3, 12, 15, generator=random)
    masks = masks / masks.sum(dim=0)
    picture = torch.rand(3, 12, 15, generator=random)
    edges = proposals.fit_edges(masks, picture, 2)
    mapped = (edges.slopes * picture[None]).sum(dim=1) + edges.offsets
    torch.testing.assert_close(mapped.sum(dim=0), torch.ones(12, 15), atol=1e-4, rtol=0)


def test_a_coarse_mask_takes_the_edge_of_the_picture() -> None:
    picture = torch.zeros(3, 40, 40)
    picture[0, :, 17:] = 1
    soft = torch.sigmoid((torch.arange(40.0) - 19.5) / 2).expand(40, 40)[None]
    mask = proposals.fit_edges(soft, picture, 6).on(picture, 0)
    assert torch.equal(mask > 0.5, picture[0] > 0.5)
    large = torch.zeros(3, 80, 80)
    large[0, :, 34:] = 1
    fine = proposals.fit_edges(soft, picture, 6).on(large, 0)
    assert torch.equal(fine > 0.5, large[0] > 0.5)
