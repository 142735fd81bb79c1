"""What a checkpoint of one file says of the pictures it draws, read from its header alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from stylecli.recipe import native
from stylecli.recipe.load import load
from stylecli.recipe.schema import Lora


def checkpoint(path: Path, *keys: str) -> Path:
    header = {key: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]} for key in keys}
    said = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + bytes(4))
    return path


TRANSFORMER = {("sampling", "size"): 1024, ("sampling", "guidance"): 4.0}
LARGE = {
    ("sampling", "size"): 1024,
    ("lora", "resolution"): 1024,
    ("lora", "crop_px"): Lora().crop_px,
}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("double_stream_modulation_img.lin.weight", TRANSFORMER),
        ("model.diffusion_model.noise_refiner.0.attention.qkv.weight", TRANSFORMER),
        ("vector_in.in_layer.weight", {}),
        ("conditioner.embedders.1.model.ln_final.weight", LARGE),
        ("cond_stage_model.transformer.text_model.x", {}),
    ],
)
def test_a_file_says_how_large_it_draws(
    key: str, wanted: dict[tuple[str, str], object], tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "x.safetensors", key)
    assert dict(native.defaults(file)) == wanted
    found = load(flags={"backbone.id": str(file)}, environ={}).recipe
    if wanted:
        assert found.sampling.size == 1024


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0{"]
)
def test_what_cannot_be_read_says_nothing(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    assert dict(native.defaults(file)) == {}
    assert dict(native.defaults(tmp_path / "none.safetensors")) == {}
