"""Files are found by what they hold, whatever they are called and wherever they lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts import store
from stylecli.artifacts.locate import Locator, near


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes were asked for."""
    names: list[str] = []
    plain = store.file_sha256

    def counted(path: Path) -> str:
        names.append(path.name)
        return plain(path)

    monkeypatch.setattr(store, "file_sha256", counted)
    return names


def test_a_file_is_found_by_name_and_no_other_is_read(tmp_path: Path, hashed: list[str]) -> None:
    for number in range(5):
        put(tmp_path / f"deep/er/{number}.png", bytes([number]))
    found = Locator([tmp_path]).find("3.png", sha256(b"\3"))
    assert found == tmp_path / "deep/er/3.png"
    assert hashed == ["3.png"]


def test_of_many_of_one_name_the_one_with_the_bytes_is_found(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / f"{number}/a.png", bytes([number]))
    locator = Locator([tmp_path])
    for number in range(5):
        assert locator.find("a.png", sha256(bytes([number]))) == tmp_path / f"{number}/a.png"


def test_a_renamed_file_is_found_after_those_of_its_suffix_and_none_is_read_twice(
    tmp_path: Path, hashed: list[str]
) -> None:
    names = ("a.jpg", "b.PNG", "c.jpg")
    for name in names:
        put(tmp_path / name, name.encode())
    locator = Locator([tmp_path])
    assert locator.find("gone.png", sha256(b"b.PNG")) == tmp_path / "b.PNG"
    assert hashed == ["b.PNG"]
    assert locator.find("gone.png", sha256(b"c.jpg")) == tmp_path / "c.jpg"
    assert locator.find("gone.png", sha256(b"nowhere")) is None
    assert locator.find("gone.png", sha256(b"a.jpg")) == tmp_path / "a.jpg"
    assert sorted(hashed) == sorted(names)


@pytest.mark.parametrize(
    ("missing", "read"),
    [
        ("gone.png", ["a.jpg"]),
        ("gone.safetensors", ["adapter_model.safetensors", "b.safetensors"]),
        ("gone.txt", ["a.jpg", "adapter_model.safetensors", "b.safetensors", "c.txt"]),
    ],
)
def test_for_what_is_nowhere_only_files_are_read_that_it_could_be(
    tmp_path: Path, hashed: list[str], missing: str, read: list[str]
) -> None:
    for name in ("a.jpg", "b.safetensors", "c.txt", "d.mp4", "e", "deep/f.bin"):
        put(tmp_path / name, name.encode())
    put(tmp_path / "lora/adapter_model.safetensors", b"weights")
    assert Locator([tmp_path]).find(missing, sha256(b"nowhere")) is None
    assert sorted(set(hashed)) == read


def test_a_file_that_is_a_place_itself_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    film = put(tmp_path / "film.mp4", b"film")
    assert Locator([tmp_path]).find("a.png", sha256(b"film")) is None
    assert Locator([film]).find("a.png", sha256(b"film")) == film


def test_a_file_larger_than_any_picture_or_lora_is_not_read(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.artifacts.locate.LARGEST_BYTES", 5)
    put(tmp_path / "large.png", b"123456")
    put(tmp_path / "lora/adapter_model.safetensors", b"1234")
    put(tmp_path / "lora/adapter_config.json", b"{}")
    fits = put(tmp_path / "fits.png", b"12345")
    locator = Locator([tmp_path])
    assert locator.find("large.png", sha256(b"123456")) is None
    assert locator.find("lora", store.folder_sha256(tmp_path / "lora")) is None
    assert locator.find("fits.png", sha256(b"12345")) == fits
    assert "large.png" not in hashed


def test_folders_that_nobody_named_are_searched_while_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.artifacts.locate.SEARCHED_FILES", 3)
    small, large = tmp_path / "small", tmp_path / "large"
    for number in range(3):
        put(small / f"{number}.png", b"")
        put(small / f".hidden/{number}.png", b"")
        put(large / f"{number}/x.png", b"")
    assert near([small, large, small]) == [small]
    # What lies behind a link would be walked too.
    (small / "2.png").unlink()
    (small / "link").symlink_to(large)
    assert near([small]) == []


def test_an_archive_is_told_without_being_walked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.artifacts.locate.SEARCHED_FILES", 3)
    for number in range(40):
        put(tmp_path / f"{number}/x.png", b"")
    walked: list[str] = []
    plain = os.scandir

    def counted(at: str) -> object:
        walked.append(at)
        return plain(at)

    monkeypatch.setattr("os.scandir", counted)
    assert near([tmp_path]) == []
    assert len(walked) <= 4


def test_a_name_without_the_bytes_is_not_the_file(tmp_path: Path) -> None:
    put(tmp_path / "photo.png", b"another")
    assert Locator([tmp_path]).find("photo.png", sha256(b"photo")) is None


@pytest.mark.parametrize("unknown", ["unreadable", "", "f" * 63, "F" * 64])
def test_what_is_no_digest_is_not_looked_for(
    tmp_path: Path, hashed: list[str], unknown: str
) -> None:
    put(tmp_path / "photo.png", b"")
    assert Locator([tmp_path]).find("photo.png", unknown) is None
    assert not hashed


def test_loops_and_broken_links_and_what_cannot_be_read_do_not_matter(tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    put(elsewhere / "far.png", b"far")
    put(place / "sub/near.png", b"near")
    (place / "loop").symlink_to(place)
    (place / "sub/up").symlink_to("..")
    (place / "other").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(place)
    (place / "broken.png").symlink_to("nothing.png")
    os.mkfifo(place / "pipe.png")
    put(place / "locked/secret.png", b"secret")
    (place / "locked").chmod(0)
    try:
        locator = Locator([place, tmp_path / "absent"])
        assert locator.find("far.png", sha256(b"far")) == place / "other/far.png"
        assert locator.find("x.png", sha256(b"near")) == place / "sub/near.png"
        assert locator.find("broken.png", sha256(b"gone")) is None
    finally:
        (place / "locked").chmod(0o755)


def test_each_folder_is_walked_once_though_it_is_a_place_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "a/b/photo.png", b"photo")
    (tmp_path / "link").symlink_to("a")
    walked: list[str] = []
    plain = os.scandir

    def counted(at: str) -> object:
        walked.append(os.path.realpath(at))
        return plain(at)

    monkeypatch.setattr("os.scandir", counted)
    locator = Locator([tmp_path / "a", tmp_path, tmp_path / "a/b", tmp_path / "link"])
    for name in ("photo.png", "renamed.png", "nothing.png"):
        locator.find(name, sha256(b"photo"))
    assert sorted(walked) == [str(tmp_path / below) for below in ("", "a", "a/b")]


def test_hidden_ones_are_found_only_where_they_are_named(tmp_path: Path) -> None:
    hidden = put(tmp_path / ".cache/photo.png", b"photo")
    mark = put(tmp_path / ".mark.png", b"mark")
    assert Locator([tmp_path]).find("photo.png", sha256(b"photo")) is None
    assert Locator([tmp_path]).find(".mark.png", sha256(b"mark")) is None
    assert Locator([tmp_path / ".cache"]).find("photo.png", sha256(b"photo")) == hidden
    assert Locator([mark]).find("any.png", sha256(b"mark")) == mark


def test_a_lora_that_is_a_folder_is_found_by_name_and_under_another(tmp_path: Path) -> None:
    put(tmp_path / "x/oil/adapter_model.safetensors", b"weights")
    put(tmp_path / "x/oil/adapter_config.json", b"{}")
    put(tmp_path / "y/oil/adapter_model.safetensors", b"other weights")
    digest = store.folder_sha256(tmp_path / "x/oil")
    for name in ("oil", "ink"):
        assert Locator([tmp_path / "y", tmp_path]).find(name, digest) == tmp_path / "x/oil"
    assert Locator([tmp_path / "x/oil"]).find("oil", digest) == tmp_path / "x/oil"


@given(st.dictionaries(st.text("abc./", min_size=1, max_size=6), st.binary(max_size=2)))
def test_what_is_there_is_found_and_what_is_found_is_it(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes]
) -> None:
    place = tmp_path_factory.mktemp("place")
    for number, (name, data) in enumerate(tree.items()):
        put(place / f"{number}/{name.strip('./').replace('/', '')}x.png", data)
    locator = Locator([place])
    for name, data in tree.items():
        found = locator.find(name, sha256(data))
        assert found is not None
        assert found.read_bytes() == data
    assert locator.find("anything", sha256(b"not there")) is None
