"""The README's picture of `style route-apply`: `route.jpg`.

    python docs/images/make_route_sheet.py --work DIR

Asks for each thing of `pair.png` in every style that comes with an expert, as a user would.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from draw_route import THINGS
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import images
from stylecli.artifacts.sheets import grid
from stylecli.engine.route import experts

HERE = Path(__file__).parent
# Of the 64 px of a picture, so that its pixels stay what they are.
SCALE = 2


def main() -> None:
    """A row for each thing, a column for each style."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    styles = [each.phrase for each in experts.read(experts.shipped()).experts]
    scene = HERE / "pair.png"
    rows = []
    for thing in THINGS:
        made = [given.work / f"{thing}-{style.replace(' ', '-')}.png" for style in styles]
        for style, out in zip(styles, made, strict=True):
            _style("route-apply", scene, "-i", f"make the {thing} in {style} style", "-o", out)
        rows.append([_enlarged(path) for path in (scene, *made)])
    sheet = grid(rows, row_labels=list(THINGS), column_labels=["picture", *styles])
    Image.fromarray(sheet.numpy()).save(HERE / "route.jpg", quality=90, optimize=True)


def _style(*words: object) -> None:
    command = [sys.executable, "-m", "stylecli", *map(str, words)]
    subprocess.run(command, check=True)  # noqa: S603


def _enlarged(path: Path) -> Float[Tensor, "3 h w"]:
    picture = images.to_float(images.read(path).pixels)
    return F.interpolate(picture[None], scale_factor=SCALE, mode="nearest")[0]


if __name__ == "__main__":
    main()
