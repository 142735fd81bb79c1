"""Checkpoints of one file: told from their tensors, loaded whole or not at all."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylecli.backbone import architectures, hollow, registry, single_file
from stylecli.backbone.loading import load
from stylecli.backbone.model import Backbone
from stylecli.errors import StyleError
from tests import ldm
from tests.small import noise

KINDS = ("sd15", "sd21-base", "sdxl")
_SMALL_VAE = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
_SMALL_TEXT = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def shrunk(name: str) -> architectures.Architecture:
    """The published architecture with narrow layers; text encoders keep their width."""
    own = architectures.ARCHITECTURES[name]
    unet = dict(own.parts["unet"].config)
    count = len(unet["block_out_channels"])
    unet |= {"block_out_channels": [16] * count, "norm_num_groups": 8, "attention_head_dim": 2}
    if name == "sdxl":
        unet |= {"transformer_layers_per_block": [1, 1, 2]}
    parts = {
        part: replace(said, config={**said.config, **changes})
        for part, said in own.parts.items()
        for changes in [unet if part == "unet" else _SMALL_VAE if part == "vae" else _SMALL_TEXT]
    }
    return replace(own, parts=parts)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    small = {**architectures.ARCHITECTURES, name: shrunk(name)}
    monkeypatch.setattr(architectures, "ARCHITECTURES", small)
    monkeypatch.setattr(single_file, "ARCHITECTURES", small)
    return name


def models(kind: str, folder: Path) -> dict[str, Any]:
    """Random ones, which are the truth here."""
    import diffusers
    import transformers

    torch.manual_seed(0)
    found = {}
    for name, part in architectures.ARCHITECTURES[kind].parts.items():
        if part.library == "diffusers":
            found[name] = getattr(diffusers, part.cls).from_config(dict(part.config))
        else:
            cls = getattr(transformers, part.cls)
            found[name] = cls(cls.config_class(**part.config))
    return {name: part.eval() for name, part in found.items()}


class Made:
    """A checkpoint, and what it was made of."""

    def __init__(self, kind: str, path: Path) -> None:
        self.folder = architectures.lay_out(kind, path / "laid-out")
        self.truth = models(kind, self.folder)
        self.tensors = ldm.whole(kind, self.truth)
        self.file = ldm.saved(path / "one.safetensors", self.tensors)

    def load(self) -> Backbone:
        return load("one", self.folder, fingerprint="", device=torch.device("cpu"), file=self.file)


@pytest.mark.mostly_slow
def test_every_tensor_of_every_part_arrives(kind: str, tmp_path: Path) -> None:
    made = Made(kind, tmp_path)
    found = made.load()
    parts = {"unet": found.unet, "vae": found.vae, "text_encoder": found.text_encoder}
    if kind == "sdxl":
        parts["text_encoder_2"] = found.text_encoder_2  # type: ignore[attr-defined]
    for name, part in parts.items():
        wanted = made.truth[name].state_dict()
        own = part.state_dict()
        assert own.keys() == wanted.keys(), name
        assert all(torch.equal(own[key], value) for key, value in wanted.items()), name
        assert not part.training
    latents, embeds = noise(1, 4, 8, 8), found.encode_prompt(["a cat"])
    with torch.inference_mode():
        assert torch.isfinite(found.predict(latents, 500, embeds)).all()


@pytest.mark.mostly_slow
def test_what_a_file_is_is_told_from_its_tensors(kind: str, tmp_path: Path) -> None:
    made = Made(kind, tmp_path)
    assert single_file.identify(made.file) == single_file.Found(kind)
    source = registry.find(str(made.file))
    assert source.file == made.file
    assert source.kind == ("sdxl" if kind == "sdxl" else "unet")
    assert len(single_file.fingerprint(made.file)) == 16


@pytest.mark.mostly_slow
def test_a_tensor_that_is_missing_or_too_many_is_refused(kind: str, tmp_path: Path) -> None:
    made = Made(kind, tmp_path)
    stems = ("model.diffusion_model.middle_block.1.norm", "first_stage_model.decoder")
    words = {"sd15": "cond_stage_model", "sd21-base": "cond_stage_model", "sdxl": "conditioner"}
    for stem in (*stems, words[kind]):
        victim = max(key for key in made.tensors if key.startswith(stem) and "weight" in key)
        fewer = {key: value for key, value in made.tensors.items() if key != victim}
        ldm.saved(made.file, fewer)
        with pytest.raises(StyleError, match=re.escape(str(made.file))):
            made.load()
    ldm.saved(made.file, {**made.tensors, f"{single_file.UNET}odd.weight": torch.ones(1)})
    with pytest.raises(StyleError, match=r"its UNet has \d+ tensors"):
        made.load()


@pytest.mark.parametrize(
    ("metadata", "extra", "prediction", "zero"),
    [
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction", False),
        ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon", False),
        ({"format": "pt"}, {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}, "v_prediction", True),
    ],
)
def test_what_a_file_says_of_its_answers_is_believed(
    metadata: dict[str, str],
    extra: dict[str, Tensor],
    prediction: str,
    zero: bool,
    tmp_path: Path,
) -> None:
    tensors = {
        single_file._FIRST: torch.ones(2, 4, 3, 3),
        "first_stage_model.x": torch.ones(1),
        "cond_stage_model.transformer.x": torch.ones(1),
        **extra,
    }
    found = single_file.identify(ldm.saved(tmp_path / "v.safetensors", tensors, metadata))
    assert (found.prediction, found.is_zero_snr) == (prediction, zero)
    assert found.scheduler["prediction_type"] == prediction
    assert found.scheduler.get("rescale_betas_zero_snr", False) == zero


def part(*names: str, channels: int = 4) -> dict[str, Tensor]:
    every = {
        "unet": {single_file._FIRST: torch.ones(2, channels, 3, 3)},
        "vae": {"first_stage_model.x": torch.ones(1)},
        "text": {"cond_stage_model.transformer.x": torch.ones(1)},
        "refiner": {"conditioner.embedders.0.model.x": torch.ones(1)},
        "lora": {"lora_unet_x.lora_down.weight": torch.ones(1)},
    }
    return {key: value for name in names for key, value in every[name].items()}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (part("lora"), "is a LoRA"),
        (part("vae"), "is no checkpoint of Stable Diffusion"),
        (part("unet", "vae"), "has no text encoder"),
        (part("unet", "text"), "has no autoencoder"),
        (part("unet"), "has no text encoder and no autoencoder"),
        (part("unet", "vae", "refiner"), "is SDXL's refiner"),
        (part("unet", "vae", "text", channels=9), "its UNet sees 9 channels"),
    ],
)
def test_files_that_are_no_whole_model(
    tensors: dict[str, Tensor], words: str, tmp_path: Path
) -> None:
    with pytest.raises(StyleError, match=words):
        registry.find(str(ldm.saved(tmp_path / "x.safetensors", tensors)))


@pytest.mark.parametrize("name", ["none.safetensors", "cut.safetensors", "model.ckpt"])
def test_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    if name != "none.safetensors":
        (tmp_path / name).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    words = {"none": "does not exist", "cut": "cannot be read", "model": "pickles can run code"}
    with pytest.raises(StyleError, match=words[name.partition(".")[0]]):
        registry.find(str(tmp_path / name))


def test_the_meta_model_of_a_file_is_its_architectures(kind: str, tmp_path: Path) -> None:
    made = Made(kind, tmp_path)
    found = hollow.backbone(
        registry.find(str(made.file)).kind, made.folder, dtype=torch.float32, size_px=64
    )
    assert found.unet.state_dict().keys() == made.truth["unet"].state_dict().keys()
