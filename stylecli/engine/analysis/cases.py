"""How near the features of one picture stay to the base model's, LoRA by LoRA."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from stylecli.artifacts import store
from stylecli.artifacts.files import to_json, write_atomic
from stylecli.engine.analysis.asked import Level
from stylecli.engine.analysis.observer import Maps, Observer
from stylecli.engine.analysis.subjects import Domain, Subject
from stylecli.engine.plan import Job
from stylecli.engine.provenance import provenance, recorded
from stylecli.errors import ItemError
from stylecli.tensors.projection import cosine_by_position, cosine_flat

Metric = Literal["position", "flat"]
METRICS: tuple[Metric, ...] = get_args(Metric)
COSINES = {"position": cosine_by_position, "flat": cosine_flat}


@dataclass(frozen=True, slots=True)
class Cell:
    """Where in the model a cosine was taken, and how."""

    level: Level
    layer: int
    metric: Metric


@dataclass(frozen=True, slots=True)
class Case:
    """One picture under one LoRA.

    Attributes:
        picture: Digest of its file, which tells it from others.
        lora: Likewise, of the LoRA or of the picture it was learned from.
        lora_name: Of its file, without suffix.
    """

    picture: str
    lora: str
    lora_name: str
    domain: Domain
    cosines: Mapping[Cell, float]


@dataclass(frozen=True, slots=True)
class Assessor:
    """Measures one picture after another."""

    observer: Observer
    subjects: Mapping[str, Subject]

    def make(self, job: Job) -> Mapping[str, Any]:
        """Write the cosines of one picture.

        Raises:
            ItemError: It cannot be read, or the model gave no numbers.
        """
        subject, observer = self.subjects[job.key], self.observer
        canvas = observer.open(job.content)
        features = observer.features(canvas, [look.part for look in subject.looks])
        looks = []
        for number, look in enumerate(subject.looks, start=1):
            measured = [
                _entry(cell, value)
                for level, models in features.items()
                for cell, value in _compared(level, models[0], models[number])
            ]
            key = look.key
            looks.append(
                {
                    "name": look.part.look.path.stem,
                    "sha256": store.digest(key) if key[1] else key[0],
                    "domain": look.domain,
                    "cosines": measured,
                }
            )
        places = observer.places
        settings = {"kind": "similarity", "tap": places.tap, "prompt": places.prompt}
        recipe = recorded(observer.recipe, 1, observer.recipe.device)
        made_by = provenance(job, recipe, observer.backbone, analysis=settings)
        written = {
            **({} if made_by is None else {store.KEY: made_by}),
            "picture": job.content.sha256,
            "looks": looks,
        }
        write_atomic(job.output, to_json(written).encode() + b"\n")
        return {"looks": len(looks), "levels": [str(level) for level in places.levels]}


def read(path: Path) -> list[Case]:
    """The cases of one picture's file.

    Raises:
        ItemError: It is not whole.
    """
    try:
        said = json.loads(path.read_bytes())
        return [
            Case(
                picture=said["picture"],
                lora=look["sha256"],
                lora_name=look["name"],
                domain=look["domain"],
                cosines={
                    Cell(
                        Level(one["asked"], one["timestep"], one["step"]),
                        one["layer"],
                        one["metric"],
                    ): float(one["value"])
                    for one in look["cosines"]
                },
            )
            for look in said["looks"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ItemError(
            f"{path} cannot be read as the cosines of a picture", fix="remove it, and run again"
        ) from error


def _compared(level: Level, base: Maps, other: Maps) -> Iterator[tuple[Cell, float]]:
    for layer, maps in base.items():
        for metric in METRICS:
            yield Cell(level, layer, metric), COSINES[metric](maps, other[layer])


def _entry(cell: Cell, value: float) -> dict[str, Any]:
    level = cell.level
    return {
        "asked": level.asked,
        "timestep": level.timestep,
        "step": level.step,
        "layer": cell.layer,
        "metric": cell.metric,
        "value": value,
    }


def pooled(files: Sequence[Path]) -> list[Case]:
    """The cases of all pictures.

    Raises:
        ItemError: A file is not whole.
    """
    return [case for file in files for case in read(file)]
