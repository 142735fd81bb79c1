"""What people type becomes a list of files, or an error that names the word that was wrong."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.engine import inputs
from stylecli.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.webp", "sub/deep/d.png", "notes.txt", ".hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_is_read_whole_sorted_and_without_other_files(folder: Path) -> None:
    assert names(inputs.expand([str(folder)])) == ["a.JPG", "b.png", "c.webp", "d.png"]


def test_what_is_to_be_left_out_stays_when_it_is_named(folder: Path) -> None:
    def is_b(path: Path) -> bool:
        return path.name == "b.png"

    assert names(inputs.expand([str(folder)], leave_out=is_b)) == ["a.JPG", "c.webp", "d.png"]
    assert names(inputs.expand(["**/*.png"], leave_out=is_b)) == ["d.png"]
    assert names(inputs.expand(["b.png"], leave_out=is_b)) == ["b.png"]


@pytest.mark.mostly_slow
@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_kind_that_a_folder_is_searched_for_can_be_read(tmp_path: Path, suffix: str) -> None:
    from PIL import Image, features

    from stylecli.artifacts.images import read

    needs = {".avif": "avif", ".webp": "webp", ".jp2": "jpg_2000", ".j2k": "jpg_2000"}
    if suffix in needs and not features.check(needs[suffix]):
        pytest.skip(f"this Pillow was built without {needs[suffix]}")
    mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
    Image.new(mode, (16, 16)).save(tmp_path / f"x{suffix}")
    assert read(tmp_path / f"x{suffix}").pixels.shape == (16, 16, 3)


def test_quoted_patterns_cross_folders(folder: Path) -> None:
    assert names(inputs.expand(["**/*.png"])) == ["b.png", "d.png"]
    assert names(inputs.expand(["?.png"])) == ["b.png"]


def test_the_same_file_named_twice_is_one_item(folder: Path) -> None:
    assert names(inputs.expand(["b.png", "?.png", "b.png"])) == ["b.png"]


@pytest.mark.parametrize(("separator", "nul"), [("\n", False), ("\0", True)])
def test_a_list_comes_from_standard_input(folder: Path, separator: str, nul: bool) -> None:
    odd = folder / ("new\nline.png" if nul else "with space.png")
    odd.touch()
    text = separator.join(["b.png", odd.name, ""])
    found = inputs.expand(["-"], stdin=io.StringIO(text).read, nul=nul)
    assert names(found) == ["b.png", odd.name]


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(folder: Path) -> None:
    (folder / "x[1].png").touch()
    assert names(inputs.expand(["x[1].png"])) == ["x[1].png"]


@pytest.mark.parametrize("argument", ["absent.png", "*.tiff", "sub/deep/e*.png", "empty"])
def test_what_matches_nothing_is_an_error_that_names_it(folder: Path, argument: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        inputs.expand([argument])
    assert argument in caught.value.what


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(InputError, match="empty"):
        inputs.expand(["-"], stdin=io.StringIO("\n").read)


def test_manifest_inputs_count_from_its_folder_and_outputs_do_not(folder: Path) -> None:
    jsonl = folder / "sub" / "jobs.jsonl"
    jsonl.write_text('{"content": "c.webp", "lora": "x.safetensors", "output": "o.png"}\n\n')
    csv = folder / "sub" / "jobs.csv"
    csv.write_text("content,lora,output\nc.webp,x.safetensors,o.png\n")
    for manifest in (jsonl, csv):
        (row,) = inputs.manifest(manifest)
        assert row.content == folder / "sub" / "c.webp"
        assert row.lora == folder / "sub" / "x.safetensors"
        assert row.output == Path("o.png")


def test_a_content_that_is_gone_is_an_item_and_not_the_end_of_a_list(folder: Path) -> None:
    (folder / "jobs.csv").write_text("content,output\nb.png,b.png\nabsent.png,x.png\n")
    assert [row.content.name for row in inputs.manifest(folder / "jobs.csv")] == [
        "b.png", "absent.png"
    ]  # fmt: skip
    found = inputs.expand(["-"], stdin=io.StringIO("b.png\nabsent.png\n").read)
    assert names(found) == ["b.png", "absent.png"]


def test_a_list_of_which_nothing_is_there_is_refused_with_its_first_name(folder: Path) -> None:
    (folder / "jobs.csv").write_text('content,output\nabsent.png,"two\nlines.png"\nsub,x.png\n')
    with pytest.raises(InputError, match=r"jobs\.csv:3  .*absent\.png does not exist"):
        inputs.manifest(folder / "jobs.csv")
    with pytest.raises(InputError, match=r"^absent\.png does not exist"):
        inputs.expand(["-"], stdin=io.StringIO("absent.png\ngone.png\n").read)
    (folder / "jobs.csv").write_text("content\nsub\n")
    with pytest.raises(InputError, match="sub is a folder"):
        inputs.manifest(folder / "jobs.csv")


@pytest.mark.parametrize("value", ["5", '["b.png"]', "{}", "true"])
def test_what_is_no_name_is_told_with_its_line_and_column(folder: Path, value: str) -> None:
    (folder / "jobs.jsonl").write_text(f'{{"content": "b.png", "output": {value}}}\n')
    with pytest.raises(InputError, match=r"jobs\.jsonl:1  output is ") as caught:
        inputs.manifest(folder / "jobs.jsonl")
    assert value in caught.value.what


def test_a_quote_that_never_ends_is_told_with_its_line(folder: Path) -> None:
    (folder / "jobs.csv").write_text('content\n"' + "x" * 200_000)
    with pytest.raises(InputError, match=r"jobs\.csv:\d"):
        inputs.manifest(folder / "jobs.csv")


def test_a_list_ends_its_lines_as_any_system_does(folder: Path) -> None:
    odd = folder / "x\x85y.png"
    odd.touch()
    found = inputs.expand(["-"], stdin=io.StringIO("b.png\r\n" + odd.name + "\r\n").read)
    assert names(found) == ["b.png", odd.name]


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "jobs.jsonl:1"),
        ('{"content": "a"}\n{"style": "b"}', "jobs.jsonl:2  no 'content'"),
        ('{"content": "a", "contnet": "b"}', "contnet"),
        ("", "no rows"),
        ("[1]", "jobs.jsonl:1"),
    ],
)
def test_a_wrong_manifest_says_which_line(tmp_path: Path, text: str, words: str) -> None:
    manifest = tmp_path / "jobs.jsonl"
    manifest.write_text(text)
    with pytest.raises(InputError) as caught:
        inputs.manifest(manifest)
    assert words in caught.value.what


@pytest.mark.skipif(os.name != "posix", reason="needs a file name that is not UTF-8")
def test_names_that_are_not_utf8_work(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).touch()
    assert names(inputs.expand([str(tmp_path)])) == [name]
