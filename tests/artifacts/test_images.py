"""Every kind of picture file works as a person would expect, or is refused by name."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

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


# How a camera that writes this orientation has stored an upright picture.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    quarters = np.zeros((16, 32, 3), np.uint8)  # no two corners alike, so no turn goes unseen
    quarters[:8, 16:], quarters[8:, :16], quarters[8:, 16:] = (240, 0, 0), (0, 240, 0), 240
    upright = Image.fromarray(quarters)
    method = STORED[orientation]
    stored = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"x.{suffix}", exif=exif, quality=95)
    pixels = images.read(tmp_path / f"x.{suffix}").pixels.numpy().astype(int)
    assert pixels.shape == quarters.shape
    corners = np.s_[2::11, 4::23]
    assert abs(pixels[corners] - quarters[corners]).max() < 20


def test_a_damaged_exif_block_costs_only_the_orientation(tmp_path: Path) -> None:
    torn = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x07\0\xff\xff\xff\xff\0\0\0\0"
    two_halves(32, 16).save(tmp_path / "x.jpg", exif=torn)
    assert looks_like_two_halves(images.read(tmp_path / "x.jpg").pixels, 25)


def test_cmyk_and_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    two_halves(32, 16).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert looks_like_two_halves(images.read(tmp_path / "cmyk.jpg").pixels, 25)
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


def test_a_dark_deep_grey_stays_dark(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 0, 255))
    assert images.read(tmp_path / "x.pgm").pixels.max() == 1


def test_sixteen_bit_colour_keeps_its_high_byte(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">6H", 65535, 257 * 30, 0, 257 * 200, 257 * 128, 65535)
    (tmp_path / "x.png").write_bytes(png(2, 1, 16, 2, row))
    assert images.read(tmp_path / "x.png").pixels.tolist() == [[[255, 30, 0], [200, 128, 255]]]


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 0.5, 1.2], [0, 128, 255]),
        ([0, 128, 255], [0, 128, 255]),
        ([0, 32896, 65535], [0, 128, 255]),
        ([-1, 0, 1], [0, 0, 255]),
    ],
)
def test_float_pictures_are_scaled_and_highlights_cut(
    tmp_path: Path, values: list[float], seen: list[int]
) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "x.tif")
    assert images.read(tmp_path / "x.tif").pixels[0, :, 0].tolist() == seen


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_float_pictures_with_values_that_are_no_brightness_are_refused(
    tmp_path: Path, value: str
) -> None:
    Image.fromarray(np.array([[0, float(value)]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif: holds values that are not finite"):
        images.read(tmp_path / "x.tif")


def test_a_transparent_colour_is_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "p.gif", transparency=1)
    Image.new("RGB", (1, 1), RED).save(tmp_path / "rgb.png", transparency=RED)
    Image.new("L", (1, 1), 7).save(tmp_path / "l.png", transparency=7)
    key = chunk(b"tRNS", struct.pack(">H", 300))
    (tmp_path / "deep.png").write_bytes(png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 0, 300), key))
    for name in ("p.png", "p.gif", "rgb.png", "l.png", "deep.png"):
        picture = images.read(tmp_path / name)
        assert picture.alpha is not None, name
        assert picture.alpha[0, -1] == 0, name
        assert picture.pixels[0, -1].tolist() == [255, 255, 255], name
    assert images.read(tmp_path / "p.png").pixels[0, 0].tolist() == list(RED)


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


def png(width: int, height: int, depth: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + body


def png_claiming(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, b"\0" * 1000)


def encoded(kind: str, side: int = 64, **options: object) -> bytes:
    buffer = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(random).save(buffer, kind, **options)
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
        ("large.png", png_claiming(13_000, 13_000)),
        ("thin.png", png_claiming(20_000, 20)),
        ("zero.png", png_claiming(0, 10)),
        ("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        ("script.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        images.read(path)
    assert "Ghostscript" not in caught.value.what, "a stranger's program was about to be run"
    assert name in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.fix


def test_a_folder_or_nothing_is_not_a_picture(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.png"):
        with pytest.raises(ImageError):
            images.read(path)


@pytest.mark.parametrize("size", [(60_000, 60_000), (13_000, 13_000), (20_000, 20)])
def test_a_picture_too_large_or_too_thin_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    (tmp_path / "x.png").write_bytes(png_claiming(*size))
    with pytest.raises(ImageError, match=r"megapixels|as long as it is wide"):
        images.read(tmp_path / "x.png")


def test_a_very_long_picture_is_still_one(tmp_path: Path) -> None:
    two_halves(2000, 20).save(tmp_path / "x.png")
    image = images.to_tensor(images.read(tmp_path / "x.png").pixels)
    geometry = images.Geometry.plan(20, 2000, short_side=256, multiple=64)
    assert geometry.apply(image).shape == (1, 3, 64, 1024)
    assert geometry.undo(geometry.apply(image)).shape == (1, 3, 10, 1024)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ImageError, match="not a file"):
        images.read(tmp_path / "x.png")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system lists no open files")
def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "good.png")
    two_halves().save(tmp_path / "many.gif", save_all=True, append_images=[two_halves()])
    (tmp_path / "torn.png").write_bytes(encoded("PNG")[:2000])
    (tmp_path / "text.png").write_text("text")
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = []
    for path in sorted(tmp_path.iterdir()):
        try:
            kept.append(images.read(path))
        except ImageError as error:
            kept.append(error)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


CODECS = [
    ("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("GIF", {}), ("TIFF", {}), ("BMP", {}), ("PPM", {}),
    ("TGA", {}), ("ICO", {}), ("TIFF", {"compression": "tiff_deflate"}), ("AVIF", {}),
]  # fmt: skip
Image.init()
SAMPLES = [encoded(kind, 24, **more) for kind, more in CODECS if kind in Image.SAVE]


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(
    data=st.sampled_from(SAMPLES),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_whatever_the_bytes_the_answer_is_a_picture_or_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    edits: list[tuple[float, int]],
    keep: float,
) -> None:
    spoiled = bytearray(data)
    for place, value in edits:
        # Squared: headers are where decoders can be confused.
        spoiled[int(place**2 * (len(data) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "spoiled"
    path.write_bytes(spoiled[: int(keep * len(data))])
    try:
        assert images.read(path).pixels.dtype == torch.uint8
        said = "spoiled"
    except ImageError as error:
        said = error.what
    assert "spoiled" in said
    assert "\n" not in said


def swapping_profile() -> bytes:
    """sRGB in which red and blue have changed places: no one can miss whether it was used."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(profile[128:132], "big")
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = (slice(entries[name] + 4, entries[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[red], profile[blue] = profile[blue], profile[red]
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_an_embedded_profile_is_used_whatever_the_mode(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    image = two_halves(32, 16).convert(mode, palette=Image.Palette.ADAPTIVE)
    if suffix == "webp":
        image = image.convert("RGBA" if mode == "RGBA" else "RGB")
    image.save(tmp_path / f"x.{suffix}", icc_profile=swapping_profile(), lossless=True)
    pixels = images.read(tmp_path / f"x.{suffix}").pixels
    assert looks_like_two_halves(pixels.flip(-1), 4)


def test_a_profile_for_another_kind_of_picture_is_ignored(tmp_path: Path) -> None:
    two_halves(32, 16).convert("L").save(tmp_path / "x.png", icc_profile=swapping_profile())
    two_halves(32, 16).convert("L").save(tmp_path / "y.png")
    pixels = [images.read(tmp_path / name).pixels for name in ("x.png", "y.png")]
    assert torch.equal(*pixels)


def test_lab_pictures_become_srgb(tmp_path: Path) -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(two_halves(32, 16), srgb, lab, outputMode="LAB").save(
        tmp_path / "x.tif"
    )
    assert looks_like_two_halves(images.read(tmp_path / "x.tif").pixels)


def test_a_broken_colour_profile_is_ignored(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "x.png", icc_profile=b"not a profile")
    assert looks_like_two_halves(images.read(tmp_path / "x.png").pixels)


def test_equal_pictures_in_different_files_have_one_digest(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "a.png")
    two_halves().save(tmp_path / "b.bmp")
    first, second = (images.read(tmp_path / name) for name in ("a.png", "b.bmp"))
    assert first.sha256 == second.sha256
    assert images.read(tmp_path / "a.png").sha256 == first.sha256
