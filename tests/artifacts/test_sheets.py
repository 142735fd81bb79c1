"""Sheets show every picture as it is, with words that keep off them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylecli.artifacts import lettering, sheets
from stylecli.artifacts.images import to_pixels
from stylecli.artifacts.sheets import grid, overlay


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def flat(height: int, width: int, red: float) -> torch.Tensor:
    """No word and no ground has this colour."""
    return torch.tensor([red, 1.0, 0.0])[:, None, None].expand(3, height, width)


def places(sheet: torch.Tensor, cell: torch.Tensor) -> list[tuple[int, int]]:
    """Every corner at which the sheet shows exactly these pixels."""
    seen, wanted = sheet.numpy(), to_pixels(cell).numpy()
    height, width = wanted.shape[:2]
    rows, columns = (seen[..., :] == wanted[0, 0]).all(axis=-1).nonzero()
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if np.array_equal(seen[row : row + height, column : column + width], wanted)
    ]


def box(sheet: torch.Tensor, cell: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of what has the colour of a flat cell."""
    shade = to_pixels(cell)[0, 0]
    rows, columns = ((sheet.int() - shade.int()).abs() <= 1).all(dim=-1).nonzero(as_tuple=True)
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left


labels_of = st.one_of(st.just(""), st.text(max_size=12), st.just("word " * 60), st.just("x" * 300))


@pytest.mark.slow
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.data(),
)
def test_pictures_of_one_size_are_shown_pixel_for_pixel_in_reading_order(
    height: int, width: int, size: tuple[int, int], data: st.DataObject
) -> None:
    rows = [[picture(*size, seed=10 * y + x) for x in range(width)] for y in range(height)]
    sheet = grid(
        rows,
        row_labels=data.draw(st.lists(labels_of, min_size=height, max_size=height)),
        column_labels=data.draw(st.lists(labels_of, min_size=width, max_size=width)),
        title=data.draw(labels_of),
        notes=data.draw(st.lists(labels_of, max_size=3)),
    )
    found = [[places(sheet, cell) for cell in row] for row in rows]
    assert all(len(at) == 1 for row in found for at in row)
    corners = np.array(found)[:, :, 0]
    assert (corners[..., 0] == corners[:, :1, 0]).all()
    assert (corners[..., 1] == corners[:1, :, 1]).all()
    assert (np.diff(corners[:, 0, 0]) >= size[0] + sheets.GAP_PX).all()
    assert (np.diff(corners[0, :, 1]) >= size[1] + sheets.GAP_PX).all()


def test_a_bare_picture_has_a_margin_and_nothing_else() -> None:
    sheet = grid([[picture(20, 30)]])
    assert tuple(sheet.shape) == (20 + 2 * sheets.GAP_PX, 30 + 2 * sheets.GAP_PX, 3)
    sheet[sheets.GAP_PX : -sheets.GAP_PX, sheets.GAP_PX : -sheets.GAP_PX] = 255
    assert bool((sheet == 255).all())


def test_a_row_has_one_height_and_aspects_are_kept() -> None:
    low, high, wide = flat(20, 40, 0.2), flat(80, 80, 0.4), flat(10, 30, 0.6)
    sheet = grid([[low, high, wide]])
    boxes = [box(sheet, cell) for cell in (low, high, wide)]
    assert [found[2:] for found in boxes] == [(80, 160), (80, 80), (80, 240)]
    assert len({found[0] for found in boxes}) == 1


def test_pictures_stand_in_the_middle_of_their_columns() -> None:
    narrow, wide = flat(20, 40, 0.2), flat(30, 100, 0.5)
    sheet = grid([[narrow], [wide]])
    assert box(sheet, wide)[1] == sheets.GAP_PX
    assert box(sheet, narrow)[1] == sheets.GAP_PX + 30


def test_large_pictures_are_scaled_down_and_thin_ones_stay_within_bounds() -> None:
    large, thin = flat(2000, 1000, 0.2), flat(30, 1500, 0.5)
    sheet = grid([[large], [thin]])
    assert box(sheet, large)[2:] == (640, 320)
    assert box(sheet, thin)[2:] == (13, 640)
    together = grid([[large, thin]])
    assert box(together, thin)[2:] == (13, 640)
    beside_thin = flat(5, 5, 0.2)
    assert box(grid([[beside_thin, thin]]), beside_thin)[2:] == (13, 13)


def test_what_is_missing_is_white() -> None:
    cell = picture(24, 24)
    sheet = grid([[cell, None], [cell]])
    assert len(places(sheet, cell)) == 2
    right = sheet[:, sheets.GAP_PX + 24 :]
    assert bool((right == 255).all())
    assert right.shape[1] >= sheets.BLANK_PX
    assert bool((grid([[None]]) == 255).all())


@pytest.mark.parametrize("text", ["kappa 0.5", "é", "→", "漢字", "Ω≈ç", "a\nb\tc", "😀"])
@pytest.mark.parametrize("where", ["title", "notes", "row_labels", "column_labels"])
def test_every_word_is_seen(where: str, text: str) -> None:
    cell = picture(64, 64)
    given_text = text if where == "title" else [text]
    blank = "" if where == "title" else ["."]
    sheet = grid([[cell]], **{where: given_text})  # type: ignore[arg-type]
    other = grid([[cell]], **{where: blank})  # type: ignore[arg-type]
    assert sheet.shape != other.shape or bool((sheet != other).any())
    ((top, left),) = places(sheet, cell)
    sheet[top : top + 64, left : left + 64] = 255
    assert sheet.min() < 100, "no dark letter"


def test_words_lie_where_they_belong() -> None:
    cell = flat(64, 64, 0.3)
    ground = to_pixels(torch.ones(3, 1, 1))[0, 0]

    def written(**words: object) -> tuple[bool, bool, bool]:
        """Whether there is anything above, left of and below the picture."""
        sheet = grid([[cell]], **words)  # type: ignore[arg-type]
        top, left, height, _ = box(sheet, cell)
        parts = sheet[:top], sheet[top : top + height, :left], sheet[top + height :]
        return tuple(bool((part != ground).any()) for part in parts)  # type: ignore[return-value]

    assert written() == (False, False, False)
    assert written(title="words") == (True, False, False)
    assert written(column_labels=["words"]) == (True, False, False)
    assert written(row_labels=["words"]) == (False, True, False)
    assert written(notes=["words"]) == (False, False, True)


def test_a_short_label_stands_next_to_its_picture_beneath_the_top_of_a_long_one() -> None:
    sheet = grid([[flat(90, 90, 0.3)] * 2], column_labels=["short", "one two " * 9])
    top = box(sheet, flat(90, 90, 0.3))[0]
    half = sheet.shape[1] // 2
    short, long = (
        (part[:top].amin(dim=-1) < 100).any(dim=1).nonzero().flatten()
        for part in (sheet[:, :half], sheet[:, half:])
    )
    assert int(short.min()) > int(long.min()) + 20
    assert int(short.max()) > top - sheets.GAP_PX - 10


def test_long_labels_end_in_an_ellipsis_and_long_notes_go_on() -> None:
    cell = picture(64, 64)
    long = " ".join(f"word{number}" for number in range(60))
    once = grid([[cell]], column_labels=[long])
    assert torch.equal(once, grid([[cell]], column_labels=[long + " and more"]))
    assert once.shape[0] < 64 + 100
    assert grid([[cell]], row_labels=[long]).shape[1] < 64 + 250
    notes = grid([[cell]], notes=[long])
    assert not torch.equal(notes, grid([[cell]], notes=[long + " and more"]))


@pytest.mark.parametrize("room", [40, 84, 200])
@pytest.mark.parametrize("text", ["one two three four five " * 9, "x" * 300, "a " + "y" * 90, ""])
def test_lines_fit_their_room_and_lose_no_letter(text: str, room: int) -> None:
    font = lettering.font_for(64)
    lines = lettering.wrapped(text, font, room)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= room for line in lines)
    short = lettering.wrapped(text, font, room, 2)
    assert len(short) == min(len(lines), 2)
    assert all(font.getlength(line) <= room for line in short)
    assert short == lines or short[-1].endswith("…")


def test_equal_sheets_are_equal_bytes() -> None:
    def made() -> torch.Tensor:
        return grid([[picture(30, 50), picture(50, 30)]], title="näme", notes=["a", "b"])

    assert torch.equal(made(), made())


@pytest.mark.parametrize(
    ("rows", "words", "message"),
    [
        ([], {}, "without a column"),
        ([[], []], {}, "without a column"),
        ([[None]], {"row_labels": ["a", "b"]}, "2 row labels for 1"),
        ([[None, None]], {"column_labels": ["a"]}, "1 column labels for 2"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused(
    rows: list[list[None]], words: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        grid(rows, **words)  # type: ignore[arg-type]


def disc(row: int, column: int, radius: int, side: int = 160) -> torch.Tensor:
    at = torch.arange(side)
    return (((at[:, None] - row) ** 2 + (at - column) ** 2) <= radius**2).float()


def test_a_region_is_tinted_inside_and_nowhere_else() -> None:
    grey, region = torch.full((3, 160, 160), 0.5), disc(80, 80, 60)
    drawn = overlay(grey, [region], [""])
    changed = ((drawn - grey).abs() > 0.01).any(dim=0)
    assert torch.equal(changed, region > 0)
    expected = 0.5 + sheets.TINT * (sheets._paint(sheets.TINTS[0]) - 0.5)
    torch.testing.assert_close(drawn[:, 80:81, 80:81], expected, atol=1 / 255, rtol=0)
    half = overlay(grey, [region * 0.4], ["unseen"])
    expected = 0.5 + 0.4 * sheets.TINT * (sheets._paint(sheets.TINTS[0]) - 0.5)
    torch.testing.assert_close(half[:, 80:81, 80:81], expected, atol=1 / 255, rtol=0)


def test_an_outline_is_the_regions_rim_in_its_full_colour() -> None:
    region = disc(80, 80, 60)
    drawn = overlay(torch.zeros(3, 160, 160), [region], [""])
    full = ((drawn - sheets._paint(sheets.TINTS[0])).abs() < 1 / 255).all(dim=0)
    for row in range(160):
        for column in range(160):
            near = region[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            assert full[row, column] == (region[row, column] > 0 and bool((near == 0).any()))


def test_regions_have_colours_of_their_own_and_later_ones_lie_on_top() -> None:
    left, right = disc(80, 50, 45), disc(80, 110, 45)
    drawn = overlay(torch.full((3, 160, 160), 0.5), [left, right], ["", ""])
    one, both, other = (drawn[:, 80, column] for column in (20, 80, 140))
    assert (one - other).abs().max() > 0.1
    assert (both - other).norm() < (both - one).norm()


def plates(drawn: torch.Tensor, count: int) -> list[tuple[slice, slice]]:
    """The white plates: rows and columns of what is pure white, by connected component."""
    from scipy.ndimage import find_objects, label

    found, number = label((drawn == 1).all(dim=0).numpy(), structure=np.ones((3, 3)))
    large = [at for at in find_objects(found) if at[0].stop - at[0].start > 8]
    assert len(large) == count, number
    return large


def test_names_stand_inside_their_regions_and_off_each_other() -> None:
    regions = [disc(40, 40, 35), disc(40, 120, 35), disc(120, 80, 35)]
    drawn = overlay(torch.zeros(3, 160, 160), regions, ["one", "two", "three"])
    for region, (rows, columns) in zip(regions, plates(drawn, 3), strict=True):
        assert bool((region[rows, columns] == 1).all())
    nested = overlay(torch.zeros(3, 160, 160), [disc(80, 80, 70)] * 3, ["one", "two", "three"])
    plates(nested, 3)


@pytest.mark.parametrize("side", [9, 40, 200])
@pytest.mark.parametrize("label", ["x" * 300, "漢字 é", "two words"])
def test_names_of_any_length_stay_inside_the_picture(side: int, label: str) -> None:
    region = disc(1, side - 2, 3, side=side)
    drawn = overlay(picture(side, side), [region, torch.zeros(side, side)], [label, "nowhere"])
    assert tuple(drawn.shape) == (3, side, side)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert not torch.equal(drawn, overlay(picture(side, side), [region], [""]))


def test_a_picture_without_regions_is_itself() -> None:
    plain = to_pixels(picture(8, 9)).permute(2, 0, 1).float() / 255
    assert torch.equal(overlay(plain, [], []), plain)


def test_every_region_needs_a_name() -> None:
    with pytest.raises(ValueError, match="zip"):
        overlay(picture(8, 8), [torch.ones(8, 8)], [])
