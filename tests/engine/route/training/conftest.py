"""One tiny editor and one small set for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.engine.route.data import items
from stylecli.engine.route.data.items import Dataset
from tests.engine.route.training import toy


@pytest.fixture(scope="session")
def route_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("route")


@pytest.fixture(scope="session")
def pairs(route_world: Path) -> Dataset:
    return items.read(toy.dataset(route_world / "pairs"))


@pytest.fixture
def made(route_world: Path) -> UnetEdit:
    """Fresh: experts change the model they are added to."""
    return toy.editor(route_world)
