"""Journal rows: what failed, and nothing about the machine it failed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylecli.engine.run import without_folders


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/home/me/in/a.png: damaged", "a.png: damaged"),
        ("cannot read '/a/b.safetensors'", "cannot read 'b.safetensors'"),
        (r"C:\\Users\\me\\a.png is empty".replace("\\\\", "\\"), "a.png is empty"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("photos/a.png, 3/4 of it, 1 / 2", "photos/a.png, 3/4 of it, 1 / 2"),
        ("delete /tmp/x/.a.state to start afresh", "delete .a.state to start afresh"),
    ],
)
def test_folders_of_absolute_paths_go(said: str, kept: str) -> None:
    assert without_folders(said) == kept


def test_named_files_lose_their_folders_however_they_were_typed() -> None:
    files = [Path("my photos/a.png"), Path("my photos/a.png.bak"), Path("../b.png")]
    said = "my photos/a.png.bak, my photos/a.png and ../b.png"
    assert without_folders(said, files) == "a.png.bak, a.png and b.png"
