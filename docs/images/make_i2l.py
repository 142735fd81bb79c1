"""The figures of docs/methods/i2l.md: LoRAs of styles that the predictor never saw.

    python docs/images/make_i2l.py node_modules/@iconify-json --work DIR --part distances
    python docs/images/make_i2l.py node_modules/@iconify-json --work DIR --part numbers
    python docs/images/make_i2l.py node_modules/@iconify-json --work DIR --part guidance
    python docs/images/make_i2l.py node_modules/@iconify-json --work DIR --part learned
    python docs/images/make_i2l.py node_modules/@iconify-json --work DIR --part table

Every part writes rows into the work folder; `table` turns whatever is there into `i2l.json`,
`i2l.md` and `i2l-proof.jpg`. Distances are pocket-lpips to the true drawing: the same thing as the
hand of the references draws it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import i2l_parts
import i2l_table
import torch
from i2l_world import Studio, World

from stylecli.backbone import loading
from stylecli.backbone.registry import ASSETS
from stylecli.engine.i2l import encoders
from stylecli.recipe.i2l import Encoder

CPU = torch.device("cpu")


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("icons", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=(*i2l_parts.PARTS, "table"), required=True)
    parser.add_argument(
        "--predictor", type=Path, default=ASSETS / "predictors" / "pocket.safetensors"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the pairs, for a quick look")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.part == "table":
        i2l_table.write(given.work, Path(__file__).parent)
        return
    folder = ASSETS / "pocket"
    backbone = loading.load("pocket", folder, fingerprint=loading.fingerprint(folder), device=CPU)
    encoder = encoders.opened(Encoder(), default="pocket-clip", device=CPU, dtype=torch.float32)
    studio = Studio(backbone, given.predictor, encoder)
    i2l_parts.PARTS[given.part](World(given.icons), studio, given.work, given.share)


if __name__ == "__main__":
    main()
