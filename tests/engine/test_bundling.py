"""Bundles hold what was there, in places where it is found, with hashes that tell damage."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stylecli.backbone import hashes, registry
from stylecli.engine import bundling, metric_weights
from stylecli.engine.bundling import parcels
from stylecli.errors import DiskFullError, InputError, OutputDiffersError, WeightsError
from stylecli.evaluation.published import WEIGHTS
from stylecli.evaluation.weights import find
from tests.engine.route.data.sets import Silent

NAMES = ("z-image", "metrics/alexnet", "metrics/dinov2-base", "metrics/qwen2-vl-7b-words")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with weights: a backbone in folders, a pickle's heir, a nested file, words."""
    root = tmp_path / "here"
    folder = root / "z-image"
    for part in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(f'"{part}"')
        (folder / part / "notes.md").write_text("also there")
    for part in ("transformer", "vae", "text_encoder"):
        save_file({"w": torch.randn(9)}, folder / part / "model.safetensors")
    (folder / "model_index.json").write_text('{"_class_name": "ZImagePipeline"}')
    (folder / "README.md").write_text("not needed")
    digest = WEIGHTS["alexnet"].sha256
    for name in ("lpips/alexnet-owt-7be5be79", "dino/dinov2-base/model"):
        file = root / f"{name}.safetensors"
        file.parent.mkdir(parents=True)
        # As `pull` leaves a converted pickle: trusted by the digest of what it was.
        save_file({"w": torch.ones(3)}, file, {"source_sha256": digest + "0" * 56})
    words = root / "preference" / "Qwen2-VL-7B-Instruct"
    words.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "other.txt"):
        (words / name).write_text(name)
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(root))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return root


def made(output: Path, *names: str) -> Path:
    bundling.write(parcels(names or NAMES, None), output, Silent(), overwrite=True)
    return output


def test_what_comes_out_is_found_and_verified(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = made(tmp_path / "weights.tar")
    there = tmp_path / "there"
    with tarfile.open(bundle) as tar:
        tar.extractall(there, filter="data")
    shutil.rmtree(here)
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(there))
    source = registry.find("z-image")
    folder = registry.snapshot(source)
    assert folder == there / "z-image"
    assert set(hashes.verify(source, folder)) >= {"transformer/model.safetensors"}
    assert not (folder / "README.md").exists()
    for name in ("alexnet", "dinov2-base", "qwen2-vl-7b-words"):
        assert metric_weights.verify(WEIGHTS[name])[0].is_relative_to(there)
    assert not (there / "preference" / "Qwen2-VL-7B-Instruct" / "other.txt").exists()
    for victim in (folder / "vae" / "model.safetensors", find(WEIGHTS["dinov2-base"])):
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match=r"vae/model\.safetensors has SHA-256"):
        hashes.verify(source, folder)
    with pytest.raises(WeightsError, match="has SHA-256"):
        metric_weights.verify(WEIGHTS["dinov2-base"])


def test_the_same_weights_make_the_same_bytes(here: Path, tmp_path: Path) -> None:
    first = made(tmp_path / "a.tar").read_bytes()
    for file in here.rglob("*"):
        os.utime(file, (1, 1))
    assert made(tmp_path / "b.tar", *NAMES, NAMES[0]).read_bytes() == first


def test_links_of_the_hubs_cache_are_followed(here: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    file = here / "z-image" / "vae" / "model.safetensors"
    data = file.read_bytes()
    file.rename(blob)
    file.symlink_to(blob)
    with tarfile.open(made(tmp_path / "weights.tar", "z-image")) as tar:
        member = tar.extractfile("z-image/vae/model.safetensors")
        assert member is not None
        assert member.read() == data
        assert {(one.uid, one.mtime, one.isreg()) for one in tar} == {(0, 0, True)}


def test_what_cannot_be_bundled_is_refused_before_anything_is_written(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kind, said in (
        ("pocket", InputError, "ships with the package"),
        ("metrics/none", InputError, "no weights of a metric"),
        ("metrics/csd", WeightsError, "is not on this machine"),
        ("flux2-klein", WeightsError, "not on this machine"),
        (str(here / "z-image"), InputError, "is a folder of yours"),
    ):
        with pytest.raises(kind, match=said):
            parcels(["z-image", name], None)
    found = parcels(NAMES, None)
    taken = tmp_path / "taken.tar"
    taken.write_text("mine")
    with pytest.raises(OutputDiffersError, match="exists"):
        bundling.write(found, taken, Silent(), overwrite=False)
    assert taken.read_text() == "mine"
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="GiB free"):
        bundling.write(found, tmp_path / "new" / "x.tar", Silent(), overwrite=False)
    assert not (tmp_path / "new").exists()
