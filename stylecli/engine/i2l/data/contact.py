"""The sheet of a set: some styles of every split, so that a person sees what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images, sheets, store
from stylecli.engine.i2l.data import items
from stylecli.engine.i2l.data.items import Item

# Styles of each split, and pictures of each style, at most so large.
STYLES: Mapping[str, int] = {"train": 6, "easy": 2, "medium": 2, "hard": 2, "test": 3}
COLUMNS, CELL_PX = 8, 128


def draw(
    found: Iterable[Item],
    splits: Mapping[str, str],
    file: Path,
    *,
    title: str,
    note: str,
    said: Mapping[str, str],
) -> None:
    """Write the sheet.

    Args:
        found: All items of a set; they are passed through once.
        splits: Of each style, by its id.
        said: What the picture's file says of itself.

    Raises:
        ImageError: A picture cannot be read.
        ItemError: The file cannot be written.
    """
    shown: dict[str, list[Item]] = {style: [] for style in _chosen(splits)}
    for item in found:
        row = shown.get(item.style_id)
        if row is not None and len(row) < COLUMNS:
            row.append(item)
    rows = list(shown.values())
    picture = sheets.grid(
        [[_small(item) for item in row] for row in rows],
        row_labels=[f"{one.split}: {one.style_caption or one.style_id}" for one, *_ in rows],
        title=title,
        notes=[note],
    )
    store.save_image(file, picture, said)


def _chosen(splits: Mapping[str, str]) -> list[str]:
    """Styles from all over each split: neighbours in a set are often alike."""
    chosen: list[str] = []
    for split, most in STYLES.items():
        own = [style for style, its in splits.items() if its == split]
        count = min(most, len(own))
        chosen += [own[place * len(own) // count] for place in range(count)]
    return chosen


def _small(item: Item) -> Float[Tensor, "3 h w"]:
    image = images.to_float(items.picture(item).pixels)
    scale = min(1.0, CELL_PX / max(image.shape[1:]))
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    return images.scaled(image, (height, width))
