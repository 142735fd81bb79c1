"""One question painted in every way that the proof compares; what is there is not painted again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gallery_parts import true_labels
from gallery_scenes import Question
from PIL import Image, ImageColor
from torch import Tensor

from stylecli.artifacts.images import to_pixels
from stylecli.engine import restyle
from stylecli.engine.context import Reporter
from stylecli.engine.gallery.prepare import gallery
from stylecli.engine.request import Contents, Destination
from stylecli.recipe.schema import Recipe
from stylecli.tensors.scenes import Scene

Recipes = Callable[..., Recipe]
# Names of colours, so that a thing can be told by one on the command line.
COLOURS = ("red", "lime", "blue", "yellow", "magenta")
OTHERS = ("styleid", "attn-distill", "diffstyler")
PAINTED = ("gallery.mask={work}/mask.png", "gallery.ref_masks={work}/ref1-mask.png")
ONLY = "true masks, one thing"
# Way -> settings; the empty one is the recipe as it ships.
WAYS: Mapping[str, Sequence[str]] = {
    "gallery": (),
    "true masks": (*PAINTED, "dfcc.mask_mode=only"),
    ONLY: (*PAINTED, "dfcc.mask_mode=only", "gallery.only=[{colour}]"),
    "without RSL": ("gallery.style_weight=0",),
    "without GCL": ("gallery.content_weight=0",),
    "without masks": ("gallery.masks=false",),
    "content_weight 0.22": ("gallery.content_weight=0.22",),
    "content_weight 0.29": ("gallery.content_weight=0.29",),
    "clusters": ("dfcc.segmenter=none", "dfcc.segment_distance=0.5"),
}
# With a second reference that shows what the first lacks -> the same without it.
SECOND: Mapping[str, str] = {
    "two references": "gallery",
    "two references, true masks": "true masks",
}
PAINTED_TWO = (PAINTED[0], "gallery.ref_masks={work}/{{style}}-mask.png", "dfcc.mask_mode=only")


@dataclass(frozen=True, slots=True)
class Painter:
    """Runs the engine as the command line does, one content and its references at a time."""

    work: Path
    recipe: Recipes
    reporter: Reporter

    def paint(self, question: Question) -> None:
        """Draw the question, then every way of it."""
        folder = self._draw(question)
        for way in WAYS:
            self._first(question, folder, way)
        for method in OTHERS:
            if not (folder / f"{method}.png").exists():
                run = restyle.transfer(
                    self.recipe(f"sampling.method={method}"),
                    Contents(arguments=[str(folder / "content.png")]),
                    Destination(output=str(folder / f"{method}.png")),
                    self.reporter,
                    styles=[str(folder / "ref1.png")],
                )
                _finish(run.run())

    def paint_second(self, question: Question) -> None:
        """Draw the question, then with one reference and with both."""
        folder = self._draw(question)
        refs = [folder / f"ref{index + 1}.png" for index in range(len(question.references))]
        settings = [value.format(work=folder) for value in PAINTED_TWO]
        for (way, first), own in zip(SECOND.items(), ([], settings), strict=True):
            self._first(question, folder, first)
            self._gallery(folder, way, own, refs)

    def _first(self, question: Question, folder: Path, way: str) -> None:
        """A way with the first reference alone."""
        colour = COLOURS[len(question.content.things) - 1]
        settings = [value.format(work=folder, colour=colour) for value in WAYS[way]]
        self._gallery(folder, way, settings, [folder / "ref1.png"])

    def _gallery(
        self, folder: Path, way: str, settings: Sequence[str], refs: Sequence[Path]
    ) -> None:
        output = folder / f"{way}.png"
        if output.exists():
            return
        run = gallery(
            self.recipe(*settings),
            Contents(arguments=[str(folder / "content.png")]),
            Destination(output=str(output)),
            self.reporter,
            refs=[str(ref) for ref in refs],
        )
        _finish(run.run())

    def _draw(self, question: Question) -> Path:
        folder = self.work / question.id
        folder.mkdir(exist_ok=True)
        shown = {"content": question.content, "answer": question.answer}
        shown |= {f"ref{index + 1}": one for index, one in enumerate(question.references)}
        for name, scene in shown.items():
            _save(folder / f"{name}.png", to_pixels(scene.picture))
        _save(folder / "mask.png", _painted(question.content))
        for index, one in enumerate(question.references):
            _save(folder / f"ref{index + 1}-mask.png", _painted(one))
        _save(folder / "answer-mask.png", _painted(question.answer))
        return folder


def _painted(scene: Scene) -> Tensor:
    rgb = [(0, 0, 0), *(ImageColor.getrgb(name) for name in COLOURS)]
    return torch.tensor(rgb, dtype=torch.uint8)[true_labels(scene)]


def _save(path: Path, pixels: Tensor) -> None:
    Image.fromarray(pixels.numpy()).save(path)


def _finish(results: object) -> None:
    for result in results:  # type: ignore[attr-defined]
        if result.status == "failed":
            raise SystemExit(f"{result.job.output}: {result.error}")
