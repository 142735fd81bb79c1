"""Features as colours: what each layer of each model sees, in three joint principal components."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import images, store
from stylecli.artifacts.files import to_json, write_atomic
from stylecli.artifacts.sheets import grid
from stylecli.engine.analysis.asked import Asked, Level
from stylecli.engine.analysis.observer import Observer
from stylecli.engine.analysis.subjects import Domain, Look, Subject
from stylecli.engine.contents import Canvas
from stylecli.engine.plan import Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.errors import OutputDiffersError
from stylecli.tensors.projection import Projection, joint_pca, unit_range

BASE = "base"
# Larger pictures are halved until they fit, so that twelve columns stay a sheet.
MAX_CELL_PX = 256
IN_WORDS: Mapping[Domain, str] = {"in": " (in domain)", "out": " (out of domain)", "": ""}

# By level and layer.
Projections = Mapping[tuple[Level, int], Projection]


@dataclass(frozen=True, slots=True)
class Colourist:
    """Makes the figure of one picture after another."""

    observer: Observer
    asked: Asked
    subjects: Mapping[str, Subject]
    overwrite: bool

    def make(self, job: Job) -> Mapping[str, Any]:
        """Write the numbers, the settings, and last the grid.

        Raises:
            ItemError: The picture cannot be read, the model gave no numbers, or a file is in the
                way that was made from something else.
        """
        beside = [job.output.with_suffix(suffix) for suffix in (".npz", ".json")]
        for file in beside:
            self._refuse_foreign(job, file)
        subject, observer = self.subjects[job.key], self.observer
        canvas = observer.open(job.content)
        features = observer.features(canvas, [look.part for look in subject.looks])
        found = {
            (level, layer): joint_pca(torch.stack([maps[layer] for maps in models]))
            for level, models in features.items()
            for layer in observer.places.layers
        }
        names = labels(subject.looks)
        recipe = recorded(observer.recipe, 1, observer.recipe.device)
        made_by = provenance(job, recipe, observer.backbone, analysis=self._settings(subject))
        write_atomic(beside[0], _archive(names, found, made_by))
        described = self._described(job, subject, found, made_by)
        write_atomic(beside[1], to_json(described).encode() + b"\n")
        sheet = drawn(canvas, _pictures(subject.looks), names, found)
        store.save_image(job.output, sheet, made_by)
        height, width = sheet.shape[:2]
        return {
            "height": height,
            "width": width,
            "levels": [str(level) for level in observer.places.levels],
        }

    def _settings(self, subject: Subject) -> dict[str, Any]:
        places = self.observer.places
        return {
            "kind": "pca",
            "levels": [[level.asked, level.timestep, level.step] for level in places.levels],
            "layers": list(places.layers),
            "tap": places.tap,
            "prompt": places.prompt,
            "domains": [look.domain for look in subject.looks],
        }

    def _described(
        self,
        job: Job,
        subject: Subject,
        found: Projections,
        made_by: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        output, recipe = job.output, self.observer.recipe
        contents = [subject.content.path.name] if subject.typed else []
        command = self.asked.line(recipe, contents, output.name)
        return {
            **({} if made_by is None else {store.KEY: made_by, "command": command}),
            "kind": "pca",
            "grid": output.name,
            "numbers": output.with_suffix(".npz").name,
            "models": labels(subject.looks),
            "tap": self.observer.places.tap,
            "prompt": self.observer.places.prompt,
            "maps": [
                {
                    "asked": level.asked,
                    "timestep": level.timestep,
                    "step": level.step,
                    "layer": layer,
                    "channels": one.components.shape[1],
                    "height": one.coordinates.shape[2],
                    "width": one.coordinates.shape[3],
                    "explained_variance": one.explained.tolist(),
                }
                for (level, layer), one in found.items()
            ],
        }

    def _refuse_foreign(self, job: Job, file: Path) -> None:
        """What lies beside the grid may be somebody's own."""
        if self.overwrite or job.redo or not file.exists():
            return
        if (_said_by(file) or {}).get("key") != job.key:
            raise OutputDiffersError(
                f"{file} exists and was made from something else",
                fix="use --overwrite, or another --output",
            )


def labels(looks: Sequence[Look]) -> list[str]:
    """What the rows of a figure are called, the base model first."""
    return [BASE, *(f"{look.part.look.path.stem}{IN_WORDS[look.domain]}" for look in looks)]


def drawn(
    canvas: Canvas,
    pictures: Sequence[Tensor | None],
    names: Sequence[str],
    found: Projections,
) -> Tensor:
    """The grid: a row for each level and model, a column for each layer, the picture beside them.

    Args:
        pictures: Of each LoRA, what it was learned from.
        names: Of the models, the base first.
    """
    levels = list(dict.fromkeys(level for level, _ in found))
    layers = list(dict.fromkeys(layer for _, layer in found))
    height, width = canvas.image.shape[-2:]
    while max(height, width) > MAX_CELL_PX:
        height, width = height // 2, width // 2
    shown = canvas.geometry.undo(canvas.image)[0]
    padded = canvas.geometry.padded
    cut = (height * shown.shape[1] // padded[0], width * shown.shape[2] // padded[1])

    def cell(colours: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 _h _w"]:
        large = F.interpolate(colours[None], (height, width), mode="nearest-exact")[0]
        return large[:, : cut[0], : cut[1]]

    beside = [_of_height(picture, cut[0]) for picture in (shown, *pictures)]
    rows: list[list[Tensor | None]] = []
    row_labels = []
    for level in levels:
        colours = [unit_range(found[level, layer].coordinates) for layer in layers]
        for model, name in enumerate(names):
            rows.append([beside[model], *(cell(one[model]) for one in colours)])
            row_labels.append(f"{name}, t {level.timestep}" if len(levels) > 1 else name)
    return grid(
        rows,
        row_labels=row_labels,
        column_labels=["picture", *(f"layer {layer}" for layer in layers)],
        title=f"Features of {Path(canvas.name).stem}, {'; '.join(map(str, levels))}",
        notes=["Three joint principal components of each column; equal colours, equal features."],
    )


def _of_height(picture: Tensor | None, height: int) -> Tensor | None:
    if picture is None:
        return None
    width = max(1, round(picture.shape[2] * height / picture.shape[1]))
    return images.scaled(picture, (height, width))


def _pictures(looks: Sequence[Look]) -> list[Tensor | None]:
    files = [look.part.look for look in looks]
    return [
        images.to_float(images.read(file.path).pixels) if file.role == "style" else None
        for file in files
    ]


def _archive(names: Sequence[str], found: Projections, made_by: Mapping[str, Any] | None) -> bytes:
    """Arrays by level and layer, such as ``t541_layer04_components``; no pickles in it."""
    arrays: dict[str, Any] = {"models": np.array(names)}
    if made_by is not None:
        arrays[store.KEY] = np.array(to_json(made_by))
    for (level, layer), one in found.items():
        stem = f"t{level.timestep}_layer{layer:02}"
        arrays[f"{stem}_components"] = one.components.numpy()
        arrays[f"{stem}_explained_variance"] = one.explained.numpy()
        arrays[f"{stem}_mean"] = one.mean.numpy()
        arrays[f"{stem}_coordinates"] = one.coordinates.float().numpy()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _said_by(file: Path) -> dict[str, Any] | None:
    """What made a file, as it says itself."""
    if file.suffix != ".npz":
        return store.read_provenance(file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            said = json.loads(str(arrays[store.KEY]))
    except Exception:  # a file from elsewhere may hold anything, and raise anything
        return None
    return said if isinstance(said, dict) else None
