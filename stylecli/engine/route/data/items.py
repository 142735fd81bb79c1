"""A set for RegionRoute on disk: pictures, one object of each in one style, and the command for it.

    dataset.json          styles, and what the set was made from
    samples.jsonl         a sample a line
    excluded_ids.json     ids of all pictures, which no evaluation may use
    images/ masks/ targets/STYLE/

A line of `samples.jsonl`:

    {"id": "line_art/142/bread", "image_id": "142", "source": "images/142.jpg",
     "target": "targets/line_art/142_bread.png", "size": [480, 640], "style_id": "line_art",
     "prompt": "make the bread in line-art style, keep other area unchanged",
     "edits": [{"object": "bread", "style_id": "line_art", "object_span": [9, 14],
                "style_span": [18, 26], "mask": "masks/142_bread.png", "area": 0.1,
                "bbox": [10, 20, 130, 170]}],
     "split": "train", "seed": 7, "sha256": {"source": "…", "target": "…", "mask": "…"},
     "quality": {}}

Spans are places of characters in the prompt, their ends exclusive; a box is left, top, right,
bottom in pixels. What a line lacks is refused with its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images, masks, rows, store
from stylecli.errors import InputError, did_you_mean
from stylecli.methods.regionroute.styles import Style, plain

NAME, MARK, EXCLUDED = "samples.jsonl", "dataset.json", "excluded_ids.json"
FORMAT = 1
TRAIN, VAL = "train", "val"
SPLITS = (TRAIN, VAL)
Span = tuple[int, int]
Box = tuple[int, int, int, int]
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAKES = "`style route-data` makes a set"


@dataclass(frozen=True, slots=True)
class Edit:
    """One object that changes.

    Attributes:
        object: As the prompt says it.
        object_span: Where the prompt says so, and `style_span` which style.
        mask: A file of one bit a pixel: white is the object.
        area: Its share of the picture.
        bbox: Left, top, right and bottom, in pixels, the last two exclusive.
    """

    object: str
    style_id: str
    object_span: Span
    style_span: Span
    mask: Path
    area: float
    bbox: Box


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture before and after one command.

    Attributes:
        id: STYLE/PICTURE/OBJECT, unlike any other of the set.
        size: Height and width of all its files.
        seed: Of the stylist.
        sha256: Of the files: `source`, `target`, `mask`.
    """

    id: str
    image_id: str
    source: Path
    target: Path
    size: tuple[int, int]
    style_id: str
    prompt: str
    edits: tuple[Edit, ...]
    split: str
    seed: int
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A set as its files say.

    Attributes:
        samples: Of all splits, in the order of the file.
        digest: Of the samples and styles; equal ones are equal sets.
        excluded: Ids of pictures that no evaluation may use, by split.
    """

    folder: Path
    styles: tuple[Style, ...]
    samples: tuple[Sample, ...]
    digest: str
    excluded: Mapping[str, tuple[str, ...]]

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of ``train`` or ``val``; none where the set has none."""
        return tuple(sample for sample in self.samples if sample.split == name)


def read(folder: Path) -> Dataset:
    """A set, checked line by line; no picture is opened.

    Raises:
        InputError: There is no such set, it is not finished, a line is no sample, or a file that a
            line names is missing.
    """
    styles = _styles(folder)
    samples: dict[str, Sample] = {}
    for where, row in rows.objects(folder / NAME, what=f"no finished set at {folder}", fix=MAKES):
        sample = read_line(folder, where, row, {style.id: style for style in styles})
        if sample.id in samples:
            raise InputError(
                f"{where}: id {sample.id!r} occurs twice", fix="give every sample an id of its own"
            )
        samples[sample.id] = sample
    if not samples:
        raise InputError(f"{folder / NAME}: holds no sample", fix=MAKES)
    found = tuple(samples.values())
    _refuse_missing(folder, found)
    said = {
        "samples": store.file_sha256(folder / NAME),
        "styles": [[style.id, style.phrase] for style in styles],
    }
    return Dataset(folder, styles, found, store.digest(said), excluded(folder))


def excluded(folder: Path) -> dict[str, tuple[str, ...]]:
    """Ids of pictures of a set that no evaluation may use, by split.

    Raises:
        InputError: `excluded_ids.json` is missing, or says something else.
    """
    found = _json(folder / EXCLUDED)
    if not all(
        isinstance(ids, list) and all(isinstance(one, str) for one in ids) for ids in found.values()
    ):
        raise InputError(
            f"{folder / EXCLUDED}: is no lists of ids",
            fix='it is {"train": ["142"], "val": ["285"]}',
        )
    return {split: tuple(ids) for split, ids in found.items()}


def picture(path: Path) -> Float[Tensor, "3 h w"]:
    """A source or a target in [0, 1], upright, on white where it was transparent.

    Raises:
        ImageError: It cannot be read.
    """
    return images.to_float(images.read(path).pixels)


def mask_of(edit: Edit) -> Float[Tensor, "h w"]:
    """1 where the object is, 0 elsewhere.

    Raises:
        ImageError: It cannot be read.
    """
    return (masks.read_mask(edit.mask) >= 0.5).float()


def _styles(folder: Path) -> tuple[Style, ...]:
    file = folder / MARK
    about = _json(file)
    if about.get("format") != FORMAT:
        raise InputError(
            f"{file}: `format` is {about.get('format')!r}; this version reads {FORMAT}",
            fix=f"{MAKES}; or use the version that wrote it",
        )
    found = about.get("styles")
    if not isinstance(found, list) or not found:
        raise InputError(f"{file}: `styles` names none", fix=MAKES)
    styles = []
    for place, row in enumerate(found, start=1):
        where = f"{file.name}: style {place}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: is not an object", fix=MAKES)
        aliases = row.get("aliases", [])
        if not isinstance(aliases, list) or not all(isinstance(one, str) for one in aliases):
            raise InputError(f"{where}: `aliases` is {aliases!r}", fix="it is a list of texts")
        if not all(map(plain, aliases)):
            raise InputError(f"{where}: an alias is empty", fix="take it away")
        styles.append(Style(_text(where, row, "id"), _text(where, row, "phrase"), tuple(aliases)))
    return tuple(styles)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"no finished set at {file.parent}: {file.name}: {error.strerror or error}",
            fix=f"{MAKES}; the same command again finishes one",
        ) from error
    except ValueError as error:
        raise InputError(f"{file}: is not JSON: {error}", fix=MAKES) from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: is not an object", fix=MAKES)
    return found


def read_line(
    folder: Path, where: str, row: Mapping[str, Any], styles: Mapping[str, Style]
) -> Sample:
    """A sample as its line says; no file is looked for.

    Args:
        where: The line, for messages.
        styles: Those of the set, by their ids.

    Raises:
        InputError: It is no sample, or one of other styles.
    """
    split = _text(where, row, "split")
    if split not in SPLITS:
        raise InputError(
            f"{where}: `split` is {split!r}",
            fix=f"{did_you_mean(split, SPLITS)}known: {', '.join(SPLITS)}",
        )
    size = _counts(where, row, "size", 2)
    prompt = _text(where, row, "prompt")
    edits = row.get("edits")
    if not isinstance(edits, list) or not edits or not all(isinstance(e, dict) for e in edits):
        raise InputError(f"{where}: `edits` is {edits!r}", fix="it is a list of objects")
    sha256 = row.get("sha256")
    if not isinstance(sha256, dict) or not all(
        _SHA256.fullmatch(str(sha256.get(key))) for key in ("source", "target", "mask")
    ):
        raise InputError(
            f"{where}: `sha256` is {sha256!r}",
            fix="it holds source, target and mask, 64 digits of 0-9 and a-f each",
        )
    seed = row.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"{where}: `seed` is {seed!r}", fix="it is a whole number from 0")
    return Sample(
        id=_text(where, row, "id"),
        image_id=_text(where, row, "image_id"),
        source=_file(folder, where, row, "source"),
        target=_file(folder, where, row, "target"),
        size=(size[0], size[1]),
        style_id=_known(where, row, styles),
        prompt=prompt,
        edits=tuple(_edit(folder, where, edit, prompt, size, styles) for edit in edits),
        split=split,
        seed=seed,
        sha256=sha256,
    )


def _edit(
    folder: Path,
    where: str,
    row: Mapping[str, Any],
    prompt: str,
    size: Sequence[int],
    styles: Mapping[str, Style],
) -> Edit:
    name, style = _text(where, row, "object"), styles[_known(where, row, styles)]
    area = row.get("area")
    if not isinstance(area, float | int) or isinstance(area, bool) or not 0 < area <= 1:
        raise InputError(f"{where}: `area` is {area!r}", fix="it is a share of the picture")
    left, top, right, bottom = _counts(where, row, "bbox", 4)
    if not (left < right <= size[1] and top < bottom <= size[0]):
        raise InputError(
            f"{where}: `bbox` is {row['bbox']!r} in a picture of {size[1]}x{size[0]}",
            fix="it is left, top, right, bottom, in pixels",
        )
    style_span = _span(where, row, "style_span", prompt)
    said = prompt[slice(*style_span)]
    # With `include_style_word` the span takes in the word after the phrase.
    if not said.startswith(style.phrase):
        raise InputError(
            f"{where}: `style_span` is on {said!r}, not on {style.phrase!r}",
            fix="count characters of the prompt from 0, the end exclusive",
        )
    object_span = _span(where, row, "object_span", prompt)
    if prompt[slice(*object_span)] != name:
        raise InputError(
            f"{where}: `object_span` is on {prompt[slice(*object_span)]!r}, not on {name!r}",
            fix="count characters of the prompt from 0, the end exclusive",
        )
    mask = _file(folder, where, row, "mask")
    box = (left, top, right, bottom)
    return Edit(name, style.id, object_span, style_span, mask, float(area), box)


def _known(where: str, row: Mapping[str, Any], styles: Mapping[str, Style]) -> str:
    style_id = _text(where, row, "style_id")
    if style_id not in styles:
        raise InputError(
            f"{where}: `style_id` is {style_id!r}, which {MARK} does not name",
            fix=f"{did_you_mean(style_id, styles)}known: {', '.join(styles)}",
        )
    return style_id


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        said = "is missing" if key not in row else f"is {json.dumps(value)}"
        raise InputError(f"{where}: `{key}` {said}", fix="it is a text")
    return value


def _file(folder: Path, where: str, row: Mapping[str, Any], key: str) -> Path:
    """A file of the set; sets are copied as a whole, and what lies elsewhere is none of them."""
    name = Path(_text(where, row, key))
    if name.anchor or ".." in name.parts:
        raise InputError(
            f"{where}: `{key}` is {row[key]!r}, outside of the set",
            fix=f"name it from the folder of {NAME}",
        )
    return folder / name


def _counts(where: str, row: Mapping[str, Any], key: str, count: int) -> tuple[int, ...]:
    value = row.get(key)
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(isinstance(one, int) and not isinstance(one, bool) for one in value)
        or min(value) < 0
    ):
        raise InputError(
            f"{where}: `{key}` is {json.dumps(value)}", fix=f"it is {count} whole numbers from 0"
        )
    return tuple(value)


def _span(where: str, row: Mapping[str, Any], key: str, prompt: str) -> Span:
    start, stop = _counts(where, row, key, 2)
    if not start < stop <= len(prompt):
        raise InputError(
            f"{where}: `{key}` is {row[key]!r} in a prompt of {len(prompt)} characters",
            fix="count characters of the prompt from 0, the end exclusive",
        )
    return start, stop


def _refuse_missing(folder: Path, samples: Sequence[Sample]) -> None:
    names: dict[str, str] = {}
    for sample in samples:
        for file in (sample.source, sample.target, *(edit.mask for edit in sample.edits)):
            names.setdefault(str(file.relative_to(folder)), sample.id)
    if gone := rows.missing(folder, names):
        others = f", and {len(gone) - 1} other files" if gone[1:] else ""
        raise InputError(
            f"{NAME}: sample {names[gone[0]]!r} names {gone[0]}, which is not there{others}",
            fix="run `style route-data` again, or remove the lines",
        )
