"""From mask files to shares of latent cells, at every size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stylecli.artifacts.images import Geometry
from stylecli.engine.painting import Area, Painting, Stretch
from stylecli.engine.plan import Input
from stylecli.engine.regions import Masks, place
from stylecli.errors import ItemError
from stylecli.recipe.finding import Masks as Settings
from stylecli.recipe.schema import Sampling

# A content of 90 x 60 that becomes 48 x 32.
GEOMETRY = Geometry.plan(60, 90, short_side=32, multiple=16)
CELL = 2


class Told:
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def mask_file(path: Path, values: np.ndarray) -> Input:
    Image.fromarray((values * 255).astype(np.uint8)).save(path)
    return Input.of("mask", path)


def half(left: bool, width: int = 90, height: int = 60) -> np.ndarray:
    values = np.zeros((height, width))
    values[:, : width // 2] = 1
    return values if left else 1 - values


def areas(*masks: Input | str | None) -> Painting:
    return Painting(tuple(Area(stretches=(Stretch(0, 5, ()),), mask=mask) for mask in masks))


def placed(
    painting: Painting,
    told: Told | None = None,
    find: Any = None,
    geometry: Geometry = GEOMETRY,
    **given: Any,
) -> Masks:
    sampling = {key: given.pop(key) for key in list(given) if key in Sampling.model_fields}
    return place(
        painting,
        geometry,
        CELL,
        Sampling(**sampling),
        Settings(**given),
        find,
        told or Told(),  # type: ignore[arg-type]
    )


def test_no_mask_is_everywhere() -> None:
    found = placed(areas(None))
    assert found.shares == (None,)
    assert found.background is None
    picture = torch.rand(1, 3, 4, 4)
    assert found.blend([picture], torch.zeros(1, 3, 4, 4)) is picture


def test_shares_and_what_is_left_sum_to_one_at_every_size(tmp_path: Path) -> None:
    soft = np.linspace(0, 1, 60 * 90).reshape(60, 90)
    masks = [mask_file(tmp_path / "a.png", half(True)), mask_file(tmp_path / "b.png", soft)]
    for overlap in ("over", "normalise"):
        found = placed(areas(*masks), overlap=overlap, feather_px=2.0)
        assert found.background is not None
        assert found.pixel_background is not None
        shares = [share for share in found.shares if share is not None]
        torch.testing.assert_close(
            torch.stack([*shares, found.background]).sum(0), torch.ones(1, 1, 16, 24)
        )
        torch.testing.assert_close(
            torch.stack([*found.pixel_shares, found.pixel_background]).sum(0),
            torch.ones(1, 1, 32, 48),
        )
        assert found.full[0].shape == (60, 90)


def test_everything_and_nothing_are_exact_whatever_the_scale(tmp_path: Path) -> None:
    ones = mask_file(tmp_path / "ones.png", np.ones((40, 60)))
    zeros = mask_file(tmp_path / "zeros.png", np.zeros((180, 270)))
    told = Told()
    found = placed(areas(zeros, ones), told, feather_px=3.0, dilate_px=-1)
    assert found.covered is not None
    assert torch.equal(found.covered, torch.ones(60, 90))
    assert found.background is not None
    assert not found.background.any()
    assert isinstance(found.shares[1], Tensor)
    assert torch.equal(found.shares[1], torch.ones(1, 1, 16, 24))
    assert told.warnings == ["region zeros is empty: nothing is painted there"]


def test_a_region_under_another_is_told_of(tmp_path: Path) -> None:
    left = mask_file(tmp_path / "left.png", half(True))
    ones = mask_file(tmp_path / "ones.png", np.ones((60, 90)))
    told = Told()
    placed(areas(left, ones), told)
    assert told.warnings == [
        "region left is covered by the ones after it: nothing is painted there"
    ]


@pytest.mark.slow
def test_pixels_that_no_mask_touches_are_not_covered(tmp_path: Path) -> None:
    left = mask_file(tmp_path / "left.png", half(True))
    hard = placed(areas(left)).covered
    assert hard is not None
    assert torch.equal(hard, torch.from_numpy(half(True)).float())
    soft = placed(areas(left), feather_px=2.0).covered
    assert soft is not None
    # Four deviations of 2 px at the model's size are 15 px at the file's.
    assert torch.equal(soft[:, 61:], torch.zeros(60, 29))
    assert float(soft[:, 46].max()) > 0


def test_distances_count_pixels_of_the_models_size(tmp_path: Path) -> None:
    left = mask_file(tmp_path / "left.png", half(True))
    grown = placed(areas(left), dilate_px=4).covered
    assert grown is not None
    wider = int(grown[30].sum()) - 45
    assert wider == round(4 * 60 / 32)


def test_an_inverted_mask_is_what_it_left_out(tmp_path: Path) -> None:
    left, right = (mask_file(tmp_path / f"{side}.png", half(side)) for side in (True, False))
    one, other = placed(areas(left), invert=True), placed(areas(right))
    assert torch.equal(one.full[0], other.full[0])
    assert one.digests == other.digests


def test_a_mask_of_another_shape_names_both(tmp_path: Path) -> None:
    square = mask_file(tmp_path / "square.png", np.ones((60, 60)))
    with pytest.raises(ItemError, match=r"square\.png is 60x60, .* the content's 90x60"):
        placed(areas(square))


def test_a_mask_that_is_gone_is_its_items_failure(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="is missing"):
        placed(areas(Input.of_mask(tmp_path / "gone.png")))


def test_overlap_may_be_refused(tmp_path: Path) -> None:
    left = mask_file(tmp_path / "left.png", half(True))
    with pytest.raises(ItemError, match="overlap"):
        placed(areas(left, left), overlap="error")


def test_words_are_asked_for_at_the_files_size_and_tell_their_score() -> None:
    def find(words: str) -> tuple[Tensor, dict[str, Any]]:
        assert words == "deer"
        return torch.from_numpy(half(True)).float(), {"score": 0.5}

    found = placed(areas("deer"), find=find)
    assert found.details == {"masks": {"deer": {"score": 0.5}}}
    assert torch.equal(found.full[0], torch.from_numpy(half(True)).float())


def test_digests_tell_apart_what_the_areas_show(tmp_path: Path) -> None:
    left, ones = (
        mask_file(tmp_path / f"{name}.png", values)
        for name, values in (("left", half(True)), ("ones", np.ones((60, 90))))
    )
    seen = [
        placed(areas(left), Told()).digests,
        placed(areas(ones), Told()).digests,
        placed(areas(left, ones), Told()).digests,
        placed(areas(ones, left), Told()).digests,
        placed(areas(ones, left), Told(), overlap="normalise").digests,
    ]
    assert len({tuple(digests) for digests in seen}) == len(seen)
    assert placed(areas(left)).digests == seen[0]


def test_a_mask_of_labels_is_told_of(tmp_path: Path) -> None:
    told = Told()
    placed(areas(mask_file(tmp_path / "labels.png", half(True) / 255)), told)
    assert told.warnings == [
        "mask labels.png is nearly black: its brightest pixel is 1 of 255, and white is inside"
    ]


def test_what_was_not_found_leaves_nothing_out() -> None:
    found = placed(
        areas("deer"), find=lambda _: (torch.zeros(60, 90), {"score": None}), invert=True
    )
    assert found.covered is not None
    assert not found.covered.any()


def test_what_was_found_is_inverted_like_a_file() -> None:
    left = torch.from_numpy(half(True)).float()
    found = placed(areas("deer"), find=lambda _: (left, {"score": 0.5}), invert=True)
    assert torch.equal(found.full[0], 1 - left)


def test_the_margin_of_a_content_is_masked_as_its_mirror(tmp_path: Path) -> None:
    """The picture is mirrored up to the model's multiple, and so is what is painted in it."""
    padded = Geometry.plan(60, 90, short_side=30, multiple=16)
    assert padded.padded == (32, 48)
    right = mask_file(tmp_path / "right.png", half(False))
    (share,) = placed(areas(right), geometry=padded).pixel_shares
    assert share.shape == (1, 1, 32, 48)
    assert torch.equal(share[..., 45:], share[..., 41:44].flip(-1))
