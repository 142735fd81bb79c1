"""Files of fixed ranges: read, or refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylecli.artifacts import ranges
from stylecli.errors import InputError


def test_a_range_is_two_numbers(tmp_path: Path) -> None:
    file = tmp_path / "ref.json"
    file.write_text('{"clip_text": [0.1, 0.4], "aesthetic": [4, 7]}')
    assert ranges.load(file) == {"clip_text": (0.1, 0.4), "aesthetic": (4.0, 7.0)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[1, 2]", "no table of ranges"),
        ("{}", "no table of ranges"),
        ('{"ssim": [1]}', r"ssim is \[1\], not \[LOW, HIGH\]"),
        ('{"ssim": [1, 1]}', r"not \[LOW, HIGH\]"),
        ('{"ssim": [2, 1]}', r"not \[LOW, HIGH\]"),
        ('{"ssim": [0, true]}', r"not \[LOW, HIGH\]"),
        ('{"ssim": [0, NaN]}', r"not \[LOW, HIGH\]"),
        ('{"ssim": "0..1"}', r"not \[LOW, HIGH\]"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "ref.json"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as no:
        ranges.load(file)
    assert "clip_text" in no.value.fix


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"overall_ref .*gone\.json: No such file"):
        ranges.load(tmp_path / "gone.json")
