"""Backbones by other names, by hub id, and those that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from stylecli.backbone import registry
from stylecli.errors import InputError
from stylecli.recipe.backbones import ALIASES, canonical
from stylecli.recipe.schema import Backbone
from tests.conftest import Style

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_aliases_lead_to_rows_and_every_repository_is_one() -> None:
    assert set(ALIASES.values()) <= registry.SOURCES.keys()
    assert not ALIASES.keys() & registry.SOURCES.keys()
    for source in registry.SOURCES.values():
        for repository in source.repositories:
            assert canonical(repository) == source.name
    assert all(alias == alias.casefold() for alias in ALIASES)


def test_a_recipe_knows_a_backbone_by_one_name() -> None:
    assert Backbone(id="RunwayML/stable-diffusion-v1-5").id == "sd15"
    assert Backbone(id="./my/folder").id == "./my/folder"
    assert registry.find("stabilityai/stable-diffusion-2-1-base").name == "sd21-base"


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "../a/b", "/a/b", "a b/c", "-a/b"])
def test_what_is_no_hub_id_is_neither_name_nor_folder(name: str) -> None:
    with pytest.raises(InputError, match="neither a known name nor a folder"):
        registry.find(name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model that ships, as somebody else's repository in the hub's cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("STYLE_WEIGHTS_DIR", raising=False)
    repository = tmp_path / "hub" / "models--someone--small-model"
    folder = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    own = registry.SOURCES["pocket"].folder
    assert own is not None
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(own / part, folder / part)
    shutil.copy(own / "model_index.json", folder / "model_index.json")
    return folder


def test_a_model_of_the_hub_is_run_by_its_id(hub: Path, style: Style, tmp_path: Path) -> None:
    assert registry.snapshot(registry.find("someone/small-model")) == hub
    checked = style("doctor", "--backbone", "someone/small-model", "--json")
    assert checked.status == 0, checked.err
    absent = style("doctor", "--backbone", "someone/else")
    assert absent.status == 4
    assert "style models pull someone/else, or check the name if it is a folder's" in absent.err


def test_the_kind_is_what_its_index_says(hub: Path) -> None:
    index = hub / "model_index.json"
    index.write_text(json.dumps({"_class_name": "ZImagePipeline"}))
    assert registry.find("someone/small-model").kind == "z-image"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"addition_embed_type": "image"}, "another picture or more words"),
        ({"in_channels": 9}, "a mask or another picture"),
    ],
)
def test_a_unet_that_has_to_be_told_more_is_refused(change: dict[str, object], said: str) -> None:
    from types import SimpleNamespace

    from stylecli.backbone.loading import _refuse_unfit
    from stylecli.errors import WeightsError

    plain = {
        "addition_embed_type": None,
        "class_embed_type": None,
        "num_class_embeds": None,
        "in_channels": 4,
    }
    _refuse_unfit("mine", SimpleNamespace(**plain), sees=4)
    _refuse_unfit("mine", SimpleNamespace(**plain | {"in_channels": 8}), sees=None)
    with pytest.raises(WeightsError, match=said):
        _refuse_unfit("mine", SimpleNamespace(**plain | change), sees=4)
