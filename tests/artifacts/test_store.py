"""Equal runs make equal bytes, and files say what made them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from stylecli.artifacts import cache, store
from stylecli.errors import ItemError, UsageError
from tests.conftest import ROOT

PIXELS = torch.randint(
    0, 256, (9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
MADE_BY = {"command": "transfer", "key": "k", "text": "näme — ✓"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".JPEG"])
def test_pictures_carry_what_made_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    store.save_image(path, PIXELS, MADE_BY)
    assert store.read_provenance(path) == MADE_BY
    first = path.read_bytes()
    store.save_image(path, PIXELS, MADE_BY)
    assert path.read_bytes() == first


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="xyz"):
        store.save_image(tmp_path / "x.xyz", PIXELS, MADE_BY)


def test_lossless_pictures_come_back_exactly_from_any_memory_layout(tmp_path: Path) -> None:
    slanted = PIXELS.permute(1, 0, 2)
    for suffix in (".png", ".webp"):
        store.save_image(tmp_path / f"x{suffix}", slanted, MADE_BY)
        with Image.open(tmp_path / f"x{suffix}") as image:
            assert image.tobytes() == slanted.contiguous().numpy().tobytes()


def test_a_long_list_of_inputs_is_whole_where_it_fits_and_a_digest_in_jpeg(tmp_path: Path) -> None:
    inputs = [{"role": "style", "name": f"{i}.png", "sha256": "0" * 64} for i in range(1000)]
    made_by = {**MADE_BY, "inputs": inputs}
    for suffix in (".png", ".webp"):
        store.save_image(tmp_path / f"x{suffix}", PIXELS, made_by)
        assert store.read_provenance(tmp_path / f"x{suffix}") == made_by
    store.save_image(tmp_path / "x.jpg", PIXELS, made_by)
    short = {**MADE_BY, "inputs_omitted": {"count": 1000, "sha256": store.digest(inputs)}}
    assert store.read_provenance(tmp_path / "x.jpg") == short


def test_a_picture_its_format_cannot_hold_fails_that_item_alone(tmp_path: Path) -> None:
    wide = torch.zeros(1, 17_000, 3, dtype=torch.uint8)
    with pytest.raises(ItemError, match="17000x1 cannot be written") as caught:
        store.save_image(tmp_path / "x.webp", wide, MADE_BY)
    assert caught.value.fix == "use .png"
    with pytest.raises(ItemError, match="cannot be written"):
        store.save_image(tmp_path / "x.jpg", PIXELS, {"recipe": "x" * 100_000})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".safetensors"])
def test_nothing_in_a_file_says_where_it_was_made(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "secret-folder"
    path = folder / f"x{suffix}"
    if suffix == ".safetensors":
        store.save_tensors(path, {"a": torch.ones(1)}, {"style": json.dumps(MADE_BY)})
        assert store.read_provenance(path) == MADE_BY
    else:
        store.save_image(path, PIXELS, MADE_BY)
    data = path.read_bytes()
    for words in ("secret-folder", str(tmp_path), str(Path.home())):
        assert words.encode() not in data
        assert words.encode("utf-16-le") not in data


def test_a_figure_that_is_no_number_leaves_a_header_any_reader_takes(tmp_path: Path) -> None:
    store.save_image(tmp_path / "x.png", PIXELS, {"psnr": float("inf"), "all": [float("nan")]})
    assert store.read_provenance(tmp_path / "x.png") == {"psnr": None, "all": [None]}


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    tensors = {"a": whole, "b": whole, "row": whole[0], "turned": whole.T}
    store.save_tensors(tmp_path / "x.safetensors", tensors, {})
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.slow
def test_tensor_files_have_one_byte_form_in_every_process(tmp_path: Path) -> None:
    tensors, metadata = {n: torch.ones(2) for n in "abcdef"}, {n: n for n in "uvwxyz"}
    script = (
        "import sys, torch; from pathlib import Path; from stylecli.artifacts import store;"
        "store.save_tensors(Path(sys.argv[1]), {n: torch.ones(2) for n in 'fedcba'},"
        "{n: n for n in 'zyxwvu'})"
    )
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    store.save_tensors(here, tensors, metadata)
    subprocess.run([sys.executable, "-c", script, there], check=True, cwd=ROOT)
    assert here.read_bytes() == there.read_bytes()
    with safe_open(here, framework="pt") as stream:
        assert stream.metadata() == metadata
        assert torch.equal(stream.get_tensor("c"), torch.ones(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_tensors_that_are_not_numbers_are_not_written(tmp_path: Path, bad: float) -> None:
    with pytest.raises(ItemError, match="NaN or infinity"):
        store.save_tensors(tmp_path / "x.safetensors", {"a": torch.tensor([bad])}, {})
    assert not list(tmp_path.iterdir())


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
FOREIGN = [b"", b"junk", b"\x89PNG\r\n\x1a\n", BOMB + struct.pack(">I", zlib.crc32(BOMB[12:]))]


@pytest.mark.parametrize("data", FOREIGN)
@pytest.mark.parametrize("suffix", [".png", ".safetensors", ".jpg"])
def test_foreign_files_have_no_provenance_and_raise_nothing(
    tmp_path: Path, suffix: str, data: bytes
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    assert store.read_provenance(path) is None
    assert store.read_provenance(tmp_path / "absent.png") is None


@pytest.mark.parametrize("note", ["[1]", "not JSON", "[" * 100_000, '"text"'])
def test_a_foreign_note_under_our_name_is_no_provenance(tmp_path: Path, note: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    chunk = PngInfo()
    chunk.add_text("style", note)
    Image.new("RGB", (1, 1)).save(tmp_path / "x.png", pnginfo=chunk)
    assert store.read_provenance(tmp_path / "x.png") is None


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLE_CACHE_DIR", "~/somewhere")
    expected = Path.home() / "somewhere" / "loras" / "ab" / "abcd.safetensors"
    assert cache.cached("loras", "abcd", ".safetensors") == expected


def test_digests_follow_content_not_order(tmp_path: Path) -> None:
    values: Any = {"b": [1, 2.5], "a": None}
    assert store.digest(values) == store.digest(json.loads(json.dumps(values)))
    assert store.digest({"a": 1}) != store.digest({"a": 2})
    file = tmp_path / "x"
    file.write_bytes(b"one")
    first = store.file_sha256(file)
    file.write_bytes(b"three")
    assert store.file_sha256(file) != first


# Files that say nothing


def png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind
        at += 12 + length


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Those before the scan, whose own data may hold anything."""
    at = 2
    while data[at + 1] != 0xDA:
        assert data[at] == 0xFF
        length = int.from_bytes(data[at + 2 : at + 4])
        yield data[at + 1], data[at + 4 : at + 2 + length]
        at += 2 + length


def webp_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at < len(data):
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        yield kind
        at += 8 + length + length % 2


def assert_bare(file: Path, secrets: Sequence[str] = ()) -> None:
    """Nothing is in the file but what it takes to see the picture, and none of the words."""
    data = file.read_bytes()
    for word in secrets:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.encode(encoding) not in data, (file.name, word)
    match file.suffix:
        case ".png":
            assert set(png_chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}
        case ".jpg":
            # Tables, the frame, and JFIF's fourteen bytes: its name, version and density.
            segments = list(jpeg_segments(data))
            assert {marker for marker, _ in segments} == {0xE0, 0xDB, 0xC0, 0xC4}
            jfif = [held for marker, held in segments if marker == 0xE0]
            assert jfif == [b"JFIF\0\1\1\0\0\1\0\1\0\0"]
        case ".webp":
            assert list(webp_chunks(data)) == [b"VP8L"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_without_provenance_holds_the_same_pixels_and_nothing_else(
    tmp_path: Path, suffix: str
) -> None:
    folder = tmp_path / "secret-folder"
    plain, bare = folder / f"plain{suffix}", folder / f"bare{suffix}"
    store.save_image(plain, PIXELS, MADE_BY)
    with pytest.raises(AssertionError):
        assert_bare(plain)
    store.save_image(bare, PIXELS, None)
    assert_bare(bare, ["secret-folder", "bare", "transfer", Path.home().name + "/"])
    assert store.read_provenance(bare) is None
    with Image.open(plain) as one, Image.open(bare) as other:
        assert one.tobytes() == other.tobytes()
        assert not other.getexif()
        assert not {"comment", "exif", "xmp", "icc_profile", store.KEY} & set(other.info)
