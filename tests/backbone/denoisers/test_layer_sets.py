"""Which layers get a LoRA: counted on the models of full size, without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.denoisers.layer_sets import _hidream, layers_in, layers_of
from stylecli.backbone.linears import matching
from stylecli.backbone.registry import SOURCES
from stylecli.errors import RecipeError, WeightsError

POCKET = SOURCES["pocket"].folder


def pocket() -> dict[str, object]:
    assert POCKET is not None
    config: dict[str, object] = json.loads((POCKET / "unet" / "config.json").read_text())
    return config


# Backbone, kind, layer set -> how many layers, and all their widths added up (i2l.md 1.7).
COUNTED = [
    ("z-image", "z-image", "full", 238, 2_480_640),
    ("z-image", "z-image", "layers", 210, 2_188_800),
    ("flux2-klein", "flux2", "full", 100, 1_505_280),
    ("hidream-o1", "hidream", "full", 252, 2_727_936),
    ("sd21-base", "unet", "attn", 128, 207_488),
    ("sd21-base", "unet", "attn+ff", 192, 432_128),
    ("sd15", "unet", "attn", 128, 199_296),
    ("pocket", "unet", "attn", 128, 19_328),
    ("pocket", "unet", "attn+ff", 192, 38_912),
    ("pocket", "unet", "attn2", 64, 10_624),
]


@pytest.mark.mostly_slow
@pytest.mark.parametrize(("name", "kind", "layer_set", "count", "widths"), COUNTED)
def test_a_set_has_the_layers_that_the_table_counts(
    name: str, kind: str, layer_set: str, count: int, widths: int
) -> None:
    config = pocket() if name == "pocket" else CONFIGS[name]
    layers = layers_of(kind, config, layer_set)
    assert len(layers) == count
    assert len({layer.path for layer in layers}) == count
    assert sum(layer.width_in + layer.width_out for layer in layers) == widths


def test_auto_is_all_of_a_transformer_and_the_attention_of_a_unet() -> None:
    assert layers_of("unet", pocket()) == layers_of("unet", pocket(), "attn")
    assert layers_of("z-image", CONFIGS["z-image"]) == layers_of(
        "z-image", CONFIGS["z-image"], "full"
    )


def test_layer_ten_comes_after_layer_nine() -> None:
    paths = [layer.path for layer in layers_of("z-image", CONFIGS["z-image"], "layers")]
    assert paths.index("layers.9.attention.to_q") < paths.index("layers.10.attention.to_q")


def test_layers_that_see_all_rows_as_one_sequence_are_never_adapted() -> None:
    for layer in layers_of("z-image", CONFIGS["z-image"], "full"):
        assert "embedder" not in layer.path
        assert "adaLN" not in layer.path


def test_projections_of_sd15_are_convolutions_and_left_out() -> None:
    paths = [layer.path for layer in layers_of("unet", CONFIGS["sd15"], "attn+ff")]
    assert not any("proj_in" in path or "proj_out" in path for path in paths)
    assert any(path.endswith("ff.net.0.proj") for path in paths)


@pytest.mark.parametrize(
    ("kind", "name", "layer_set", "fix"),
    [
        ("unet", "sd15", "full", "attn"),
        ("flux2", "flux2-klein", "layers", "full"),
        ("hidream", "hidream-o1", "attn", "full"),
    ],
)
def test_a_set_of_another_kind_of_model_is_refused(
    kind: str, name: str, layer_set: str, fix: str
) -> None:
    with pytest.raises(RecipeError, match=f"i2l.layer_set {layer_set}") as caught:
        layers_of(kind, CONFIGS[name], layer_set)
    assert caught.value.fix == f"--set i2l.layer_set={fix}"


def test_a_renamed_module_is_an_error_and_not_a_shorter_list() -> None:
    with torch.device("meta"):
        model = _hidream({**CONFIGS["hidream-o1"], "num_hidden_layers": 2})
    with pytest.raises(RecipeError, match="no layer of this model is called"):
        matching(model, [r"model\.language_model\.layers\.\d+\.self_attn\.query_proj"])
    with pytest.raises(RecipeError, match="is no linear layer but"):
        matching(model, [r"model\.language_model\.layers\.\d+\.self_attn"])


def test_a_folder_is_asked_for_its_config_alone(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(pocket()))
    assert layers_in("unet", tmp_path) == layers_of("unet", pocket())
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"unet/config.json cannot be read"):
        layers_in("unet", tmp_path)


def test_a_config_of_another_model_is_refused() -> None:
    with pytest.raises(WeightsError, match="not one of a z-image model"):
        layers_of("z-image", {"dim": 64, "n_heads": 3})


@pytest.mark.slow
def test_full_sizes_are_those_of_the_published_models() -> None:
    from diffusers import Flux2Transformer2DModel, UNet2DConditionModel, ZImageTransformer2DModel

    for name, cls, billions in (
        ("sd15", UNet2DConditionModel, 0.860),
        ("sd21-base", UNet2DConditionModel, 0.866),
        ("z-image", ZImageTransformer2DModel, 6.155),
        ("flux2-klein", Flux2Transformer2DModel, 3.876),
    ):
        with torch.device("meta"):
            model = cls.from_config(CONFIGS[name])
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert round(counted / 1e9, 3) == billions
