"""From rows of the work folder to `route.json`, `route.md` and two sheets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import route_rows
from PIL import Image, ImageDraw
from route_world import KINDS, STYLES

from stylecli.evaluation.statistics import mean_interval, wilson

Rows = Sequence[Mapping[str, Any]]
# Column -> how it is shown, and what it is called.
FIGURES: Mapping[str, tuple[str, str]] = {
    "is_local": ("{:.0%}", "named changed twice as much"),
    "is_nearer": ("{:.0%}", "nearer to the truth"),
    "distance": ("{:.2f}", "distance after / before"),
    "error": ("{:.2f}", "squared error after / before"),
    "change": ("{:.3f}", "changed by"),
    "rsm": ("{:.3f}", "RSM (pocket-clip)"),
    "lpips_bg": ("{:.3f}", "pocket-lpips_bg"),
    "mse_bg": ("{:.4f}", "MSE_bg"),
    "seam": ("{:.3f}", "error by the edge"),
    "mass": ("{:.2f}", "attention inside"),
    "iou": ("{:.2f}", "attention IoU"),
}
PX, SCALE, GAP, COLUMNS, ROWS = 64, 2, 6, 4, 6
NAMES = {style.id: style.text for style in STYLES}


def write(work: Path, folder: Path) -> None:
    """Everything that is there."""
    rows = {
        part: _taking_turns(own)
        for part in ("editor", "main", "ablation")
        if (own := route_rows.read(work / f"{part}.jsonl"))
    }
    found: dict[str, Any] = {}
    if "editor" in rows:
        found["whole pictures"] = _grouped(rows["editor"], "style", tuple(NAMES))
        _sheet(work / "editor", rows["editor"][: COLUMNS * ROWS], folder / "route-editor.jpg")
    if "main" in rows:
        found["kinds"] = _grouped(rows["main"], "kind", KINDS)
        found["styles"] = _grouped(rows["main"], "style", tuple(NAMES))
        _sheets(work, rows["main"], folder)
    if "ablation" in rows:
        ways = dict.fromkeys(row["way"] for row in rows["ablation"])
        found["ways"] = _grouped(_of_all(rows["ablation"], ways), "way", tuple(ways))
    (folder / "route.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    tables = (_table(name, groups) for name, groups in found.items())
    (folder / "route.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")


def _grouped(rows: Rows, key: str, order: Sequence[str]) -> dict[str, Any]:
    groups = {name: [row for row in rows if row[key] == name] for name in order}
    return {
        name: {"edits": len(own)}
        | {figure: _said(own, figure) for figure in FIGURES if figure in own[0]}
        for name, own in groups.items()
        if own
    }


def _of_all(rows: Rows, ways: Collection[str]) -> Rows:
    """Of edits that every way was asked for: only of those can ways be compared."""
    asked = [{row["id"] for row in rows if row["way"] == way} for way in ways]
    shared = set.intersection(*asked)
    return [row for row in rows if row["id"] in shared]


def _taking_turns(rows: Rows) -> Rows:
    """One of each kind and style before the second of any."""
    turns: Counter[tuple[str, ...]] = Counter()
    placed = []
    for row in rows:
        group = (row["way"], row["kind"], row["style"])
        placed.append((turns[group], len(placed), row))
        turns[group] += 1
    return [row for _, _, row in sorted(placed, key=lambda each: each[:2])]


def _said(rows: Rows, figure: str) -> list[float | None]:
    """Mean and limits; None of what is unknown.

    Limits of means are by resampling, in which the two edits of a scene stay together; of shares
    they are Wilson's, of as many trials as there are scenes.
    """
    scenes = [str(row["id"]).rpartition("-")[0] for row in rows]
    values = [float(row[figure]) for row in rows]
    if figure.startswith("is_"):
        # Resamples of a share of none or all would all be alike. A scene's two edits count as one.
        count, share = len(set(scenes)), sum(values) / len(values)
        found = (share, *wilson(round(share * count), count))
    else:
        each = [str(place) for place in range(len(rows))]
        interval = mean_interval(values, scenes, each, seed=0, resamples=4000)
        found = (interval.value, interval.low, interval.high)
    return [round(value, 4) if math.isfinite(value) else None for value in found]


def _table(name: str, groups: Mapping[str, Any]) -> str:
    """A row for each figure, a column for each group."""
    heads = [NAMES.get(group, group) for group in groups]
    lines = [f"| {name} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for figure, (form, words) in FIGURES.items():
        if figure not in next(iter(groups.values())):
            continue
        cells = [_cell(form, own[figure]) for own in groups.values()]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    lines.append(f"| edits | {' | '.join(str(own['edits']) for own in groups.values())} |")
    return "\n".join(lines)


def _cell(form: str, said: Sequence[float | None]) -> str:
    """Nothing of what was not measured: `mask-transfer` has no words that look anywhere."""
    value, low, high = ("unknown" if each is None else form.format(each) for each in said)
    return "" if said[0] is None else f"{value} [{low}, {high}]"


def _sheets(work: Path, rows: Rows, folder: Path) -> None:
    """The first of the plain kinds as they come, and the worst of the hard ones."""
    plain = [row for row in rows if row["kind"] in ("seen", "unseen")]
    _sheet(work / "main", plain[: COLUMNS * ROWS], folder / "route-proof.jpg")
    failed = sorted(
        (row for row in rows if row["kind"] in KINDS[3:] and not row["is_local"]),
        key=lambda row: row["inside"] / max(row["other"], 1e-6),
    )
    _sheet(work / "main", failed[: COLUMNS * ROWS], folder / "route-failures.jpg")


def _sheet(work: Path, rows: Rows, path: Path) -> None:
    """Before, after and truth of each, under its style and kind."""
    if not rows:
        return
    wide, high = 3 * PX * SCALE + GAP, PX * SCALE + 18
    page = Image.new("RGB", (COLUMNS * wide, -(-len(rows) // COLUMNS) * high), "white")
    pen = ImageDraw.Draw(page)
    for place, row in enumerate(rows):
        left, top = place % COLUMNS * wide, place // COLUMNS * high
        pen.text((left + 2, top + 2), f"{row['kind']}: {NAMES[row['style']]}", fill="black")
        with Image.open(work / row["way"] / f"{row['id']}.png") as opened:
            size = (3 * PX * SCALE, PX * SCALE)
            page.paste(opened.resize(size, Image.Resampling.NEAREST), (left, top + 16))
    page.save(path, quality=88, optimize=True)
