"""What a recipe means on each backbone where it leaves the choice to us."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.errors import InputError, RecipeError
from stylecli.methods.i2l.presets import PRESETS, resolve, sizes
from stylecli.recipe.i2l import I2L, Predictor


def settings(**predictor: object) -> I2L:
    return I2L(predictor=Predictor.model_validate(predictor))


@pytest.mark.parametrize(
    ("backbone", "preset", "encoder", "layer_set"),
    [
        ("pocket", "nano", "pocket-clip", "attn2"),
        ("sd15", "sd", "siglip2-base-256", "attn"),
        ("sd21-base", "sd", "siglip2-base-256", "attn"),
        ("z-image", "paper", "siglip2-giant-384", "full"),
        ("flux2-klein", "paper", "siglip2-giant-384", "full"),
    ],
)
def test_what_a_backbone_gets_by_itself(
    backbone: str, preset: str, encoder: str, layer_set: str
) -> None:
    found = resolve(I2L(), backbone)
    assert (found.preset, found.encoder, found.layer_set) == (preset, encoder, layer_set)
    assert found.shape(33).encoder_width == 33


def test_what_a_recipe_says_is_what_it_gets() -> None:
    said = I2L.model_validate(
        {
            "layer_set": "attn+ff",
            "encoder": {"id": "random-patch"},
            "predictor": {
                **{"preset": "micro", "d": 64, "depth": 1, "heads": 4, "ff": 100},
                **{"bottleneck": 20, "rank": 5, "query_std": 0.2},
            },
        }
    )
    found = resolve(said, "pocket")
    assert (found.preset, found.encoder, found.layer_set) == ("micro", "random-patch", "attn+ff")
    assert list(found.shape(9).to_json().values()) == [9, 64, 1, 4, 100, 20, 5, 0.2]


def test_the_bottleneck_of_paper_is_fitted_to_each_backbone() -> None:
    found = [sizes("paper", kind).bottleneck for kind in ("z-image", "flux2", "hidream")]
    assert found == [128, 192, 208]
    depths = [sizes("paper-trainable", kind).depth for kind in ("z-image", "flux2", "hidream")]
    assert depths == [22, 27, 26]


@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 32).map(lambda n: 64 * n))
def test_another_width_keeps_heads_of_their_size_and_the_feed_forward_ratio(
    preset: str, width: int
) -> None:
    found = resolve(settings(preset=preset, d=width), "z-image").shape(1)
    head = sizes(preset, "z-image").width // sizes(preset, "z-image").heads
    assert width // found.heads == (head if width % head == 0 else 64)
    if width != sizes(preset, "z-image").width:
        assert abs(found.hidden - width * 8 / 3) <= 32 or found.hidden == 64
        assert found.hidden % 64 == 0


@pytest.mark.parametrize("wrong", [{"d": 100, "heads": 3}, {"bottleneck": 8, "rank": 4}])
def test_sizes_that_cannot_be_name_what_to_change(wrong: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="no predictor has such sizes") as caught:
        resolve(settings(**wrong), "pocket")
    assert "i2l.predictor" in caught.value.fix


def test_an_unknown_backbone_is_an_input_error() -> None:
    with pytest.raises(InputError, match="pockt"):
        resolve(I2L(), "pockt")
