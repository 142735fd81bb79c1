"""`style masks`: regions of pictures from words, places or clustering, as files to reuse and edit.

The JSON of a picture is its output: written last, so its presence says that the masks are there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stylecli import __version__
from stylecli.artifacts import files, images, sheets, store
from stylecli.artifacts.masks import mask_pixels
from stylecli.engine import plan
from stylecli.engine.contents import read_content
from stylecli.engine.context import Reporter
from stylecli.engine.mask_backends import Finder, checked, full
from stylecli.engine.places import Asked
from stylecli.engine.plan import Input, Job, Wanted
from stylecli.engine.provenance import SCHEMA_VERSION, named
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.runs.making import Maker, OneByOne
from stylecli.engine.session import Session
from stylecli.errors import ItemError, OutputDiffersError, UsageError
from stylecli.masks.base import MaskResult
from stylecli.masks.choose import choose, matching, nothing_matches
from stylecli.masks.hub import shown
from stylecli.recipe.schema import Recipe

MASKS_NAME = "{content}.json"
MAX_SLUG = 40


@dataclass(frozen=True, slots=True)
class Region:
    """One mask to be written; `part` is what its file's name adds to the picture's."""

    part: str
    found: MaskResult

    @property
    def label(self) -> str:
        return f"{self.found.prompt or self.part} {self.found.score:.2f}"


def masks(
    recipe: Recipe,
    contents: Contents,
    destination: Destination,
    reporter: Reporter,
    *,
    asked: Asked,
    every: bool = False,
    allow_download: bool = False,
) -> Prepared:
    """Every content's regions.

    Args:
        every: All that each of the words finds, not the one that `masks.select` says.

    Raises:
        UsageError: No such backend, masks that collide, or a file for several masks.
        InputError: Inputs that do not exist.
        WeightsError: The backbone is not on this machine.
    """
    rows = contents.plain_rows(destination.path)
    session = Session.open(recipe, reporter, allow_download=allow_download)
    finder = Finder(session, everything=asked.everything, allow_download=allow_download)
    is_file = destination.is_file(len(rows), from_manifest=contents.manifest is not None)
    if is_file and (every or len(_parts(asked)) != 1):
        raise UsageError(
            f"--output {destination.output} is a file, but there may be several masks",
            fix=f"a slash makes it a folder: -o {destination.path.with_suffix('')}/; "
            "or give one --text, without --all",
        )
    planned = plan.build(
        "masks",
        [Wanted([Input.of_content(row.content)], row.output, folder=row.folder) for row in rows],
        decisive={"asked": asked.as_dict(), "every": every, **finder.identity()},
        seed=recipe.sampling.seed,
        output=destination.path,
        name=destination.name or MASKS_NAME,
        is_file=is_file,
        suffixes=(".png",) if is_file else (".json",),
        sheet=None if is_file else "overlay",
        strip=destination.strip,
    )
    if not is_file:
        _refuse_collisions(planned.jobs, _parts(asked))

    def start() -> Maker:
        # One that cannot do it is refused before any item.
        _ = finder.points() if asked.at_places else finder.backend
        maker = Cutter(finder, asked, every=every, overwrite=destination.overwrite)
        return OneByOne(maker.keep_one if is_file else maker.keep)

    return Prepared(
        plan=plan.shard(planned, destination.part),
        session=session,
        destination=destination,
        rows={},
        start=start,
    )


class Cutter:
    """Finds and writes the regions of one picture after another."""

    def __init__(self, finder: Finder, asked: Asked, *, every: bool, overwrite: bool) -> None:
        self.finder = finder
        self.asked = asked
        self.every = every
        self.overwrite = overwrite

    def keep(self, job: Job) -> Mapping[str, Any]:
        """Write every mask, the overlay, and last the JSON that lists them.

        Raises:
            ItemError: The picture cannot be read, nothing matches, a place lies outside, or a mask
                is there that was made from something else.
        """
        picture = _read(job.content)
        regions = self._regions(job, picture)
        targets = [_mask_file(job.output, region.part) for region in regions]
        for target in targets:
            self._refuse_foreign(job, target)
        made_by = self._made_by(job)
        entries = []
        for region, target in zip(regions, targets, strict=True):
            entry = _entry(region)
            pixels = mask_pixels(region.found.mask)
            said = None if made_by is None else made_by | {"region": entry}
            store.save_image(target, pixels, said)
            entries.append(entry | {"file": target.name})
        if job.sheet is not None:
            drawn = sheets.overlay(
                images.to_float(torch.from_numpy(np.array(picture))),
                [one.found.mask for one in regions],
                [one.label for one in regions],
            )
            store.save_image(job.sheet, images.to_pixels(drawn), made_by)
        listing = {
            **({} if made_by is None else {store.KEY: made_by}),
            "picture": {
                **({} if job.strip else {"name": job.content.path.name}),
                "width": picture.width,
                "height": picture.height,
            },
            **self.finder.described(),
            "regions": entries,
        }
        files.write_atomic(job.output, files.to_json(listing).encode() + b"\n")
        return _figures(regions)

    def keep_one(self, job: Job) -> Mapping[str, Any]:
        """Write the one mask there is.

        Raises:
            ItemError: As for `keep`; also where `masks.on_empty` skips what is not there, since
                nothing would be written.
        """
        regions = self._regions(job, _read(job.content))
        if not regions:
            raise ItemError(
                f"{job.content.path}: nothing matches, so there is no mask to write",
                fix="try other words, or --set masks.on_empty=full",
            )
        made_by = self._made_by(job)
        said = None if made_by is None else made_by | {"region": _entry(regions[0])}
        store.save_image(job.output, mask_pixels(regions[0].found.mask), said)
        return _figures(regions)

    def _regions(self, job: Job, picture: Image.Image) -> list[Region]:
        asked, name = self.asked, str(job.content.path)
        asked.check(name, *picture.size)
        backend = self.finder.backend
        if asked.texts:
            return self._named(name, picture)
        if asked.at_places:
            found = self.finder.points().segment_at(picture, points=asked.points, boxes=asked.boxes)
        else:
            found = backend.segment(picture, [])
        results = checked(found, picture)
        if not results:
            raise ItemError(f"{name}: nothing was found", fix="try another --backend")
        parts = _parts(asked) or [f"region-{i}" for i in range(1, len(results) + 1)]
        if len(parts) != len(results):
            # An empty one was left out, and nobody can tell which.
            parts = [f"place-{i}" for i in range(1, len(results) + 1)]
        return [Region(part, one) for part, one in zip(parts, results, strict=True)]

    def _named(self, name: str, picture: Image.Image) -> list[Region]:
        """What each of the words names; they are asked for together, and chosen apart."""
        settings, texts = self.finder.settings, self.asked.texts
        results = checked(self.finder.backend.segment(picture, list(texts)), picture)
        regions = []
        for text, part in zip(texts, _parts(self.asked), strict=True):
            own = [one for one in results if one.prompt == text]
            if self.every:
                chosen = matching(own, settings)
            else:
                best = choose(own, settings)
                chosen = [] if best is None else [best]
            if not chosen and settings.on_empty == "error":
                raise nothing_matches(name, text, own, settings)
            if not chosen and settings.on_empty == "full":
                chosen = [full(picture, text)]
            for number, one in enumerate(chosen, start=1):
                regions.append(Region(f"{part}-{number}" if self.every else part, one))
        return regions

    def _refuse_foreign(self, job: Job, target: Path) -> None:
        """A mask that somebody edited by hand is not painted over."""
        if self.overwrite or job.redo or not target.exists():
            return
        if (store.read_provenance(target) or {}).get("key") != job.key:
            raise OutputDiffersError(
                f"{target} exists and was made from something else",
                fix="use --overwrite, or another --output",
            )

    def _made_by(self, job: Job) -> dict[str, Any] | None:
        """What every file says of itself: no folder, no user name, no time."""
        if job.strip:
            return None
        libraries = ("torch", "transformers", "diffusers")
        session = self.finder.session
        settings = self.finder.settings.model_dump(mode="json")
        for key in ("model", "segmenter"):
            settings[key] = settings[key] and shown(settings[key])
        return {
            "schema_version": SCHEMA_VERSION,
            "command": job.command,
            "key": job.key,
            "recipe": {
                "backbone": {"id": Path(session.source.name).name},
                "device": {
                    "name": session.context.device.type,
                    "dtype": str(session.context.dtype).removeprefix("torch."),
                },
                "masks": settings,
                "sampling": {"seed": session.recipe.sampling.seed},
            },
            "asked": self.asked.as_dict(),
            "every": self.every,
            "seed": job.seed,
            "versions": {"stylecli": __version__} | {name: version(name) for name in libraries},
            "inputs": [named(item) for item in job.inputs],
            "finder": self.finder.described() | self.finder.identity(),
        }


def _parts(asked: Asked) -> list[str]:
    """What the names of the masks add to the picture's, as far as it is known before finding."""
    if asked.texts:
        wanted = [_slug(text) for text in asked.texts]
        seen: Counter[str] = Counter()
        parts = []
        for slug in wanted:
            seen[slug] += 1
            parts.append(slug if seen[slug] == 1 else f"{slug}-{seen[slug]}")
        return parts
    points = ["points"] if asked.points else []
    return points + [f"box-{i}" for i in range(1, len(asked.boxes) + 1)]


def _slug(text: str) -> str:
    """Words as part of a file's name.

    >>> _slug("The red deer!"), _slug("?")
    ('the-red-deer', 'words')
    """
    return "-".join(re.findall(r"\w+", text.lower()))[:MAX_SLUG] or "words"


def _mask_file(output: Path, part: str) -> Path:
    return output.with_name(f"{output.stem}__{part}.png")


def _refuse_collisions(jobs: Sequence[Job], parts: Sequence[str]) -> None:
    """`plan.build` knows nothing of the masks beside each JSON."""
    inputs = {job.content.path.resolve() for job in jobs}
    seen: dict[Path, Job] = {}
    for job in jobs:
        for part in parts:
            target = _mask_file(job.output, part)
            if target.resolve() in inputs:
                raise UsageError(f"{target} is one of the inputs", fix="write to another folder")
            if target in seen:
                raise UsageError(
                    f"{job.content.path} and {seen[target].content.path} would both write {target}",
                    fix="use --name with {key}",
                )
            seen[target] = job


def _read(item: Input) -> Image.Image:
    return Image.fromarray(read_content(item).pixels.numpy())


def _entry(region: Region) -> dict[str, Any]:
    found = region.found
    area = float(found.mask.sum())
    return {
        "prompt": found.prompt,
        "score": round(found.score, 6),
        "boxes": [[round(edge, 2) for edge in box] for box in found.boxes],
        "area_px": round(area, 1),
        "area_share": round(area / found.mask.numel(), 6),
        "detail": dict(found.detail),
    }


def _figures(regions: Sequence[Region]) -> dict[str, Any]:
    return {"masks": len(regions), "scores": [round(one.found.score, 4) for one in regions]}
