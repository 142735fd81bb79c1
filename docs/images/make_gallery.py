"""The figures of docs/methods/stylegallery.md: regions, matches and pictures where truth is known.

    python docs/images/make_gallery.py node_modules/@iconify-json --work DIR --part regions
    python docs/images/make_gallery.py node_modules/@iconify-json --work DIR --part pictures
    python docs/images/make_gallery.py node_modules/@iconify-json --work DIR --part second
    python docs/images/make_gallery.py node_modules/@iconify-json --work DIR --part table

Questions are those of `gallery_scenes`. What is in the work folder is not made again, so a run that
was stopped goes on, and `--part table` writes `gallery.json`, `gallery.md` and `gallery-proof.jpg`
from whatever is there. `--photos` adds the wallpapers of `stylecli.pocket.data`, as for the masks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import gallery_parts
import gallery_table
import torch
from gallery_pictures import Painter
from gallery_scenes import Drawn, Question, ask, families
from make_masks import read_photos
from torch import Tensor

from stylecli.artifacts import glyphs
from stylecli.engine.gallery.sight import Sight
from stylecli.engine.session import Session
from stylecli.recipe import load
from stylecli.recipe.schema import Recipe

HERE = Path(__file__).parent
# Questions come in this stride, so that the first few show every ground, hand and kind.
STRIDE = 7
# Of DiffStyler's LoRAs, of which every question needs another.
LEARNED = ("lora.steps=60", "lora.crop=center")
# References are looked at anew at every timestep, which the recipe does at every fourth.
EXACT = ("gallery.refresh=1",)
CLUSTERS = ("dfcc.segmenter=none", "dfcc.segment_distance=0.5")


class Quiet:
    """Tells nobody but of what is wrong."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing: tiny pictures are noisy, and the figures say so."""

    def task(self, label: str, total: int) -> Quiet:
        return self

    def advance(self, n: int = 1) -> None:
        """Nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


@dataclass
class Proof:
    """Questions of one size and seed, and where their figures are."""

    icons: Path
    work: Path
    px: int
    total: int
    seed: int
    photos: Path | None

    @cached_property
    def _sources(self) -> tuple[Drawn, list[list[Tensor]]]:
        read = glyphs.read_icons(self.icons)
        return families(read, held_out=True), list(read_photos(self.photos))

    def questions(self) -> Iterator[Question]:
        drawn, photos = self._sources
        for index in range(self.total):
            number = index * STRIDE % self.total
            yield ask(number, drawn, photos, self.px, seed=self.seed)

    def recipe(self, *settings: str) -> Recipe:
        """As it ships, for pictures of this size."""
        own = (f"sampling.size={self.px}", *LEARNED, f"lora.resolution={self.px}", *EXACT)
        return load.load("pocket-cpu", overrides=(*own, *settings)).recipe


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("icons", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=("regions", "pictures", "second", "table"), required=True)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="picture; for a second process")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--px", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--photos", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    proof = Proof(given.icons, given.work, given.px, given.scenes, given.seed, given.photos)
    end = time.monotonic() + 60 * given.minutes
    if given.part == "regions":
        regions(proof, end)
    elif given.part in ("pictures", "second"):
        painter = Painter(given.work, proof.recipe, Quiet())
        is_second = given.part == "second"
        paint = painter.paint_second if is_second else painter.paint
        asked = (one for one in proof.questions() if not is_second or len(one.references) > 1)
        for question in islice(asked, given.first, given.first + given.pictures):
            if time.monotonic() > end:
                break
            paint(question)
    else:
        backbone = Session.open(proof.recipe(), Quiet()).backbone

        @torch.inference_mode()
        def autoencode(picture: Tensor) -> Tensor:
            return backbone.decode(backbone.encode_image(picture[None]))[0].clamp(0, 1)

        gallery_table.write(given.work, HERE, proof.px, autoencode)


def regions(proof: Proof, end: float) -> None:
    """Rows of IoU and matches for every question, also with clusters as in the paper."""
    file = proof.work / "regions.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    known = {json.loads(line)["id"] for line in lines}
    recipes = {"objects": proof.recipe(), "clusters": proof.recipe(*CLUSTERS)}
    session = Session.open(recipes["objects"], Quiet())
    sight = Sight(session)
    for question in proof.questions():
        if question.id in known:
            continue
        if time.monotonic() > end:
            break
        scenes = [question.content, *question.references]
        seen = gallery_parts.see(session.backbone, scenes, recipes["objects"])
        row: dict[str, object] = {
            name: getattr(question, name) for name in ("id", "family", "kind", "ground")
        }
        row["things"] = len(question.content.things)
        for name, recipe in (*recipes.items(), ("true masks", recipes["objects"])):
            row[name] = gallery_parts.figures(
                question, seen, recipe, sight, with_truth=name == "true masks"
            )
        with file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
