"""Patches and places are those of transformers, whose processor is not used."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from stylecli.errors import ImageError
from stylecli.evaluation.judges.sight import MERGE, Sight, fitting, look, positions


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    stream = np.random.default_rng(seed)
    return torch.from_numpy(stream.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(56, 84), (61, 133), (300, 40), (13, 50)])
@pytest.mark.parametrize(("fewest", "most"), [(3136, 1280 * 784), (16 * 784, 16 * 784)])
def test_patches_are_those_of_the_models_own_processor(
    size: tuple[int, int], fewest: int, most: int
) -> None:
    pixels = noise(*size)
    theirs = Qwen2VLImageProcessorPil(min_pixels=fewest, max_pixels=most)(
        images=[Image.fromarray(pixels.numpy())], return_tensors="pt"
    )
    ours = look(pixels, fewest, most)
    assert ours.grid.tolist() == theirs["image_grid_thw"].tolist()
    assert torch.allclose(ours.patches, theirs["pixel_values"], atol=1e-5)
    assert ours.tokens == len(ours.patches) // 4


@given(
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)).filter(
        lambda s: max(s) <= 200 * min(s)
    ),
    most=st.sampled_from([256 * 784, 1280 * 784]),
)
@settings(max_examples=60)
def test_sizes_are_those_of_the_models_own_processor(size: tuple[int, int], most: int) -> None:
    assert fitting(size, 3136, most) == smart_resize(*size, 28, 3136, most)


def test_a_ribbon_is_refused() -> None:
    with pytest.raises(ImageError, match="too narrow"):
        fitting((1, 201), 3136, 10**6)


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (8, 2), (2, 2)])
def test_places_are_those_of_the_model(rows: int, columns: int) -> None:
    config = Qwen2_5_VLConfig(
        text_config={"hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1,
                     "num_key_value_heads": 1, "intermediate_size": 8, "vocab_size": 8},
        vision_config={"depth": 0, "hidden_size": 8, "num_heads": 1, "out_hidden_size": 8},
    )  # fmt: skip
    tokens = rows * columns // MERGE**2
    kinds = torch.tensor([[0] * 3 + [1] * tokens + [0] * 5])
    theirs, _ = Qwen2_5_VLModel(config).get_rope_index(
        torch.zeros_like(kinds), kinds, image_grid_thw=torch.tensor([[1, rows, columns]])
    )
    assert torch.equal(positions(3, Sight(torch.zeros(1, 1), rows, columns), 5), theirs)
