"""What words, places and nothing at all become: regions, files, or an error of one item."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stylecli.engine.mask_backends import find_mask
from stylecli.engine.places import Asked
from stylecli.errors import ItemError, UsageError
from stylecli.recipe.finding import Masks
from tests.masks import plugs
from tests.masks.setups import picture, setup


def found(words: str, **settings: Any) -> Any:
    return find_mask(
        plugs.Fake(setup()), picture(40, 30), words, Masks(**settings), name="photo.png"
    )


def test_words_become_the_best_mask_or_the_union() -> None:
    best = found("deer")
    assert best is not None
    assert best.score == 0.9
    assert best.mask[:, :10].all()
    assert not best.mask[:, 10:].any()
    union = found("deer", select="union")
    assert union is not None
    assert union.mask[:, :30].all()
    assert not union.mask[:, 30:].any()


def test_nothing_found_fails_is_skipped_or_is_everything_as_settings_say() -> None:
    with pytest.raises(ItemError, match=r"photo\.png: nothing matches 'cow'"):
        found("cow")
    assert found("cow", on_empty="skip") is None
    everything = found("cow", on_empty="full")
    assert tuple(everything.mask.shape) == (30, 40)
    assert (everything.mask == 1).all()
    with pytest.raises(ItemError, match=r"scores 0\.9, below masks\.min_score 0\.95"):
        found("deer", min_score=0.95)
    with pytest.raises(ItemError, match=r"leads the next by only 0\.5"):
        found("deer", min_margin=0.6)


def test_a_mask_of_another_size_is_the_plug_ins_fault() -> None:
    with pytest.raises(UsageError, match="20x15, but the picture is 40x30"):
        find_mask(plugs.Squeezed(setup()), picture(40, 30), "deer", Masks(), name="photo.png")


@pytest.mark.parametrize(
    ("texts", "points", "boxes", "words"),
    [
        (["deer"], ["1,2"], [], "both given"),
        (["deer"], [], ["1,2,3,4"], "both given"),
        ([" "], [], [], "--text is empty"),
        ([], ["1"], [], "'1' is not X,Y"),
        ([], ["1,2,3"], [], "'1,2,3' is not X,Y"),
        ([], ["nan,2"], [], "is not X,Y"),
        ([], ["1,2,-", "3,4,-"], [], "nothing is in"),
        ([], [], ["1,2,3"], "is not X0,Y0,X1,Y1"),
        ([], [], ["a,b,c,d"], "is not X0,Y0,X1,Y1"),
        ([], [], ["5,2,5,4"], "has no area"),
        ([], [], ["5,4,9,2"], "has no area"),
    ],
)
def test_places_and_words_that_cannot_be_are_refused(
    texts: list[str], points: list[str], boxes: list[str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Asked.of(texts, points, boxes)


def test_what_is_asked_for_is_read_as_typed() -> None:
    asked = Asked.of([], ["1,2", "3, 4, -", "5,6,+"], ["0,0,10.5,20"])
    assert asked.points == ((1, 2, True), (3, 4, False), (5, 6, True))
    assert asked.boxes == ((0, 0, 10.5, 20),)
    assert Asked.of(["deer", "deer ", "sky"]).texts == ("deer", "sky")
    assert Asked.of([]).everything
    assert not asked.everything


@pytest.mark.parametrize("point", [(40.0, 5.0), (5.0, 30.0), (-1.0, 5.0)])
def test_a_point_beyond_the_picture_fails_the_item(point: tuple[float, float]) -> None:
    asked = Asked(points=((*point, True),))
    with pytest.raises(ItemError, match=r"photo\.png: point .* outside its 40x30"):
        asked.check("photo.png", 40, 30)
    Asked(points=((39.0, 29.0, True),)).check("photo.png", 40, 30)


def test_a_box_beyond_the_picture_fails_the_item() -> None:
    with pytest.raises(ItemError, match="box 0,0,41,30 reaches outside"):
        Asked(boxes=((0.0, 0.0, 41.0, 30.0),)).check("photo.png", 40, 30)
    Asked(boxes=((0.0, 0.0, 40.0, 30.0),)).check("photo.png", 40, 30)


def test_a_text_image_model_of_the_metrics_compares_crops_with_words() -> None:
    from stylecli.backbone.registry import ASSETS
    from stylecli.engine.mask_backends import ranker
    from stylecli.evaluation.perceptual import load_pocket_clip

    crops = [torch.rand(3, 30, 50), torch.rand(3, 64, 64)]
    cosines = ranker("pocket-clip", torch.device("cpu"))(crops, ["a deer", "the sky", "a car"])
    assert tuple(cosines.shape) == (2, 3)
    clip = load_pocket_clip(ASSETS / "pocket" / "clip")
    pixels = (crops[1] * 255).round() / 255
    with torch.no_grad():
        wanted = clip.image_features(pixels[None]) @ clip.text_features(["a deer", "the sky"]).T
    assert torch.allclose(cosines[1, :2], wanted[0], atol=1e-5)
