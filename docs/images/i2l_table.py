"""From rows of the work folder to `i2l.json`, `i2l.md` and the sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from i2l_parts import NUMBERS, SCALES
from PIL import Image, ImageDraw

from stylecli.evaluation.statistics import Interval, mean_interval

Rows = Sequence[Mapping[str, Any]]
SEED = 0
HEADINGS = {
    "easy": ("references", "base", "neutral", "predicted", "another's", "true drawing"),
}


def write(work: Path, folder: Path) -> None:
    """Everything that is there."""
    makers: dict[str, Callable[[Rows], dict[str, Any]]] = {
        "distances": _distances,
        "numbers": _numbers,
        "guidance": _guidance,
        "learned": _learned,
    }
    found = {
        name: make([json.loads(line) for line in (work / f"{name}.jsonl").read_text().splitlines()])
        for name, make in makers.items()
        if (work / f"{name}.jsonl").exists()
    }
    (folder / "i2l.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "i2l.md").write_text(_text(found))
    _sheet(work, folder / "i2l-proof.jpg")


def _distances(rows: Rows) -> dict[str, Any]:
    found = {}
    for cell in dict.fromkeys(row["cell"] for row in rows):
        own = [row for row in rows if row["cell"] == cell]
        ways = ("base", "neutral", "matched", "mismatched")
        gain = [1 - row["matched"] / row["base"] for row in own]
        found[cell] = {
            "pairs": len(own),
            "styles": len({row["style"] for row in own}),
            **{way: _said(own, [row[way] for row in own]) for way in ways},
            "gain over base": _said(own, gain),
            **{
                f"beats {other}": _said(own, [float(row["matched"] < row[other]) for row in own])
                for other in ("base", "neutral", "mismatched")
            },
        }
    return found


def _numbers(rows: Rows) -> dict[str, Any]:
    found = {str(n): _said(rows, [row[str(n)] for row in rows]) for n in NUMBERS}
    first, last = str(NUMBERS[0]), "4"
    found["4 less 1"] = _said(rows, [row[last] - row[first] for row in rows])
    return {"pairs": len(rows), **found}


def _guidance(rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {"pairs": len({(row["style"], row["content"]) for row in rows})}
    for scale in SCALES:
        for mode in dict.fromkeys(row["mode"] for row in rows if row["scale"] == scale):
            own = [row for row in rows if (row["mode"], row["scale"]) == (mode, scale)]
            found[f"{mode} {scale:g}"] = {
                key: _said(own, [row[key] for row in own]) for key in ("distance", "content")
            }
    return found


def _learned(rows: Rows) -> dict[str, Any]:
    by_way = {
        way: [row for row in rows if row["way"] == way]
        for way in dict.fromkeys(row["way"] for row in rows)
    }
    found: dict[str, Any] = {
        "pairs": len(by_way["base"]),
        **{
            way: {
                key: _said(own, [row[key] for row in own])
                for key in ("distance", "content", "copied")
            }
            for way, own in by_way.items()
        },
    }
    base = [row["distance"] for row in by_way["base"]]
    for way in ("predicted", "trained"):
        own = [row["distance"] for row in by_way[way]]
        gains = [before - after for before, after in zip(base, own, strict=True)]
        found[f"gain of {way}"] = _said(by_way[way], gains)
    # A ratio to nothing says nothing.
    if found["gain of trained"][1] > 0:
        ratio = found["gain of predicted"][0] / found["gain of trained"][0]
        found["ratio of gains"] = round(ratio, 3)
    return found


def _said(rows: Rows, values: Sequence[float]) -> list[float]:
    """Mean and limits, whole styles drawn anew."""
    styles = [str(row["style"]) for row in rows]
    # A content by each hand is a thing of its own: only styles are clusters here.
    contents = [str(place) for place in range(len(rows))]
    interval: Interval = mean_interval(values, contents, styles, seed=SEED, resamples=4000)
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def _text(found: Mapping[str, Any]) -> str:
    lines = []
    if "distances" in found:
        cells = found["distances"]
        lines += [
            "| to the true drawing, lower is nearer | " + " | ".join(cells) + " |",
            "|---" * (len(cells) + 1) + "|",
            *(
                f"| {key} | "
                + " | ".join(_shown(own[key], is_share="beats" in key or "gain" in key)
                             for own in cells.values()) + " |"
                for key in next(iter(cells.values()))
                if key not in ("pairs", "styles")
            ),
            "| pairs, styles | "
            + " | ".join(f"{own['pairs']}, {own['styles']}" for own in cells.values()) + " |",
            "",
        ]  # fmt: skip
    if "numbers" in found:
        own = found["numbers"]
        lines += [
            f"| references ({own['pairs']} pairs) | " + " | ".join(map(str, NUMBERS)) + " |",
            "|---" * (len(NUMBERS) + 1) + "|",
            "| distance | " + " | ".join(_shown(own[str(n)]) for n in NUMBERS) + " |",
            "",
            f"Four references against one: {_shown(own['4 less 1'])}.",
            "",
        ]
    if "guidance" in found:
        own = found["guidance"]
        lines += [
            f"| other side, guidance ({own['pairs']} pairs) | distance | content, top 5 of 50 |",
            "|---|---|---|",
            *(
                f"| {key} | {_shown(row['distance'])} | {_shown(row['content'], is_share=True)} |"
                for key, row in own.items()
                if key != "pairs"
            ),
            "",
        ]
    if "learned" in found:
        own = found["learned"]
        lines += [
            f"| {own['pairs']} pairs | distance | content, first of 50 | a reference's thing |",
            "|---|---|---|---|",
            *(
                f"| {way} | {_shown(own[way]['distance'])} | "
                f"{_shown(own[way]['content'], is_share=True)} | "
                f"{_shown(own[way]['copied'], is_share=True)} |"
                for way in ("base", "predicted", "trained")
            ),
            "",
            f"Nearer than the base by {_shown(own['gain of predicted'])} predicted, and by "
            f"{_shown(own['gain of trained'])} after 200 steps"
            + (f": {own['ratio of gains']:.2f} of it." if "ratio of gains" in own else "."),
            "",
        ]
    return "\n".join(lines)


def _shown(said: Sequence[float], *, is_share: bool = False) -> str:
    if is_share:
        # Rounding has no sign.
        return "{:.0%} [{:.0%}, {:.0%}]".format(*(abs(value) if abs(value) < 0.005 else value
                                                  for value in said))  # fmt: skip
    return "{:.3f} [{:.3f}, {:.3f}]".format(*said)


def _sheet(work: Path, path: Path) -> None:
    """Pairs of every cell, under the words for their columns."""
    parts = [(cell, work / f"{cell}.png") for cell in ("easy", "medium", "hard")]
    pictures = []
    for cell, file in parts:
        if file.exists():
            with Image.open(file) as opened:
                pictures.append((cell, opened.convert("RGB")))
    if not pictures:
        return
    width = max(picture.width for _, picture in pictures)
    half = 8 * 64
    page = Image.new("RGB", (width, sum(half + 40 for _ in pictures)), "white")
    pen = ImageDraw.Draw(page)
    top = 0
    for cell, picture in pictures:
        pen.text((2, top + 4), f"{cell}: four references", fill="black")
        for number, words in enumerate(HEADINGS["easy"][1:]):
            pen.text((4 * 64 + 8 + 64 * number + 2, top + 4), words, fill="black")
        page.paste(picture.crop((0, 0, picture.width, half)), (0, top + 20))
        top += half + 40
    page.save(path, quality=88, optimize=True)
