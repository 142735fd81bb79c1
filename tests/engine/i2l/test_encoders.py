"""Encoders found on this machine and nowhere else, read strictly, told apart by what they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from transformers import (
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from stylecli.backbone.registry import ASSETS
from stylecli.engine.i2l import encoders
from stylecli.errors import RecipeError, WeightsError
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.recipe.i2l import Encoder as Settings

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
REPOSITORY = "google/siglip2-base-patch16-256"


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """As after training: the gains of norms are no longer all one."""
    generator = Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def whole() -> SiglipModel:
    """Both halves, as the published repositories hold them."""
    return stirred(  # type: ignore[return-value]
        SiglipModel(
            SiglipConfig(
                text_config={**SIZES, "vocab_size": 20, "max_position_embeddings": 8},
                vision_config={**SIZES, "image_size": 32, "patch_size": 8},
            )
        )
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    whole().save_pretrained(folder)
    said = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def opened(name: str | Path, **given: Any) -> Encoder:
    said = {key: given.pop(key) for key in ("dtype", "pool_tokens", "ref_fit") if key in given}
    return encoders.opened(
        Settings(id=str(name), **said),
        default="pocket-clip",
        device=torch.device("cpu"),
        dtype=torch.float32,
        **given,
    )


def squares(px: int) -> Tensor:
    return torch.rand(2, 3, px, px, generator=Generator().manual_seed(1)) * 2 - 1


@pytest.mark.slow
def test_a_folder_gives_the_tokens_of_its_vision_half(checkpoint: Path) -> None:
    encoder = opened(checkpoint)
    assert (encoder.width, encoder.tokens, encoder.px) == (16, 16, 32)
    assert encoder.description.id == checkpoint.name
    seen = squares(32)
    with torch.no_grad():
        wanted = whole().vision_model(pixel_values=seen).last_hidden_state
    torch.testing.assert_close(encoder(seen), wanted)


@pytest.mark.mostly_slow
@pytest.mark.parametrize("prefix", ["", "vision_model."])
@pytest.mark.parametrize("is_flexible", [False, True])
def test_the_keys_of_every_release_of_transformers_are_read(
    tmp_path: Path, prefix: str, *, is_flexible: bool
) -> None:
    if is_flexible:
        model = Siglip2VisionModel(Siglip2VisionConfig(**SIZES, num_patches=16, patch_size=8))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=32, patch_size=8))
    stirred(model).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    assert any("head." in key for key in state)
    save_file(state, tmp_path / "model.safetensors")
    encoder, seen = opened(tmp_path), squares(32)
    inputs: dict[str, Tensor] = {"pixel_values": seen}
    if is_flexible:
        tiles = seen.reshape(2, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, -1)
        inputs = {
            "pixel_values": tiles,
            "pixel_attention_mask": torch.ones(2, 16),
            "spatial_shapes": torch.full((2, 2), 4),
        }
    with torch.no_grad():
        wanted = model(**inputs).last_hidden_state
    torch.testing.assert_close(encoder(seen), wanted)


def test_files_in_pieces_are_one(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "pieces")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(state)
    for number, some in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in some}, folder / name)
    assert torch.equal(opened(folder)(squares(32)), opened(checkpoint)(squares(32)))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="lacks"):
        opened(folder)


def test_a_tensor_that_is_missing_unknown_or_misshapen_is_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    state = load_file(checkpoint / "model.safetensors")
    key = next(key for key in state if key.endswith("layers.1.mlp.fc1.bias") and "vision" in key)
    folder = copied(checkpoint, tmp_path / "spoilt")

    def spoil(changed: dict[str, Tensor]) -> None:
        (folder / "model.safetensors").unlink()
        save_file(changed, folder / "model.safetensors")

    spoil({name: tensor for name, tensor in state.items() if name != key})
    with pytest.raises(WeightsError, match=r"lacks encoder\.layers\.1\.mlp\.fc1\.bias"):
        opened(folder)
    spoil(state | {"vision_model.encoder.extra": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"unknown encoder\.extra"):
        opened(folder)
    spoil(state | {key: torch.ones(25)})
    with pytest.raises(WeightsError, match=r"shape \(25,\), not \(24,\)"):
        opened(folder)
    spoil(state | {key.removeprefix("vision_model."): torch.ones(24)})
    with pytest.raises(WeightsError, match="two names"):
        opened(folder)


def test_other_folders_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"config\.json cannot be read"):
        opened(folder)
    for text, said in (
        ("[]", "holds no table"),
        ('{"model_type": "clip"}', "type clip, not of SigLIP"),
        ('{"model_type": "siglip", "vision_config": {"hidden_size": 15}}', "not one of a SigLIP"),
        (json.dumps({"model_type": "siglip", "vision_config": SIZES}), "no .safetensors"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match=said) as caught:
            opened(folder)
        assert "\n" not in caught.value.what
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="cannot be read"):
        opened(folder)
    folder = copied(checkpoint, tmp_path / "colours")
    for wrong in ({"image_mean": [0.4] * 3}, {"resample": 9}, {"resample": "soft"}):
        (folder / "preprocessor_config.json").write_text(json.dumps(wrong))
        with pytest.raises(WeightsError, match="other colours or filters"):
            opened(folder)


def test_the_filter_is_the_one_the_checkpoint_names(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "filters")
    assert opened(folder).description.resample == "bilinear"
    (folder / "preprocessor_config.json").write_text('{"resample": 3}')
    assert opened(folder).description.resample == "bicubic"
    (folder / "preprocessor_config.json").unlink()
    assert opened(folder).description.resample == "bilinear"


def test_an_absent_tower_is_named_with_what_fetches_it() -> None:
    with pytest.raises(WeightsError, match=REPOSITORY) as caught:
        opened("siglip2-base-256")
    assert caught.value.exit_status == 4
    assert f"hf download {REPOSITORY}" in caught.value.fix
    assert "--allow-download" in caught.value.fix


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="siglip-base-256") as caught:
        opened("siglip-base-256")
    assert "did you mean siglip2-base-256?" in caught.value.fix


def test_a_tower_lies_below_the_weights_folder_or_in_the_hubs_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path))
    copied(checkpoint, tmp_path / REPOSITORY)
    own = opened("siglip2-base-256")
    assert own.description.id == "siglip2-base-256"
    monkeypatch.delenv("STYLE_WEIGHTS_DIR")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(WeightsError, match="not on this machine"):
        opened("siglip2-base-256")  # a config alone is no model
    copied(checkpoint, snapshot)
    assert opened("siglip2-base-256").identity == own.identity


@pytest.mark.parametrize("revision", [None, "1" * 40])
def test_the_hub_is_asked_for_the_revision_of_a_tower(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    asked: list[Any] = []

    def download(repository: str, **said: Any) -> str:
        asked.append((repository, said["revision"]))
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    tower = encoders.TOWERS["siglip2-base-256"]._replace(revision=revision)
    monkeypatch.setitem(encoders.TOWERS, "siglip2-base-256", tower)
    opened("siglip2-base-256")
    assert asked == [(REPOSITORY, revision)]


def test_identity_is_of_weights_and_not_of_places(checkpoint: Path, tmp_path: Path) -> None:
    first = opened(checkpoint)
    assert opened(copied(checkpoint, tmp_path / "elsewhere")).identity == first.identity
    state = load_file(checkpoint / "model.safetensors")
    key = next(iter(state))
    other = copied(checkpoint, tmp_path / "other")
    save_file(state | {key: state[key] + 1}, other / "model.safetensors")
    assert opened(other).identity != first.identity


def test_what_a_recipe_says_of_an_encoder_counts(checkpoint: Path) -> None:
    encoder = opened(checkpoint, dtype="bfloat16", pool_tokens=2, ref_fit="pad")
    assert (encoder.dtype, encoder.tokens, encoder.description.fit) == (torch.bfloat16, 4, "pad")
    with pytest.raises(RecipeError, match="grid of 4 a side, not of 5"):
        opened(checkpoint, pool_tokens=5)


def test_what_ships_needs_nothing_else() -> None:
    clip = opened("auto")
    assert (clip.description.id, clip.width, clip.tokens) == ("pocket-clip", 510, 16)
    found = clip(squares(64))
    assert found.shape == (2, 16, 510)
    assert torch.isfinite(found).all()
    assert opened("random-patch")(squares(64)).shape == (2, 64, 128)
    vae = opened("vae-patch", backbone=ASSETS / "pocket")
    assert (vae.width, vae.tokens, vae.px) == (64, 64, 128)
    assert len({clip.identity, opened("random-patch").identity, vae.identity}) == 3


@pytest.mark.slow
def test_vae_patches_are_the_latents_the_backbone_works_with() -> None:
    from stylecli.backbone import loading

    encoder = opened("vae-patch", backbone=ASSETS / "pocket")
    seen = squares(128)
    backbone = loading.load("pocket", ASSETS / "pocket", fingerprint="", device=torch.device("cpu"))
    latents = backbone.encode_image(seen / 2 + 0.5)
    from stylecli.methods.i2l.encoders.patches import positions

    wanted = latents[:, :, 4:8, 8:12].flatten(1) + positions(8, 64)[8 + 2]
    torch.testing.assert_close(encoder(seen)[:, 10], wanted, rtol=1e-4, atol=1e-4)


def test_vae_patches_without_a_backbone_are_refused() -> None:
    with pytest.raises(RecipeError, match="needs a backbone with an autoencoder"):
        opened("vae-patch")


def again(trained_with: Encoder, **said: Any) -> Encoder:
    return encoders.opened_for(
        trained_with.description,
        Settings(**said),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


@pytest.mark.slow
def test_a_predictor_gets_the_encoder_it_was_trained_with(checkpoint: Path) -> None:
    trained = opened("pocket-clip", pool_tokens=2, ref_fit="squash")
    assert again(trained).description == trained.description
    # What is asked of a picture is the predictor's to say.
    assert again(trained, pool_tokens=4, ref_fit="pad").description == trained.description
    trained = opened(checkpoint)
    assert again(trained, id=str(checkpoint)).identity == trained.identity


@pytest.mark.parametrize(("other", "said"), [("random-patch", "digest"), ("pocket-clip", "")])
def test_another_encoder_than_that_is_refused(checkpoint: Path, other: str, said: str) -> None:
    with pytest.raises(WeightsError, match="trained with another encoder") as caught:
        again(opened(checkpoint), id=other)
    assert said in caught.value.what
    assert checkpoint.name in caught.value.fix


def test_a_folder_that_a_predictor_names_is_to_be_said_again(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=f"a folder called {checkpoint.name}$") as caught:
        again(opened(checkpoint))
    assert "--set i2l.encoder.id=PATH" in caught.value.fix
