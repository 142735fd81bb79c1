"""A tiny editor, experts of random numbers, and pictures for them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stylecli.backbone import registry
from stylecli.backbone.editors import opening
from stylecli.backbone.editors.base import Editor
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.route import experts
from stylecli.engine.route.applying.prepare import route_apply
from stylecli.engine.route.experts import Expert, Experts
from stylecli.engine.runs.making import Result
from stylecli.methods.regionroute.styles import PAPER, Style
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe
from tests import small, tiny
from tests.cli.conftest import draw
from tests.engine.jobs import Listener

TEXT_LENGTH = 77
CAT = "make the cat in pixel-art style, keep other area unchanged"
DOG = "make the dog in line-art style, keep other area unchanged"


@cache
def _folders() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    kept = tempfile.TemporaryDirectory()
    return kept, tiny.save_folder(Path(kept.name) / "editor", edits=True)


def folder() -> Path:
    """An InstructPix2Pix model of random numbers, made once per process."""
    return _folders()[1]


@cache
def editor() -> Editor:
    """The same, loaded; whoever changes it puts it back."""
    source = registry.find(str(folder()))
    return opening.open(
        source, folder(), fingerprint=fingerprint(), device=torch.device("cpu"), dtype=torch.float32
    )


@cache
def fingerprint() -> str:
    return opening.fingerprint(registry.find(str(folder())), folder())


@cache
def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder() / "unet")


def entry(style: Style = PAPER[0], **changes: Any) -> Expert:
    """What an index says of an expert of the tiny editor."""
    facts: dict[str, Any] = {
        "id": style.id,
        "phrase": style.phrase,
        "aliases": style.aliases,
        "rank": 4,
        "alpha": 4.0,
        "target_set": "attn",
        "base": {"name": "editor", "fingerprint": fingerprint()},
        "text_length": TEXT_LENGTH,
        "training": {"steps": 3},
    }
    return Expert(**(facts | changes))


def make_experts(
    place: Path, styles: Sequence[Style] = PAPER, *, size: float = 0.5, **changes: Any
) -> Experts:
    """A folder of experts, each of other numbers."""
    for seed, style in enumerate(styles, start=1):
        pairs = small.lora(_unet(), seed=seed, size=size)
        tensors = {f"unet.{name}": value for name, value in pairs.items()}
        experts.add(place, entry(style, **changes), tensors, {"format": "pt"})
    return experts.read(place)


def recipe(*instructions: str, **changes: Any) -> Recipe:
    """A recipe of few steps; dots in keys are written ``__``, and a key alone is of the section."""
    own = {
        key.replace("__", ".") if "__" in key else f"route.apply.{key}": value
        for key, value in changes.items()
    }
    flags = {
        "backbone.id": str(folder()),
        "device.name": "cpu",
        "route.apply.steps": 2,
        "route.apply.guidance": 3.0,
        "route.apply.size": 32,
        "route.apply.instruction": list(instructions) or None,
    }
    return load(flags={k: v for k, v in (flags | own).items() if v is not None}).recipe


class Desk:
    """Pictures in a folder, and what is made of them."""

    def __init__(self, place: Path) -> None:
        self.folder = place
        self.listener = Listener()
        sizes = [(48, 40), (40, 48), (48, 40)]
        self.contents = [
            draw(place / f"photo{i}.png", seed=i, size=size) for i, size in enumerate(sizes)
        ]
        self.experts = make_experts(place / "experts")

    def prepare(
        self,
        out: str,
        settings: Recipe | None = None,
        contents: Sequence[Path] = (),
        *,
        experts: Path | None = None,
        explain: bool = False,
        manifest: Path | None = None,
        **destination: Any,
    ) -> Prepared:
        named = [] if manifest else [str(path) for path in contents or self.contents[:1]]
        return route_apply(
            settings or recipe(CAT),
            Contents(arguments=named, manifest=manifest),
            Destination(output=str(self.folder / out) + "/" * ("." not in out), **destination),
            self.listener,
            experts=experts or self.folder / "experts",
            explain=explain,
        )

    def rows(self, settings: Recipe, *rows: dict[str, Any]) -> Prepared:
        """A manifest whose rows edit the first content, unless they name another."""
        file = self.folder / "jobs.jsonl"
        written = [
            {"content": "photo0.png", "output": f"{at}.png", **row} for at, row in enumerate(rows)
        ]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in written))
        return self.prepare("rows", settings, manifest=file)

    def make(
        self, out: str, settings: Recipe | None = None, *more: Any, **how: Any
    ) -> list[Result]:
        results = list(self.prepare(out, settings, *more, **how).run())
        for result in results:
            assert result.status in ("done", "skipped"), result.error
        return results

    def pixels(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.folder / name)).astype(int)
