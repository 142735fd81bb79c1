"""What other networks see of a picture: settled by recipe and backbone, never taken in silence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts.images import to_pixels
from stylecli.backbone import registry
from stylecli.engine.gallery.sight import Sight
from stylecli.engine.mask_backends import network_files
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.session import Session
from stylecli.errors import WeightsError
from stylecli.evaluation.pixels import IMAGENET_MEAN, IMAGENET_STD
from stylecli.masks.clusters import crop
from stylecli.methods.stylegallery.dfcc import Seen, divide
from stylecli.recipe.schema import Recipe
from tests import small
from tests.masks import finders

REPORTER: Any = SimpleNamespace(note=lambda _: None, warn=lambda _: None)


def recipe(**sections: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"device": {"name": "cpu"}, **sections})


def pocket(**sections: dict[str, Any]) -> Session:
    return Session.open(recipe(backbone={"id": "pocket"}, **sections), REPORTER)


def other(**sections: dict[str, Any]) -> Session:
    return Session.open(recipe(backbone={"id": str(small.folder())}, **sections), REPORTER)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights but those of a test."""
    monkeypatch.setenv("STYLE_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


def picture(height: int = 40, width: int = 56, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def seen_() -> Seen:
    """Ground of one kind with a square of another in it, and some noise on both."""
    noise = torch.Generator().manual_seed(0)
    features = 0.1 * torch.randn(8, 20, 28, generator=noise)
    features[:, 5:12, 8:16] += 3 * torch.randn(8, 1, 1, generator=noise)
    return Seen(features[:4], features[:4], features)


@pytest.mark.slow
def test_objects_are_the_models_own_and_need_no_other_network() -> None:
    session = pocket(dfcc={"segmenter": "objects"})
    sight = Sight(session)
    assert sight.identity(session.recipe)["segmenter"] == "objects"
    masks = sight.segments(picture(), session.recipe, seen=seen_(), seed=0)
    assert masks is not None
    square = torch.zeros(20, 28, dtype=torch.bool)
    square[5:12, 8:16] = True
    assert torch.equal(masks[0], square)
    labels = divide(seen_(), session.recipe.dfcc, seed=0, segments=masks[:1]).labels
    assert torch.equal(labels == labels[6, 9], square)


def test_pocket_needs_no_network_but_its_own_clip() -> None:
    session = pocket()
    sight = Sight(session)
    told = sight.identity(session.recipe)
    assert (told["depth"], told["segmenter"], told["semantics"]) == ("none", "none", "clip")
    assert sight.depth(picture(), session.recipe) is None
    assert sight.segments(picture(), session.recipe, seen=seen_(), seed=0) is None
    assert sight.described(session.recipe) == {
        "depth": "none",
        "segmenter": "none",
        "semantics": "pocket-clip",
    }


@pytest.mark.slow
def test_vectors_of_regions_are_those_of_their_crops_on_white() -> None:
    session = pocket()
    labels = torch.ones(10, 14, dtype=torch.long)
    labels[2:7, 3:9] = 2
    labels[8:, 10:] = 3
    seen = picture()
    found = Sight(session).semantics(seen, labels, session.recipe)
    assert found is not None
    network = Networks(network_files("pocket-clip", False), torch.device("cpu"))
    for region in (1, 2, 3):
        mask = (labels == region).float().repeat_interleave(4, 0).repeat_interleave(4, 1)
        pixels = to_pixels(crop(seen, mask)).numpy()
        small_ = F.interpolate(
            torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float(),
            (64, 64),
            mode="bicubic",
            antialias=True,
        ).clamp(0, 255)
        wanted = network.embed("pocket-clip", small_ / 255)[0]
        assert torch.allclose(found[region - 1], wanted, atol=1e-4)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(
    ("sections", "without"),
    [
        ({}, "--set dfcc.depth=none"),
        ({"dfcc": {"depth": "none"}}, "--set matching.semantics=features"),
        (
            {"dfcc": {"depth": "none", "segmenter": "some/sam"}},
            "--set dfcc.segmenter=objects",
        ),
        (
            {"dfcc": {"depth": "none"}, "matching": {"semantics_model": "some/dino"}},
            "--set matching.semantics=features",
        ),
    ],
)
def test_missing_weights_end_the_run_before_it_begins_and_say_what_goes_without(
    sections: dict[str, Any], without: str
) -> None:
    session = other(**sections)
    with pytest.raises(WeightsError) as caught:
        Sight(session).identity(session.recipe)
    assert without in caught.value.fix
    assert caught.value.exit_status == 4


@pytest.mark.slow
def test_missing_weights_are_no_less_missing_when_a_picture_is_looked_at() -> None:
    session = other()
    sight = Sight(session)
    with pytest.raises(WeightsError):
        sight.depth(picture(), session.recipe)
    with pytest.raises(WeightsError):
        sight.semantics(picture(), torch.ones(10, 14, dtype=torch.long), session.recipe)


@pytest.mark.parametrize("kind", ["features", "none"])
def test_without_networks_nothing_is_looked_for(kind: str) -> None:
    session = other(dfcc={"depth": "none"}, matching={"semantics": kind})
    sight = Sight(session)
    assert sight.identity(session.recipe)["semantics"] == kind
    labels = torch.ones(10, 14, dtype=torch.long)
    assert sight.semantics(picture(), labels, session.recipe) is None


@pytest.mark.slow
def test_dinov2s_tokens_cover_the_whole_picture_two_cells_each(tmp_path: Path) -> None:
    """A region in the extreme corner is described by the corner's tokens alone."""
    folder = finders.dinov2(tmp_path / "dino")
    session = other(dfcc={"depth": "none"}, matching={"semantics_model": str(folder)})
    seen = picture()
    labels = torch.ones(10, 14, dtype=torch.long)
    labels[:2, :2] = 2
    labels[9, 10:] = 3
    found = Sight(session).semantics(seen, labels, session.recipe)
    assert found is not None
    from transformers import Dinov2Model

    resized = F.interpolate(seen[None], (70, 98), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        out = Dinov2Model.from_pretrained(folder).eval()((resized - mean) / std)
    tokens = out.last_hidden_state[0, 1:].unflatten(0, (5, 7))
    assert torch.allclose(found[1], tokens[0, 0], atol=1e-4)
    # Half of each token lies in the region, so they count alike.
    assert torch.allclose(found[2], tokens[4, 5:].mean(dim=0), atol=1e-4)
    centre = recipe(
        matching={"semantics_model": str(folder), "semantics_view": "centre"},
        dfcc={"depth": "none"},
    )
    middle = Sight(session).semantics(seen, labels, centre)
    assert middle is not None
    assert not torch.allclose(middle, found, atol=1e-3)


@pytest.mark.slow
def test_the_centre_is_what_a_picture_cut_by_hand_shows(tmp_path: Path) -> None:
    from transformers import Dinov2Model

    folder = finders.dinov2(tmp_path / "dino")
    session = other(
        dfcc={"depth": "none"},
        matching={"semantics_model": str(folder), "semantics_view": "centre"},
    )
    pixels = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    seen = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    labels = torch.ones(64, 80, dtype=torch.long)
    found = Sight(session).semantics(seen, labels, session.recipe)
    # A picture that was squashed has its middle elsewhere.
    squashed = F.interpolate(seen[None], (256, 256), mode="area")[0]
    square = torch.ones(64, 64, dtype=torch.long)
    same = Sight(session).semantics(
        squashed, square, session.recipe, pixels=torch.from_numpy(pixels)
    )
    assert found is not None
    assert same is not None
    assert torch.equal(same, found)
    cut = torch.from_numpy(np.array(image.crop((48, 16, 272, 240)))).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        out = Dinov2Model.from_pretrained(folder).eval()(((cut - mean) / std)[None])
    assert torch.allclose(found[0], out.last_hidden_state[0, 1:].mean(dim=0), atol=1e-4)


@pytest.mark.slow
def test_depth_and_segments_come_from_the_folders_named_and_go_when_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.masks.sam2.MIN_STABILITY", 0.0)
    monkeypatch.setattr("stylecli.masks.segments.MIN_QUALITY", 0.0)
    monkeypatch.setattr("stylecli.masks.segments.POINTS", 2)
    monkeypatch.setattr("stylecli.masks.segments.POINTS_IN_CROPS", 1)
    depth, sam = finders.depth(tmp_path / "depth"), finders.sam2(tmp_path / "sam2")
    session = other(
        dfcc={"depth": str(depth), "segmenter": str(sam)}, matching={"semantics": "none"}
    )
    sight = Sight(session)
    near = sight.depth(picture(), session.recipe)
    masks = sight.segments(picture(), session.recipe, seen=seen_(), seed=0)
    assert near is not None
    assert near.shape[0] % 14 == near.shape[1] % 14 == 0
    assert masks is not None
    assert tuple(masks.shape[1:]) == (40, 56)
    told = sight.identity(session.recipe)
    (depth / "config.json").write_text((depth / "config.json").read_text() + " ")
    assert sight.identity(session.recipe)["depth"] != told["depth"], "another folder, another key"
    assert sight.described(session.recipe)["depth"] == "depth", "no folder of this machine"
    sight.close()
    assert not sight._networks._loaded


def test_pockets_names_are_those_of_the_registry() -> None:
    assert registry.find("pocket").ranker == "pocket-clip"
