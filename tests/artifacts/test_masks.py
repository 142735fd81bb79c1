"""Whatever a person draws a mask with, white or opaque is inside."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stylecli.artifacts import images, store
from stylecli.artifacts.masks import mask_pixels, read_mask
from stylecli.errors import ImageError

RAMP = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)


def shades(array: np.ndarray = RAMP) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32)) / 255


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif", "pgm", "webp"])
def test_greys_are_shares_in_every_lossless_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(RAMP).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(read_mask(path), shades())


def test_a_jpeg_is_nearly_so(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "mask.jpg", quality=95)
    assert (read_mask(tmp_path / "mask.jpg") - shades()).abs().max() < 0.03


def test_colours_count_by_luma(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "mask.png")
    found = read_mask(tmp_path / "mask.png")
    assert found[0].tolist() == pytest.approx([0.299, 0.587, 0.114, 1], abs=0.003)
    assert found[0, 3] == 1


def test_palettes_and_single_bits_are_what_they_show(tmp_path: Path) -> None:
    bits = Image.fromarray((RAMP > 100).astype(np.uint8) * 255)
    bits.convert("1").save(tmp_path / "bits.png")
    palette = Image.fromarray((RAMP > 100).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.png")
    for name in ("bits.png", "palette.png"):
        assert torch.equal(read_mask(tmp_path / name), torch.from_numpy(RAMP > 100).float())


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_transparency_that_varies_is_the_mask(tmp_path: Path, suffix: str) -> None:
    drawn = Image.merge("RGBA", [Image.new("L", (20, 12), shade) for shade in (9, 99, 200, 0)])
    drawn.putalpha(Image.fromarray(RAMP))
    drawn.save(tmp_path / f"mask.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(read_mask(tmp_path / f"mask.{suffix}"), shades())


@pytest.mark.parametrize("opacity", [0, 128, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_that_is_the_same_everywhere_says_nothing(
    tmp_path: Path, mode: str, opacity: int
) -> None:
    grey = Image.fromarray(RAMP).convert(mode)
    grey.putalpha(opacity)
    grey.save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png"), shades())


def test_one_transparent_shade_is_outside(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "mask.png", transparency=7)
    assert torch.equal(read_mask(tmp_path / "mask.png"), torch.from_numpy(RAMP != 7).float())


def test_deep_greys_keep_all_their_bits(tmp_path: Path) -> None:
    deep = (np.arange(240, dtype=np.uint16) * 273 + 5).reshape(12, 20)
    expected = torch.from_numpy(deep.astype(np.float32) / 65535)
    for suffix in ("png", "tif", "pgm"):
        Image.fromarray(deep).save(tmp_path / f"mask.{suffix}")
        torch.testing.assert_close(read_mask(tmp_path / f"mask.{suffix}"), expected)
    Image.fromarray(expected.numpy()).save(tmp_path / "float.tif")
    torch.testing.assert_close(read_mask(tmp_path / "float.tif"), expected)


def test_highlights_and_negative_floats_are_cut(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-0.5, 0.25, 1.5]], np.float32)).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif").tolist() == [[0, 0.25, 1]]


def test_a_mask_lies_as_its_content_lies(tmp_path: Path) -> None:
    """A camera's turn is applied to both, or the region lands elsewhere."""
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(RAMP).save(tmp_path / "mask.png", exif=exif)
        seen = images.read(tmp_path / "mask.png").pixels[..., 0].float() / 255
        assert torch.equal(read_mask(tmp_path / "mask.png"), seen)
    assert seen.shape == (20, 12)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    first, second = Image.fromarray(RAMP), Image.fromarray(255 - RAMP)
    first.save(tmp_path / "mask.tif", save_all=True, append_images=[second])
    assert torch.equal(read_mask(tmp_path / "mask.tif"), shades())


def linear_grey() -> bytes:
    """An ICC profile of greys that are proportional to light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    tags = struct.pack(">I4s2I4s2I", 2, b"wtpt", 156, 20, b"kTRC", 176, 12)
    body = tags + white + curve
    head = struct.pack(
        ">I4sI4s4s4s12s4s",
        128 + len(body),
        b"",
        0x02400000,
        b"mntr",
        b"GRAY",
        b"XYZ ",
        b"",
        b"acsp",
    )
    illuminant = struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(68, b"\0") + illuminant.ljust(60, b"\0") + body


def test_a_profile_does_not_bend_greys(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(RAMP).save(path, icc_profile=linear_grey())
    assert torch.equal(read_mask(path), shades())
    as_seen = images.read(path).pixels[..., 0].float() / 255
    assert (as_seen - shades()).max() > 0.2


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
    st.sampled_from(["png", "webp"]),
)
def test_a_mask_survives_a_file(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, random, suffix: str
) -> None:
    pixels = torch.tensor(
        [[random.randrange(256) for _ in range(width)] for _ in range(height)], dtype=torch.uint8
    )
    path = tmp_path_factory.mktemp("masks") / f"mask.{suffix}"
    store.save_image(path, pixels, {"made": "by a test"})
    assert torch.equal(mask_pixels(read_mask(path)), pixels)
    assert store.read_provenance(path) == {"made": "by a test"}


def test_greys_are_written_in_one_channel(tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        store.save_image(tmp_path / f"mask.{suffix}", mask_pixels(shades()), {})
        with Image.open(tmp_path / f"mask.{suffix}") as image:
            assert image.mode == "L"


def test_shares_are_rounded_to_pixels_and_cut_to_the_unit_interval() -> None:
    assert mask_pixels(torch.tensor([[-1.0, 0.4, 0.503, 2.0]])).tolist() == [[0, 102, 128, 255]]
    assert mask_pixels(torch.tensor([[0.999]])).item() == 255


def test_what_cannot_be_read_is_named_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(np.array([[np.nan]], np.float32)).save(tmp_path / "nan.tif")
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [(b"IHDR", struct.pack(">2I5B", 50_000, 50_000, 8, 0, 0, 0, 0))]
    )
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    for name in ("words.png", "empty.png", "nan.tif", "huge.png", "missing.png"):
        with pytest.raises(ImageError, match=name) as caught:
            read_mask(tmp_path / name)
        assert "\n" not in caught.value.what
        assert caught.value.fix
