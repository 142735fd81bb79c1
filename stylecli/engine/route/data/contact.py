"""The sheet of a set: some samples of every style, each with what it was, and what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import images, masks, sheets, store
from stylecli.engine.route.data import items
from stylecli.methods.regionroute.styles import Style

# Samples of each style, of which the last is of validation where there is one.
COLUMNS = 3
MAX_PX = 160
HEADINGS = ("before", "object", "after")


def draw(
    folder: Path,
    listed: Sequence[Mapping[str, Any]],
    styles: Sequence[Style],
    file: Path,
    said: Mapping[str, str],
) -> None:
    """Write the sheet.

    Args:
        listed: Lines of the list.
        styles: A row for each that has samples.
        said: What the picture's file says of itself.

    Raises:
        ImageError: A picture cannot be read.
        ItemError: The file cannot be written.
    """
    chosen = {style: _chosen(listed, style, turn) for turn, style in enumerate(styles)}
    shown = {style: rows for style, rows in chosen.items() if rows}
    tiles = {style: [_tile(folder, row) for row in rows] for style, rows in shown.items()}
    height = max(tile.shape[1] for row in tiles.values() for tile in row)
    pictures = len({row["image_id"] for row in listed})
    held = len({row["image_id"] for row in listed if row["split"] == items.VAL})
    sheet = sheets.grid(
        [[_padded(tile, height) for tile in row] for row in tiles.values()],
        row_labels=[style.text for style in tiles],
        title=f"{len(listed)} samples: {pictures} pictures, one object of each, in {len(tiles)} "
        f"{'style' if len(tiles) == 1 else 'styles'}",
        notes=[f"{held} of the pictures are for validation; a row ends with one of them"]
        if held
        else [],
    )
    store.save_image(file, sheet, said)


def _chosen(
    listed: Sequence[Mapping[str, Any]], style: Style, turn: int
) -> list[Mapping[str, Any]]:
    """Samples from all over the set, other pictures for every style."""
    own = [row for row in listed if row["style_id"] == style.id]
    held = [row for row in own if row["split"] == items.VAL]
    train = [row for row in own if row["split"] != items.VAL]
    count = min(len(train), COLUMNS - bool(held))
    spread = [train[(place * len(train) // count + turn) % len(train)] for place in range(count)]
    return [*spread, *held[turn % len(held) :][:1]] if held else spread


def _tile(folder: Path, row: Mapping[str, Any]) -> Float[Tensor, "3 h w"]:
    """Three pictures of a sample, with the command beneath."""
    edit = row["edits"][0]
    before, after = (items.picture(folder / row[name]) for name in ("source", "target"))
    before, after = _small(before), _small(after)
    mask = masks.read_mask(folder / edit["mask"])
    size = (before.shape[1], before.shape[2])
    mask = F.interpolate(mask[None, None], size, mode="area")[0, 0]
    marked = sheets.overlay(before, [mask], [""])
    tile = sheets.grid(
        [[before, marked, after]], column_labels=HEADINGS, notes=[str(row["prompt"])]
    )
    return images.to_float(tile)


def _small(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 _h _w"]:
    scale = min(1.0, MAX_PX / max(image.shape[1:]))
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    return images.scaled(image, (height, width))


def _padded(tile: Float[Tensor, "3 h w"], height: int) -> Float[Tensor, "3 _h w"]:
    """As high as the others, so that none is scaled."""
    missing = height - tile.shape[1]
    return torch.cat([tile, torch.ones(3, missing, tile.shape[2])], dim=1) if missing else tile
