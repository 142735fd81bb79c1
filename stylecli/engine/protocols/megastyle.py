"""i2L's protocol (section 7): a prompt, and pictures of a style that show other things."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylecli.engine.i2l.data.imports import SUFFIXES
from stylecli.engine.i2l.data.items import TRAIN
from stylecli.engine.i2l.data.rows import Raw, Rows, Said
from stylecli.engine.i2l.data.words import number, plain
from stylecli.engine.protocols.tasks import HERE, OUT, TASKS, Shelf, Task, below, command, name_from
from stylecli.errors import ImageError, InputError
from stylecli.tensors.seeds import derive

LORAS = "loras.jsonl"
PICTURES = "pictures"
# References drawn beside those that are wanted, for files that turn out to be the target's copy.
SPARE = 2


@dataclass(frozen=True, slots=True)
class _Draw:
    """Numbers of rows: the target, and references in the order in which they are taken."""

    target: int
    references: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        return (self.target, *self.references)


class MegaStyle:
    """Rows of pictures with captions and styles in words; see `tasks.Source`."""

    recipe = "eval-i2l"

    def __init__(
        self, files: Sequence[Rows], folder: Path, *, count: int, references: int, seed: int
    ) -> None:
        """Name what is asked for.

        Args:
            folder: Where the tasks will lie.
            count: Of items.
            references: Pictures of the style of each.
        """
        self._files, self._folder, self._count = files, folder, count
        self._references, self._seed = references, seed
        self.left_out: Counter[str] = Counter()
        self.facts: Mapping[str, Any] = {
            "sources": [{"name": one.name, "identity": one.identity()} for one in files],
            "items": count,
            "references": references,
            "seed": seed,
        }

    def count(self) -> int:
        """As many as are asked for.

        Raises:
            InputError: There are fewer.
        """
        self.left_out.clear()
        return len(self._drawn())

    def tasks(self, shelf: Shelf) -> Iterator[Task]:
        """In the order that the seed drew.

        Raises:
            InputError: There are fewer than asked for.
            ImageError: A row that was drawn has no picture.
        """
        self.left_out.clear()
        draws = self._drawn()
        found = self._pictures({row for one in draws for row in one.rows}, shelf)
        used: set[int] = set()
        for count, draw in enumerate(draws):
            name, target = f"{count:05d}", found[draw.target]
            own = [row for row in draw.references if found[row].digest != target.digest]
            if len(own) < self._references:
                raise InputError(
                    f"{target.place}: the pictures of its style are copies of it",
                    fix="remove the copies from the table",
                )
            refs = [found[row].name for row in own[: self._references]]
            used |= {draw.target, *own[: self._references]}
            said = target.said
            run: dict[str, Mapping[str, Any]] = {
                LORAS: {"id": name, "refs": refs},
                TASKS: {
                    "prompt": said.caption,
                    "lora": f"loras/{name}.safetensors",
                    "output": f"{name}.png",
                },
            }
            row = {
                "id": name,
                "output": f"{name}.png",
                "prompt": said.caption,
                "style_text": said.style_caption,
                "style": refs,
                "style_family": said.style,
                "target": target.name,
            }
            yield Task(run=run, row=row)
        for spare in found.keys() - used:
            if found[spare].is_ours:
                shelf.drop(found[spare].name)

    def script(self) -> Sequence[str]:
        # A manifest names its LoRAs from where it lies, and they are a result.
        return [
            f"mkdir -p {OUT} && cp {below(HERE, TASKS)} {below(OUT, TASKS)}",
            command(
                *("style", "i2l-predict", "--manifest", below(HERE, LORAS)),
                *("-o", below(OUT, "loras")),
            ),
            command("style", "generate", "--manifest", below(OUT, TASKS), "-o", OUT),
        ]

    def _drawn(self) -> list[_Draw]:
        """Which rows; of a million of them two numbers each are kept."""
        styles, contents, kept = self._read()
        order = np.argsort([derive(self._seed, "megastyle", row) for row in kept], kind="stable")
        by_style: dict[int, list[int]] = {}
        for place in order.tolist():
            by_style.setdefault(styles[place], []).append(place)
        found: list[_Draw] = []
        for place in order.tolist():
            others = [one for one in by_style[styles[place]] if contents[one] != contents[place]]
            if len(others) < self._references:
                self.left_out["whose style has too few other pictures"] += 1
                continue
            others.sort(key=lambda one: derive(self._seed, kept[place], kept[one]))
            drawn = others[: self._references + SPARE]
            found.append(_Draw(kept[place], tuple(kept[one] for one in drawn)))
            if len(found) == self._count:
                return found
        reasons = ", ".join(f"{count} {why}" for why, count in self.left_out.most_common())
        raise InputError(
            f"{len(found)} items will do, and {self._count} are asked for"
            + (f"; left out: {reasons}" if reasons else ""),
            fix=f"--images {len(found)}" if found else "name a larger table",
        )

    def _read(self) -> tuple[array[int], array[int], array[int]]:
        """Style and content of every row that may be used, and which row of all files it is."""
        has_held = any(
            said.split not in ("", TRAIN) for rows in self._files for said in rows.said()
        )
        styles, contents, kept = array("Q"), array("Q"), array("Q")
        row = -1
        for said in (said for rows in self._files for said in rows.said()):
            row += 1
            if has_held and said.split in ("", TRAIN):
                self.left_out["of the training split"] += 1
            elif not plain(said.caption) or not plain(said.style_caption):
                self.left_out["that do not say what they show in which style"] += 1
            else:
                styles.append(number(said.style))
                contents.append(number(said.content))
                kept.append(row)
        return styles, contents, kept

    def _pictures(self, wanted: set[int], shelf: Shelf) -> dict[int, _Picture]:
        """Of the rows that were drawn, read once; pieces with none of them are not."""
        found: dict[int, _Picture] = {}
        first = 0
        for rows in self._files:
            for piece, count in enumerate(rows.counts):
                if any(row in wanted for row in range(first, first + count)):
                    for row, raw in enumerate(rows.raws(piece), start=first):
                        if row in wanted:
                            found[row] = self._picture(raw, row, shelf)
                first += count
        return found

    def _picture(self, raw: Raw, row: int, shelf: Shelf) -> _Picture:
        """Look at a row's picture, and give it a file if it has none.

        Raises:
            ImageError: There is none, or it is of a kind that is not known.
        """
        data = raw.data()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        if isinstance(raw.image, str):
            name = name_from(self._folder, raw.folder / raw.image)
            return _Picture(raw.said, raw.place, name, digest, is_ours=False)
        suffix = next((suffix for start, suffix in SUFFIXES.items() if data.startswith(start)), "")
        if not suffix:
            known = ", ".join(sorted(set(SUFFIXES.values())))
            raise ImageError(
                f"{raw.place}: its picture is none of {known}", fix="mend or remove the row"
            )
        name = f"{PICTURES}/{row:07d}{suffix}"
        shelf.put(name, data)
        return _Picture(raw.said, raw.place, name, digest, is_ours=True)


@dataclass(frozen=True, slots=True)
class _Picture:
    """A row's picture.

    Attributes:
        name: From the folder of the tasks.
        digest: Of its bytes.
        is_ours: It has no other file.
    """

    said: Said
    place: str
    name: str
    digest: str
    is_ours: bool
