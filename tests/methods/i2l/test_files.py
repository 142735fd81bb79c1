"""A predictor's file comes back as it was, and says what is wrong with it when it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from stylecli.artifacts.store import save_tensors
from stylecli.backbone.linears import Layer
from stylecli.engine.i2l import predictors
from stylecli.errors import WeightsError
from stylecli.methods.i2l import files
from stylecli.methods.i2l.encoders.base import Description
from stylecli.methods.i2l.files import Config
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape

LAYERS = (Layer("a.10.to_q", 8, 12), Layer("a.2.to_q", 12, 12))
SHAPE = Shape(encoder_width=6, width=8, depth=2, heads=2, hidden=12, bottleneck=8, rank=2)
CONFIG = Config(
    shape=SHAPE,
    layers=LAYERS,
    layer_set="attn2",
    backbone="pocket",
    kind="unet",
    encoder=Description(
        id="random-patch",
        digest="0" * 64,
        width=6,
        tokens=4,
        px=16,
        fit="crop",
        resample="bilinear",
        pool=2,
    ),
    fingerprint="f00d",
    training={"steps": 7},
)


def made() -> Predictor:
    predictor = Predictor(SHAPE, LAYERS)
    predictor.reset(Generator().manual_seed(0))
    return predictor


def written(path: Path, dtype: torch.dtype = torch.float32) -> Predictor:
    predictor = made()
    save_tensors(path, *files.contents(predictor, CONFIG, dtype))
    return predictor


def test_what_was_written_comes_back_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    predictor = written(path)
    found, config = predictors.load(path)
    assert config == CONFIG
    assert predictors.read_config(path) == CONFIG
    assert (found.shape, found.layers) == (SHAPE, LAYERS)
    assert not found.training
    for name, tensor in predictor.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
        assert not found.get_parameter(name).requires_grad
    again = tmp_path / "again.safetensors"
    save_tensors(again, *files.contents(found, config))
    assert again.read_bytes() == path.read_bytes()


def test_half_a_file_is_read_as_float32(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    predictor = written(path, torch.float16)
    found, _ = predictors.load(path)
    for name, tensor in predictor.state_dict().items():
        assert found.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_config_of_another_predictor_is_not_written() -> None:
    with pytest.raises(ValueError, match="not of this predictor"):
        files.contents(made(), replace(CONFIG, layers=LAYERS[::-1]))


def without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("queries"), "tensor queries is missing"),
        (put("blocks.2.norm1.weight", torch.ones(8)), "blocks.2.norm1.weight is unknown"),
        (put("norm_out.weight", torch.ones(9)), r"norm_out.weight has shape \(9,\), not \(8,\)"),
        (put("img_in.bias", torch.full((8,), torch.nan)), "img_in.bias holds values that are not"),
    ],
)
def test_every_fault_of_a_tensor_is_named(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    path = tmp_path / "p.safetensors"
    tensors, header = files.contents(made(), CONFIG)
    spoil(tensors)
    save_file(tensors, path, metadata=header)
    with pytest.raises(WeightsError, match=said):
        predictors.load(path)


def test_a_predictor_that_nothing_could_ever_train_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    tensors, header = files.contents(made(), CONFIG)
    save_file(
        {k: torch.zeros_like(v) if "heads.up" in k else v for k, v in tensors.items()},
        path,
        metadata=header,
    )
    with pytest.raises(WeightsError, match="is zero"):
        predictors.load(path)


def test_what_is_no_predictor_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(WeightsError, match="cannot be read"):
        predictors.read_config(path)
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(WeightsError, match="cannot be read"):
        predictors.load(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="no predictor"):
        predictors.load(path)
    written(path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as stream:
        header = stream.metadata()
    save_file(tensors, path, metadata={**header, "i2l.format": "2"})
    with pytest.raises(WeightsError, match="format 2"):
        predictors.load(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read"):
        predictors.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": []},
        {"layers": [["a", 8]]},
        {"layers": 3},
        {"shape": {}},
        {"shape": {**SHAPE.to_json(), "heads": 3}},
        {"shape": {**SHAPE.to_json(), "encoder_width": 7}},
        {"encoder": {"id": "x"}},
        {"more": 1},
    ],
)
def test_a_damaged_header_is_one_error_in_one_line(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "p.safetensors"
    tensors, header = files.contents(made(), CONFIG)
    said = json.loads(header[files.CONFIG_KEY]) | change
    save_file(tensors, path, metadata={**header, files.CONFIG_KEY: json.dumps(said)})
    with pytest.raises(WeightsError, match="header of this predictor is damaged") as caught:
        predictors.load(path)
    assert "\n" not in caught.value.what


@pytest.mark.parametrize("text", ["[]", "{", "null", '"x"'])
def test_a_header_of_no_table_is_the_same_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.safetensors"
    tensors, header = files.contents(made(), CONFIG)
    save_file(tensors, path, metadata={**header, files.CONFIG_KEY: text})
    with pytest.raises(WeightsError, match="header of this predictor is damaged"):
        predictors.load(path)
