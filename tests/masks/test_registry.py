from __future__ import annotations

from pathlib import Path

import pytest

from stylecli.backbone import registry as backbones
from stylecli.errors import UsageError
from stylecli.masks import registry
from stylecli.recipe.finding import Masks
from tests.masks import plugs
from tests.masks.setups import setup


@pytest.fixture(autouse=True)
def _plugs(monkeypatch: pytest.MonkeyPatch) -> None:
    plugs.install(
        monkeypatch,
        mine="tests.masks.plugs:Fake",
        torn="no_such_package_of_masks:backend",
        broken="tests.masks.plugs:broken",
        halved="tests.masks.plugs:halved",
        clipseg="tests.masks.plugs:Fake",
    )


def test_auto_follows_the_backbone(tmp_path: Path) -> None:
    local = backbones.Source(name=str(tmp_path), licence="unknown", folder=tmp_path)
    assert registry.resolve("auto", backbones.SOURCES["pocket"]) == "clusters"
    assert registry.resolve("auto", backbones.SOURCES["sd15"]) == "grounded-sam2"
    assert registry.resolve("auto", local) == "grounded-sam2"
    assert registry.resolve("clipseg", local) == "clipseg"


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known() -> None:
    with pytest.raises(UsageError, match="'clipsegg'") as caught:
        registry.resolve("clipsegg", backbones.SOURCES["pocket"])
    assert "did you mean clipseg?" in caught.value.fix
    assert caught.value.fix.count("clipseg,") == 1, "listed twice"
    for name in ("auto", *registry.BACKENDS, "mine"):
        assert name in caught.value.fix


def test_a_plug_in_is_known_and_gets_the_setup() -> None:
    given = setup(backend="mine")
    assert registry.resolve("mine", backbones.SOURCES["pocket"]) == "mine"
    backend = registry.create(given)
    assert isinstance(backend, plugs.Fake)
    assert backend.given is given


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torn", "No module named 'no_such_package_of_masks'"),
        ("broken", "RuntimeError: its weights"),
        ("halved", "has no 'segment'"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_one_line_that_names_it(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}'") as caught:
        registry.create(setup(backend=name))
    assert words in caught.value.what
    assert "\n" not in caught.value.what


def test_a_plug_in_never_takes_the_place_of_our_own() -> None:
    assert not isinstance(registry.create(setup(backend="clipseg")), plugs.Fake)


@pytest.mark.parametrize("name", ["grounded-sam2", "clipseg", "sam3", "sam-clip"])
def test_a_backend_is_what_its_row_says_and_loads_nothing_when_made(name: str) -> None:
    row = registry.BACKENDS[name]
    backend = registry.create(setup(backend=name))
    assert backend.name == name
    for part in row.licence.split(", "):
        assert part in backend.licence
    assert row.about
    assert all("/" in model for model in row.models)


def test_the_rows_name_the_weights_that_are_loaded() -> None:
    from stylecli.masks import detectors, sam2

    assert registry.BACKENDS["grounded-sam2"].models == (detectors.GROUNDING_DINO, sam2.SAM2)
    assert registry.BACKENDS["clipseg"].models == (detectors.CLIPSEG,)
    assert registry.BACKENDS["sam3"].models == (detectors.SAM3,)
    assert registry.BACKENDS["sam-clip"].models[0] == sam2.SAM2


def test_weights_that_settings_name_replace_the_defaults_and_their_licence() -> None:
    own = Masks(backend="grounded-sam2", segmenter="facebook/sam2.1-hiera-large")
    assert registry.models(own) == (
        "IDEA-Research/grounding-dino-tiny",
        "facebook/sam2.1-hiera-large",
    )
    backend = registry.create(setup(backend="grounded-sam2"))
    assert registry.licence(backend, own) != backend.licence
    assert registry.licence(backend, Masks()) == backend.licence
    assert registry.models(Masks(backend="somebody's")) == ()
