"""What a gallery keeps of a content is the file's own, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.engine.gallery.desk import Desk, painted, recipe


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.slow
def test_pixels_of_kept_regions_are_the_files_own_at_its_own_size(desk: Desk) -> None:
    content = desk.contents[0]
    # Red is larger, so it is region 1.
    mask = painted(desk.folder / "mask.png", ["#ff0000", "#ff0000", "#0000ff"])
    own = {"gallery__mask": str(mask), "dfcc__mask_mode": "only", "gallery__only": ["blue"]}
    desk.make("only.png", [content], settings=recipe(**own))
    before = np.array(Image.open(content).convert("RGB")).astype(int)
    after = desk.pixels("only.png")
    assert after.shape == before.shape == (40, 48, 3)
    # Away from the border, which lies where two thirds end.
    assert (after[:, :20] == before[:, :20]).all()
    assert (after[:, 44:] != before[:, 44:]).any()

    desk.make("decoded.png", [content], settings=recipe(**own, sampling__composite="none"))
    decoded = desk.pixels("decoded.png")
    assert decoded.shape == (32, 38, 3)
    assert (decoded[:, :16] != np.array(Image.open(content).resize((38, 32)))[:, :16]).any()


@pytest.mark.slow
def test_without_kept_regions_nothing_is_pasted(desk: Desk) -> None:
    desk.make("plain.png")
    desk.make("named.png", settings=recipe(gallery__match=["1=ref1:1"]))
    assert desk.pixels("plain.png").shape == desk.pixels("named.png").shape == (32, 38, 3)
