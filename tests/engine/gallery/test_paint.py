"""Masks painted in colours: what is a region, what is free, and what is no mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageDraw

from stylecli.artifacts.images import Fit, Geometry
from stylecli.engine.gallery import paint
from stylecli.errors import ImageError, ItemError
from tests.engine.gallery.desk import painted

SIZE = (40, 48)


def test_every_colour_but_black_is_a_region(tmp_path: Path) -> None:
    mask = painted(tmp_path / "m.png", ["black", "red", "#102030", "red"])
    found = paint.decode(mask, SIZE)
    assert dict(found.colours) == {1: "#102030", 2: "#ff0000"}
    assert found.labels[0, ::12].tolist() == [0, 2, 1, 2]
    assert found.names() == ["#102030", "red"]
    assert (found.number_of("RED"), found.number_of("#f00")) == (2, 2)
    assert found.number_of("blue") is None


def test_palettes_and_transparency_leave_free_what_they_should(tmp_path: Path) -> None:
    numbers = np.repeat(np.arange(3, dtype=np.uint8), 16)[None].repeat(40, axis=0)
    image = Image.fromarray(numbers, "P")
    # Whatever its colour, the first of a palette is nobody's.
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    found = paint.decode(tmp_path / "p.png", SIZE)
    assert dict(found.colours) == {1: "#0000ff", 2: "#ff0000"}
    assert found.labels[0, ::16].tolist() == [0, 2, 1]
    clear = Image.new("RGBA", (48, 40), (255, 255, 255, 0))
    clear.paste((0, 128, 0, 255), (24, 0, 48, 40))
    clear.save(tmp_path / "c.png")
    found = paint.decode(tmp_path / "c.png", SIZE)
    assert dict(found.colours) == {1: "#008000"}
    assert found.labels[0, ::24].tolist() == [0, 1]


@pytest.mark.slow
def test_soft_edges_belong_to_what_they_border(tmp_path: Path) -> None:
    large = Image.new("RGB", (4800, 4000))
    ImageDraw.Draw(large).ellipse((500, 500, 4000, 3500), "orange")
    soft = large.resize((480, 400), Image.Resampling.LANCZOS)
    soft.save(tmp_path / "soft.png")
    assert len(soft.getcolors(1000) or ()) > 20
    soft.save(tmp_path / "lossy.jpg", quality=60)
    for name in ("soft.png", "lossy.jpg"):
        found = paint.decode(tmp_path / name, (400, 480))
        assert len(found.colours) == 1
        assert found.labels[200, 225] == 1
        assert found.labels[5, 5] == 0


def test_numbers_in_shades_of_grey_are_regions_too(tmp_path: Path) -> None:
    numbers = np.repeat(np.arange(4, dtype=np.uint8), 12)[None].repeat(40, axis=0)
    Image.fromarray(numbers).save(tmp_path / "n.png")
    found = paint.decode(tmp_path / "n.png", SIZE)
    assert found.labels[0, ::12].tolist() == [0, 1, 2, 3]


def test_photographs_and_masks_of_other_shapes_are_told_from_masks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="and each would be a region"):
        paint.decode(tmp_path / "a.png", SIZE)
    mask = painted(tmp_path / "m.png", ["red"], (40, 48))
    with pytest.raises(ItemError, match=r"m\.png is 40x48, of another shape .* 48x40"):
        paint.decode(mask, SIZE)


@pytest.mark.slow
@given(
    colours=st.lists(st.sampled_from(["black", "red", "lime", "blue"]), min_size=1, max_size=6),
    side=st.integers(8, 64),
    squash=st.booleans(),
)
def test_at_the_models_size_stripes_lie_where_they_were_painted(
    tmp_path_factory: pytest.TempPathFactory, colours: list[str], side: int, squash: bool
) -> None:
    mask = painted(tmp_path_factory.mktemp("m") / "m.png", colours)
    fit: Fit = "squash" if squash else "scale"
    geometry = Geometry.plan(*SIZE, short_side=side, multiple=16, fit=fit)
    found = paint.decode(mask, SIZE)
    labels = found.at(geometry)
    assert tuple(labels.shape) == geometry.padded
    height, width = geometry.resized
    for at, colour in enumerate(colours):
        column = int((at + 0.5) * width / len(colours))
        wanted = found.number_of(colour) or 0
        assert (labels[:height, column] == wanted).all()
    mirrored = labels[:, : min(geometry.padded[1], 2 * width - 1)]
    for over in range(width, mirrored.shape[1]):
        assert torch.equal(mirrored[:, over], labels[:, 2 * width - 2 - over])


def test_every_pixel_gets_what_covers_most_of_it() -> None:
    """Ties go to what was painted, and thin strokes between the pixels' middles count."""
    labels = torch.randint(0, 3, (160, 240), generator=torch.Generator().manual_seed(0))
    labels[:, 80:84], labels[:, 84:88] = 0, 2
    geometry = Geometry.plan(40, 60, short_side=20, multiple=16)
    found = paint.Paint(labels, {1: "#ff0000", 2: "#00ff00"}).at(geometry)
    for row in range(20):
        for column in range(30):
            own = labels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
            counts = own.bincount(minlength=3).tolist()
            assert found[row, column] == max(range(3), key=lambda n: (counts[n], n))


def test_masks_are_told_apart_by_their_regions_alone(tmp_path: Path) -> None:
    files = {
        "one.png": ["red", "black"],
        "other.png": ["black", "red"],
        "same.png": ["blue", "black"],
    }
    one, other, same = (
        paint.decode(painted(tmp_path / name, colours), SIZE).sha256()
        for name, colours in files.items()
    )
    assert one == same != other
    wide = torch.zeros(2, 8, dtype=torch.long)
    assert paint.Paint(wide, {}).sha256() != paint.Paint(wide.T, {}).sha256()


@given(st.sampled_from(sorted(ImageColor.colormap)))
def test_css_names_are_known_whatever_their_case(name: str) -> None:
    value = ImageColor.getrgb(name)
    assert paint.as_hex(name.upper()) == "#" + "".join(f"{channel:02x}" for channel in value[:3])


@pytest.mark.parametrize("name", ["sky", "", "#", "#12", "rgb(1,2,3)", "red deer", "#gggggg"])
def test_other_words_are_no_colours(name: str) -> None:
    assert paint.as_hex(name) is None


def test_colours_that_became_no_region_are_named() -> None:
    own = paint.Paint(torch.zeros(2, 2, dtype=torch.long), {1: "#ff0000", 2: "#0000ff"})
    assert own.lost({1, 2}) is None
    assert own.lost({2: 5}) == "too little is painted red to be a region"
    assert paint.Paint(own.labels, {}).lost(()) == "nothing is painted in its mask"
