"""Where weights of transformers are looked for, what counts as whole, and who may use them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from stylecli.backbone import registry
from stylecli.backbone.hashes import verify
from stylecli.backbone.registry import SOURCES, find, require, snapshot
from stylecli.errors import UsageError, WeightsError
from tests.conftest import Style

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECES = ("piece-00001-of-00002.safetensors", "piece-00002-of-00002.safetensors")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Z-Image as the hub's cache keeps it, of two pieces: names are links to what they hash to."""
    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.delenv("STYLE_WEIGHTS_DIR", raising=False)
    repository = hub / "models--Tongyi-MAI--Z-Image"
    folder = repository / "snapshots" / COMMIT
    for part in ("transformer", "vae", "text_encoder"):
        (folder / part).mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (folder / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    index = {"weight_map": {"a": PIECES[0], "b": PIECES[1]}}
    (folder / "transformer" / "piece.safetensors.index.json").write_text(json.dumps(index))
    names = ["vae/x", "text_encoder/y", *(f"transformer/{piece[:-12]}" for piece in PIECES)]
    for name in names:
        content = f"weights of {name}".encode()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (folder / f"{name}.safetensors").symlink_to(blob)
    return folder


def test_transformers_are_found_in_the_hubs_cache(cached: Path) -> None:
    assert snapshot(SOURCES["z-image"]) == cached
    with pytest.raises(WeightsError, match="FLUX") as caught:
        snapshot(SOURCES["flux2-klein"])
    assert "transformer/, vae/, text_encoder/" in caught.value.what
    assert caught.value.fix == "style models pull flux2-klein"


@pytest.mark.parametrize(
    "gone", [f"transformer/{PIECES[1]}", "vae/x.safetensors", "text_encoder/y.safetensors"]
)
def test_a_snapshot_without_a_piece_is_not_there(cached: Path, gone: str) -> None:
    (cached / gone).unlink()
    with pytest.raises(WeightsError, match="not on this machine"):
        snapshot(SOURCES["z-image"])


def test_what_the_hub_named_is_verified_where_nothing_is_recorded(cached: Path) -> None:
    found = verify(SOURCES["z-image"], cached)
    assert len(found) == 4
    assert found["vae/x.safetensors"] == (cached / "vae" / "x.safetensors").resolve().name
    (cached / "vae" / "x.safetensors").resolve().write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"vae/x\.safetensors has SHA-256"):
        verify(SOURCES["z-image"], cached)


def test_plain_files_have_nothing_to_be_verified_by(cached: Path) -> None:
    for file in cached.rglob("*.safetensors"):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    assert verify(SOURCES["z-image"], cached) == {}


def test_models_verify_reads_transformers_too(cached: Path, style: Style) -> None:
    done = style("models", "verify", "z-image", "--json")
    files = {row["file"] for row in done.rows if "file" in row}
    assert f"transformer/{PIECES[0]}" in files
    assert done.status == 0


def test_models_list_has_them_with_their_licences(style: Style) -> None:
    rows = {row["name"]: row for row in style("models", "list", "--json").rows if "name" in row}
    for name, repository in (
        ("z-image", "Tongyi-MAI/Z-Image"),
        ("flux2-klein", "black-forest-labs/FLUX.2-klein-base-4B"),
    ):
        assert rows[name]["kind"] == "backbone"
        assert rows[name]["licence"] == "Apache-2.0"
        assert rows[name]["repositories"] == [repository]


def test_a_pipeline_nobody_knows_is_taken_for_a_unet(tmp_path: Path) -> None:
    for index in ('{"_class_name": "StableDiffusionPipeline"}', "{}", "[", "[]"):
        (tmp_path / "model_index.json").write_text(index)
        assert find(str(tmp_path)).kind == "unet"


@pytest.mark.slow
def test_a_command_for_unets_refuses_transformers_before_it_looks_for_weights(
    style: Style, tmp_path: Path
) -> None:
    local = tmp_path / "mine"
    local.mkdir()
    (local / "model_index.json").write_text('{"_class_name": "Flux2KleinPipeline"}')
    for backbone in ("z-image", str(local)):
        done = style(
            "generate", "--prompt", "a cat", "-o", tmp_path / "out", "--backbone", backbone
        )
        assert done.status == 2
        what, fix = done.err.strip().splitlines()
        assert "is a transformer" in what
        assert "--backbone pocket or sd15 or sd21-base" in fix


def test_a_command_names_the_kinds_it_takes() -> None:
    require(SOURCES["z-image"], ["unet", "z-image"])
    require(SOURCES["pocket"], ["unet"])
    with pytest.raises(UsageError, match=r"flux2-klein is a transformer \(flux2\)"):
        require(SOURCES["flux2-klein"], ["unet", "z-image"])


def test_no_hash_or_revision_is_recorded_that_nobody_has_seen() -> None:
    for name in ("z-image", "flux2-klein"):
        assert SOURCES[name].revision is None
        assert not SOURCES[name].sha256
        assert registry.SOURCES[name].weighed == ("transformer", "vae", "text_encoder")
