"""How well one of two things is restyled by instruction alone, in figures and sheets.

    python docs/images/make_route.py node_modules/@iconify-json --work DIR --part editor
    python docs/images/make_route.py node_modules/@iconify-json --work DIR --part main
    python docs/images/make_route.py node_modules/@iconify-json --work DIR --part ablation \
        --experts plain=DIR --experts focus=DIR --experts cover=DIR --experts rank8=DIR
    python docs/images/make_route.py node_modules/@iconify-json --work DIR --part rival
    python docs/images/make_route.py node_modules/@iconify-json --work DIR --part table

Every part adds what is missing to rows in the work folder; `table` turns whatever is there into
`route.json`, `route.md` and the sheets. Distances are pocket-lpips to the true answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import route_parts
import route_table
import torch
from route_world import World

from stylecli.backbone.editors import unet_edit
from stylecli.backbone.registry import ASSETS
from stylecli.recipe.load import load


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("icons", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=(*route_parts.PARTS, "table"), required=True)
    parser.add_argument("--editor", type=Path, default=ASSETS / "editors" / "pocket")
    parser.add_argument("--experts", action="append", default=[], metavar="NAME=DIR")
    given = parser.parse_args()
    folders = {route_parts.SHIPPED: ASSETS / "experts" / "pocket"}
    own = {*folders, *route_parts.ALONE, route_parts.RIVAL}
    for one in given.experts:
        name, sign, folder = one.partition("=")
        if not (name and sign and folder) or name in own | folders.keys():
            taken = ", ".join(sorted(own))
            parser.error(f"--experts {one}: wants NAME=DIR, each name once and none of {taken}")
        folders[name] = Path(folder)
    # Two parts run side by side on two cores.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    given.work.mkdir(parents=True, exist_ok=True)
    if given.part == "table":
        route_table.write(given.work, Path(__file__).parent)
        return
    base = ASSETS / "pocket"
    editor = unet_edit.load(
        "pocket-edit",
        base,
        delta=given.editor,
        fingerprint=unet_edit.fingerprint(base, given.editor),
        device=torch.device("cpu"),
    )
    apply = load("pocket-cpu").recipe.route.apply
    studio = route_parts.Studio(editor, base / "clip", base / "lpips", apply)
    route_parts.PARTS[given.part](World(given.icons), studio, folders, given.work)


if __name__ == "__main__":
    main()
