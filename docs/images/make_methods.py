"""One photograph in two styles by every method: `methods.jpg`.

    python docs/images/make_methods.py --work DIR

Runs `style transfer` as a user would. A work folder that has the results is not redone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

from stylecli.artifacts import images
from stylecli.artifacts.sheets import grid

HERE = Path(__file__).parent
STYLES = ("glass", "ink")
METHODS = {
    "diffstyler": "DiffStyler",
    "styleid": "StyleID",
    "attn-distill": "Attention Distillation",
}


def main() -> None:
    """Make the pictures and draw them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    looks = [word for name in STYLES for word in ("--style", HERE / "styles" / f"{name}.png")]
    for method in METHODS:
        words = [HERE / "chelsea.png", *looks, "--method", method, "-o", f"{work / method}/"]
        command = [sys.executable, "-m", "stylecli", "transfer", *map(str, words)]
        subprocess.run(command, check=True)  # noqa: S603
    rows = [
        [HERE / "chelsea.png", HERE / "styles" / f"{name}.png"]
        + [work / method / f"chelsea__{name}.png" for method in METHODS]
        for name in STYLES
    ]
    cells = [[square(path) for path in row] for row in rows]
    sheet = grid(cells, column_labels=["content", "style", *METHODS.values()])
    picture = Image.fromarray(sheet.numpy())
    picture.save(HERE / "methods.jpg", quality=88, optimize=True)


def square(path: Path) -> object:
    """The middle of a picture, at the size of a cell."""
    picture = images.to_float(images.read(path).pixels)
    side = min(picture.shape[1:])
    top, left = ((length - side) // 2 for length in picture.shape[1:])
    return images.scaled(picture[:, top : top + side, left : left + side], (192, 192))


if __name__ == "__main__":
    main()
