"""The figures of docs/analysis.md: two looks learned from icons, twenty icons looked at by both.

    python docs/images/make_analysis.py node_modules/@iconify-json --work DIR

Draws the icons, then runs the command line as a user would: `style train-lora` for each family,
`style analyze features` for the table and the picture. Writes `analysis.jpg`, `analysis.json` and
`analysis.md` beside this file. A work folder that has the results is not redone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stylecli.artifacts.glyphs import FAMILIES, content_is_held_out, read_icons, render

HERE = Path(__file__).parent
# Two looks far apart, from families that no training of pocket has seen.
LOOKS = ("openmoji", "emojione-monotone")
LEARNED_FROM, CASES, PX = 4, 10, 128
SHOWN = "beach-with-umbrella"
SETTINGS = (f"sampling.size={PX}", "sampling.weight=1")


def main() -> None:
    """Draw, learn, measure, show."""
    parser = argparse.ArgumentParser()
    parser.add_argument("icons", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    work = arguments.work
    draw(arguments.icons, work)
    for look in LOOKS:
        style(
            *(work, "train-lora", f"learned-from/{look}", "-o", f"{look}.safetensors"),
            *("--prompt", f"a drawing in {look} style", "--steps", "400"),
            *settings(f"lora.resolution={PX}", "lora.crop=center"),
        )
    style(
        *(work, "analyze", "features", "--kind", "similarity", "-o", "similarity/"),
        *(word for look in LOOKS for word in ("--domain", f"{look}={look}.safetensors")),
        *settings(*SETTINGS),
    )
    first, second = LOOKS
    style(
        *(work, "analyze", "features", "--layers", "2,4,5,7,9,11", "-o", "analysis.jpg"),
        *("--domain", f"{first}/{SHOWN}.png={first}.safetensors"),
        *("--lora", f"{second}.safetensors", *settings(*SETTINGS)),
    )
    for made, kept in (
        ("similarity/similarity.json", "analysis.json"),
        ("similarity/similarity.md", "analysis.md"),
        ("analysis.jpg", "analysis.jpg"),
    ):
        shutil.copyfile(work / made, HERE / kept)


def draw(icons: Path, work: Path) -> None:
    """The same things by both families, on white: some to learn from, others to look at."""
    found = {
        look: {icon.content: icon.svg for icon in read_icons(icons, {look: FAMILIES[look]})}
        for look in LOOKS
    }
    both = sorted(set.intersection(*(set(drawings) for drawings in found.values())))
    seen = [name for name in both if not content_is_held_out(name)]
    unseen = [name for name in both if content_is_held_out(name)]
    for look, drawings in found.items():
        for place, names in (
            (work / "learned-from" / look, spread(seen, LEARNED_FROM)),
            (work / look, spread(unseen, CASES)),
        ):
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                rgba = render(drawings[name], PX)
                Image.fromarray(rgba[..., :3] + (255 - rgba[..., 3:])).save(place / f"{name}.png")


def spread(names: Sequence[str], count: int) -> list[str]:
    """So many of a sorted list, evenly apart.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [names[int(at)] for at in np.arange(count) * len(names) / count]


def settings(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def style(folder: Path, *arguments: object) -> None:
    """Run `style` in a folder and stop if it fails."""
    command = [sys.executable, "-m", "stylecli", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=folder)  # noqa: S603


if __name__ == "__main__":
    main()
