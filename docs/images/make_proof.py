"""Six photographs in four styles: the sheet and the figures that say whether transfer works.

    python docs/images/make_proof.py PHOTO… --work DIR

Runs the command line as a user would: `style transfer`, then `style evaluate`. Writes the sheet
`proof.jpg` (rows photographs, columns styles, each cell the result), the tables `proof.md` and the
figures of every picture `proof.csv` beside this file, and the pictures that the README shows. A
work folder that has the results is not redone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
STYLES = ("brush", "glass", "ink", "riso")
CELL = 192
METRICS = "edge_correlation,ssim,pocket-lpips,pocket-gram,pocket-clip-style,color_sw"


def main() -> None:
    """Make the pictures, score them, draw the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipe", default="pocket-cpu")
    parser.add_argument("--name", default="proof")
    arguments = parser.parse_args()
    styles = [HERE / "styles" / f"{name}.png" for name in STYLES]
    looks = [word for picture in styles for word in ("--style", picture)]
    results = arguments.work / "results"
    style("transfer", *arguments.photos, *looks, "-o", f"{results}/", "--recipe", arguments.recipe)
    contents = [word for photo in arguments.photos for word in ("--content", photo)]
    report = arguments.work / "report"
    style(
        *("evaluate", results, *contents, *looks, "-o", report, "--method", "diffstyler"),
        *("--metrics", METRICS, "--fail-under", "edge_correlation=0.6"),
    )
    for suffix, file in ((".md", "table.md"), (".csv", "per_image.csv")):
        shutil.copyfile(report / file, HERE / f"{arguments.name}{suffix}")
    save(draw(arguments.photos, styles, results), arguments.name)
    illustrate(arguments.work)


def illustrate(work: Path) -> None:
    """What the README shows: its own commands' pictures."""
    content, look = HERE / "chelsea.png", HERE / "style.png"
    style("transfer", content, "--style", look, "-o", work / "readme.png", "--compare")
    style("invert", content, "-o", work / "readme.safetensors", "--verify")
    save(Image.open(work / "readme.compare.png"), "compare")
    save(Image.open(work / "readme.verify.png"), "verify")
    row = Image.new("RGB", (CELL * len(STYLES), CELL))
    for column, name in enumerate(STYLES):
        row.paste(square(HERE / "styles" / f"{name}.png"), (CELL * column, 0))
    save(row, "styles")


def style(*arguments: object) -> None:
    """One `style` command, in a process of its own."""
    command = [sys.executable, "-m", "stylecli", *map(str, arguments)]
    subprocess.run(command, check=True)  # noqa: S603


def save(picture: Image.Image, name: str) -> None:
    picture.convert("RGB").save(HERE / f"{name}.jpg", quality=88, optimize=True)


def draw(photos: list[Path], styles: list[Path], work: Path) -> Image.Image:
    """First row the styles, first column the photographs."""
    sheet = Image.new("RGB", (CELL * (len(styles) + 1), CELL * (len(photos) + 1)), "white")
    for column, painted in enumerate(styles, start=1):
        sheet.paste(square(painted), (CELL * column, 0))
    for row, photo in enumerate(photos, start=1):
        sheet.paste(square(photo), (0, CELL * row))
        for column, painted in enumerate(styles, start=1):
            result = work / f"{photo.stem}__{painted.stem}.png"
            sheet.paste(square(result), (CELL * column, CELL * row))
    return sheet


def square(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((CELL, CELL))


if __name__ == "__main__":
    main()
