"""How much of a picture is left of it in few steps: photographs in styles, two ways to spread them.

    python docs/images/make_steps.py PHOTO… --work DIR

Runs `style transfer` as a user would, once for every number of steps and way, and compares the
pictures with those of 50 and of 200 steps, with their photographs and with their styles. Writes the
sheet `steps.jpg`, the table `steps.md` and the figures of every picture `steps.csv` beside this
file. A work folder that has the results is not redone.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

from PIL import Image, ImageOps
from torch import Tensor

from stylecli.artifacts import images
from stylecli.artifacts.sheets import grid
from stylecli.engine.yardsticks import Yardsticks
from stylecli.evaluation.statistics import mean_interval

HERE = Path(__file__).parent
STYLES = ("brush", "ink")
STEPS = (1, 2, 4, 8, 16, 25, 50)
GRIDS = ("leading", "trailing")
# What the pictures of few steps are few steps of: the default, and more than anyone waits for.
USUAL, MANY = ("leading", 50), ("leading", 200)
SIZE_PX = 128
# Inverted, looked at as a source, and painted with guidance.
ROWS_A_STEP = 1 + 1 + 2
SEED = 0
FIGURES = ("from_usual", "from_many", "from_content", "from_style")
HEADS = (
    *("steps", "timesteps", "UNet rows", "seconds", "from 50 steps", "from 200 steps"),
    *("from the photograph", *(f"from {style}" for style in STYLES)),
)

Way = tuple[str, int]


@dataclass(frozen=True)
class Run:
    """Pictures of one way, by photograph and style, and how long each took."""

    way: Way
    pictures: dict[tuple[str, str], Tensor]
    seconds: list[float]


def main() -> None:
    """Make the pictures, compare them, draw the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    work = arguments.work
    photos = [squared(photo, work / "photos") for photo in arguments.photos]
    ways = [(name, steps) for name in GRIDS for steps in STEPS]
    runs = {way: made(way, photos, work) for way in [*ways, MANY]}
    rows = measured(runs, photos)
    with (HERE / "steps.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "steps.md").write_text(table(rows, runs), encoding="utf-8")
    save(sheet(runs, photos))


def squared(photo: Path, folder: Path) -> Path:
    """The middle of a photograph: those of one shape are painted together."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{photo.stem}.png"
    with Image.open(photo) as opened:
        size = (2 * SIZE_PX, 2 * SIZE_PX)
        ImageOps.fit(opened.convert("RGB"), size, Image.Resampling.LANCZOS).save(target)
    return target


def made(way: Way, photos: Sequence[Path], work: Path) -> Run:
    """The pictures of one way: the LoRAs are learnt in the first, and found by the others."""
    name, steps = way
    folder = work / f"{name}-{steps}"
    looks = [word for style in STYLES for word in ("--style", HERE / "styles" / f"{style}.png")]
    command = [
        *(sys.executable, "-m", "stylecli", "transfer", *photos, *looks, "-o", f"{folder}/"),
        *("--steps", steps, "--set", f"sampling.timesteps={name}"),
        *("--set", f"sampling.size={SIZE_PX}", "--seed", SEED, "--batch", len(photos), "-q"),
    ]
    subprocess.run([*map(str, command)], check=True)  # noqa: S603
    found = {
        (photo.stem, style): images.to_float(
            images.read(folder / f"{photo.stem}__{style}.png").pixels
        )
        for photo in photos
        for style in STYLES
    }
    journal = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in journal]
    return Run(way, found, [row["seconds"] for row in told if row.get("status") == "done"])


def measured(runs: dict[Way, Run], photos: Sequence[Path]) -> list[dict[str, object]]:
    """A row a picture."""
    yardsticks = Yardsticks()
    contents = {photo.stem: photo for photo in photos}
    styles = {name: picture(HERE / "styles" / f"{name}.png") for name in STYLES}
    rows: list[dict[str, object]] = []
    for (name, steps), run in runs.items():
        for (photo, style), result in run.pictures.items():
            content = images.scaled(picture(contents[photo]), (SIZE_PX, SIZE_PX))
            values = (
                yardsticks.perceptual(result, runs[USUAL].pictures[photo, style]),
                yardsticks.perceptual(result, runs[MANY].pictures[photo, style]),
                yardsticks.perceptual(result, content),
                yardsticks.texture(result, styles[style]),
            )
            figures = {key: round(value, 5) for key, value in zip(FIGURES, values, strict=True)}
            rows.append(
                {"timesteps": name, "steps": steps, "content": photo, "style": style, **figures}
            )
    return rows


def picture(path: Path) -> Tensor:
    return images.to_float(images.read(path).pixels)


def table(rows: Sequence[dict[str, object]], runs: dict[Way, Run]) -> str:
    """Means with 95 % limits over photographs and styles, in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for (name, steps), run in runs.items():
        own = [row for row in rows if (row["timesteps"], row["steps"]) == (name, steps)]
        cells = [str(steps), name, str(ROWS_A_STEP * steps), f"{median(run.seconds):.1f}"]
        cells += [_limits(own, key) for key in FIGURES[:-1]]
        # Of flat colours and of strokes these are on scales of their own.
        cells += [
            _limits([row for row in own if row["style"] == style], FIGURES[-1]) for style in STYLES
        ]
        lines.append(f"| {' | '.join(cells)} |")
    apart = _apart(runs[USUAL])
    lines += ["", f"Two styles of one photograph, 50 steps each: {apart:.3f} from one another."]
    return "\n".join(lines) + "\n"


def _limits(rows: Sequence[dict[str, object]], key: str) -> str:
    interval = mean_interval(
        [float(str(row[key])) for row in rows],
        [str(row["content"]) for row in rows],
        [str(row["style"]) for row in rows],
        seed=SEED,
    )
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _apart(run: Run) -> float:
    yardsticks = Yardsticks()
    found = [
        yardsticks.perceptual(run.pictures[photo, one], run.pictures[photo, other])
        for photo in dict.fromkeys(photo for photo, _ in run.pictures)
        for one, other in combinations(STYLES, 2)
    ]
    return sum(found) / len(found)


def sheet(runs: dict[Way, Run], photos: Sequence[Path]) -> Image.Image:
    """Two photographs in two styles; columns numbers of steps, rows ways to spread them."""
    shown = [(photos[0].stem, STYLES[0]), (photos[1].stem, STYLES[1])]
    rows: list[list[Tensor | None]] = []
    labels = []
    for pair in shown:
        for name in GRIDS:
            cells = [runs[name, steps].pictures[pair] for steps in STEPS]
            rows.append([*cells, runs[MANY].pictures[pair] if name == MANY[0] else None])
            labels.append(f"{' in '.join(pair)}, {name}")
    columns = [f"{n} step{'s' * (n > 1)}" for n in (*STEPS, MANY[1])]
    pixels = grid(rows, row_labels=labels, column_labels=columns)
    return Image.fromarray(pixels.numpy())


def save(shown: Image.Image) -> None:
    shown.save(HERE / "steps.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main()
