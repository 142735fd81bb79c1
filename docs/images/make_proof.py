"""Six photographs in four styles: the sheet and the figures that say whether transfer works.

    python docs/images/make_proof.py PHOTO… --work DIR

Runs the command line as a user would (`style transfer PHOTO… --style … -o DIR`), then scores every
result beside two anchors: the content left as it is, and a plain colour transfer. Writes the sheet
`proof.jpg` (rows photographs, columns styles, each cell the result) and `proof.json` beside this
file, and the pictures that the README shows. A work folder that has the results is not redone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from stylecli.artifacts import images
from stylecli.backbone.registry import ASSETS
from stylecli.evaluation import metrics
from stylecli.evaluation.perceptual import load_pocket_lpips

HERE = Path(__file__).parent
STYLES = ("brush", "glass", "ink", "riso")
CELL = 192


def tensor(path: Path) -> torch.Tensor:
    return images.to_tensor(images.read(path).pixels)


def like(image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Scaled to another picture's size."""
    return torch.nn.functional.interpolate(
        image, reference.shape[-2:], mode="bicubic", antialias=True
    ).clamp(0, 1)


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
    style("transfer", *arguments.photos, *looks, "-o", arguments.work, "--recipe", arguments.recipe)
    network = load_pocket_lpips(ASSETS / "pocket" / "lpips")
    rows = []
    for photo in arguments.photos:
        for painted in styles:
            result = tensor(arguments.work / f"{photo.stem}__{painted.stem}.png")
            content, look = like(tensor(photo), result), tensor(painted)
            wanted = network.features(look)
            palette = metrics.palette_transfer(content, look)

            def gram(image: torch.Tensor, wanted: list[torch.Tensor] = wanted) -> float:
                return float(metrics.gram_rel(network.features(image), wanted))

            rows.append(
                {
                    "content": photo.stem,
                    "style": painted.stem,
                    "gram_result": round(gram(result), 4),
                    "gram_content_copy": round(gram(content), 4),
                    "gram_palette_transfer": round(gram(palette), 4),
                    "edge_correlation": round(float(metrics.edge_correlation(result, content)), 4),
                }
            )
    mean = {
        key: round(statistics.fmean(float(row[key]) for row in rows), 4)
        for key in rows[0]
        if key not in ("content", "style")
    }
    gram_rel = mean["gram_result"] / mean["gram_content_copy"]
    report = {
        "recipe": arguments.recipe,
        "mean": mean,
        "gram_rel": round(gram_rel, 4),
        "passes": {
            "gram at least 25 % below the content copy": gram_rel <= 0.75,
            "gram below a plain colour transfer": mean["gram_result"]
            < mean["gram_palette_transfer"],
            "edge correlation at least 0.6": mean["edge_correlation"] >= 0.6,
        },
        "pictures": sorted(rows, key=lambda row: -float(row["gram_result"])),
    }
    (HERE / f"{arguments.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    save(draw(arguments.photos, styles, arguments.work), arguments.name)
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
