"""Every kind of picture file works as a person would expect, or is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stylecli.artifacts import images
from stylecli.errors import ImageError

RED, GREEN = (200, 30, 40), (20, 180, 60)


def two_halves(width: int = 12, height: int = 8) -> Image.Image:
    """Red on the left, green on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    return image


def looks_like_two_halves(pixels: torch.Tensor, tolerance: int = 12) -> bool:
    left = pixels[:, : pixels.shape[1] // 2 - 1].float().mean((0, 1))
    right = pixels[:, pixels.shape[1] // 2 + 1 :].float().mean((0, 1))
    return bool(
        (left - torch.tensor(RED)).abs().max() < tolerance
        and (right - torch.tensor(GREEN)).abs().max() < tolerance
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "gif", "ppm"])
def test_common_formats_decode(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    two_halves(32, 24).save(path)
    assert looks_like_two_halves(images.read(path).pixels, 25)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = two_halves(32, 16)
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    picture = images.read(tmp_path / "x.png")
    assert tuple(picture.pixels.shape) == (16, 32, 3)
    assert looks_like_two_halves(picture.pixels)


def test_cmyk_and_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    two_halves(32, 16).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert images.read(tmp_path / "cmyk.jpg").pixels.shape == (16, 32, 3)
    two_halves().convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "p.png")
    assert looks_like_two_halves(images.read(tmp_path / "p.png").pixels)
    two_halves().convert("L").save(tmp_path / "l.png")
    grey = images.read(tmp_path / "l.png").pixels
    assert bool((grey[..., 0] == grey[..., 2]).all())


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_deep_greys_are_scaled_not_clipped(tmp_path: Path, mode: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    Image.fromarray(ramp.astype(np.int32) if mode == "I" else ramp).save(tmp_path / "x.tif")
    row = images.read(tmp_path / "x.tif").pixels[0, :, 0].int()
    assert abs(int(row[0])) <= 1
    assert int(row[-1]) == 255
    assert int(row[128]) == pytest.approx(128, abs=2)


def test_transparency_goes_onto_white_and_is_kept(tmp_path: Path) -> None:
    image = two_halves().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "x.png")
    picture = images.read(tmp_path / "x.png")
    assert picture.alpha is not None
    assert bool((picture.pixels[picture.alpha == 0] == 255).all())
    two_halves().convert("RGBA").save(tmp_path / "opaque.png")
    assert images.read(tmp_path / "opaque.png").alpha is None


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    two_halves(32, 16).save(
        path, save_all=True, append_images=[Image.new("RGB", (32, 16), "blue")], duration=50
    )
    assert looks_like_two_halves(images.read(path).pixels, 25)


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), RED).save(tmp_path / "x.png")
    image = images.to_tensor(images.read(tmp_path / "x.png").pixels)
    geometry = images.Geometry.plan(1, 1, short_side=64, multiple=32)
    assert geometry.apply(image).shape == (1, 3, 64, 64)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(random).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.png", b""),
        ("text.png", b"this is not a picture\n"),
        ("torn.png", encoded("PNG")[:2000]),
        ("torn.jpg", encoded("JPEG")[:1500]),
        ("torn.webp", encoded("WEBP")[:900]),
        ("header.png", b"\x89PNG\r\n\x1a\n"),
        ("bomb.png", png_claiming(60_000, 60_000)),
        ("zero.png", png_claiming(0, 10)),
        ("script.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        images.read(path)
    assert name in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.fix


def test_a_folder_or_nothing_is_not_a_picture(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.png"):
        with pytest.raises(ImageError):
            images.read(path)


def test_a_broken_colour_profile_is_ignored(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "x.png", icc_profile=b"not a profile")
    assert looks_like_two_halves(images.read(tmp_path / "x.png").pixels)


def test_equal_pictures_in_different_files_have_one_digest(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "a.png")
    two_halves().save(tmp_path / "b.bmp")
    first, second = (images.read(tmp_path / name) for name in ("a.png", "b.bmp"))
    assert first.sha256 == second.sha256
    assert images.read(tmp_path / "a.png").sha256 == first.sha256


SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


@given(size=SIZES, short_side=st.sampled_from([64, 96, 256]), multiple=st.sampled_from([8, 32, 64]))
def test_geometry_keeps_the_aspect_ratio_and_meets_the_multiple(
    size: tuple[int, int], short_side: int, multiple: int
) -> None:
    geometry = images.Geometry.plan(*size, short_side=short_side, multiple=multiple)
    height, width = geometry.resized
    assert all(side % multiple == 0 for side in geometry.padded)
    assert 0 <= geometry.padded[0] - height < multiple
    assert 0 <= geometry.padded[1] - width < multiple
    assert max(height, width) <= images.MAX_ASPECT * short_side
    if min(height, width) > 20:
        assert height / width == pytest.approx(size[0] / size[1], rel=0.05)


@given(size=st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_padding_repeats_the_picture_and_undo_removes_it(size: tuple[int, int]) -> None:
    geometry = images.Geometry.plan(*size, short_side=64, multiple=32)
    image = torch.rand(1, 3, *geometry.resized, generator=torch.Generator().manual_seed(0))
    same = images.Geometry(geometry.resized, geometry.resized, geometry.padded)
    padded = same.apply(image)
    assert tuple(padded.shape[-2:]) == geometry.padded
    assert torch.equal(same.undo(padded), image)
    assert float(padded.min()) >= float(image.min())
    assert float(padded.max()) <= float(image.max())


@given(st.integers(0, 255))
def test_pixels_survive_the_round_trip(value: int) -> None:
    pixels = torch.full((2, 3, 3), value, dtype=torch.uint8)
    assert torch.equal(images.to_pixels(images.to_tensor(pixels)[0]), pixels)


@given(size=st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_crops_are_central_multiples(size: tuple[int, int]) -> None:
    image = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
    cropped = images.crop_center(image, 32)
    assert all(side % 32 == 0 and side > 0 for side in cropped.shape[-2:])
    if min(size) >= 32:
        assert abs(float(cropped.mean() - image.mean())) <= (size[1] + 1)
