"""What is known of pictures before any is restyled: looked at once, kept by what decided it.

Three tiers in the cache, each under its own settings and those of the tier before: what the model
sees, the regions it falls into, what these are compared by. A picture is known by its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import cache, images
from stylecli.backbone.model import Backbone
from stylecli.engine.contents import Canvas
from stylecli.engine.context import RunContext
from stylecli.engine.gallery.kept import Kept, Shelf
from stylecli.engine.gallery.paint import Paint
from stylecli.engine.gallery.sight import Sight
from stylecli.engine.trajectories import filled, together
from stylecli.methods.stylegallery.descriptors import Described, describe
from stylecli.methods.stylegallery.dfcc import Regions, Seen, divide, see
from stylecli.recipe.schema import Recipe
from stylecli.tensors.seeds import derive

LATENTS = ("clean", "noise")
# More of a picture that was swept up from fragments makes its regions noise.
MOST_MOVED = 0.25


@dataclass(frozen=True, slots=True)
class Sitter:
    """A picture that is to be looked at, and its regions where somebody painted them."""

    canvas: Canvas
    paint: Paint | None = None


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is kept of a picture in memory: a few hundred kilobytes, without its features.

    Attributes:
        name: Of its file.
        geometry: How the model came to see it.
        cells: Height and width of what is the picture's own of the labels, without the margin.
        colours: Mean colour of every region, in [0, 1].
    """

    name: str
    sha256: str
    geometry: images.Geometry
    cells: tuple[int, int]
    clean: Float[Tensor, "c h w"]
    noise: Float[Tensor, "c h w"]
    regions: Regions
    described: Described
    colours: Float[Tensor, "r 3"]


@dataclass(frozen=True, slots=True)
class _Identities:
    """All that decides each tier of one picture."""

    seen: dict[str, Any]
    regions: dict[str, Any]
    described: dict[str, Any]


class Analyst:
    """Looks at pictures through a model, and remembers in the cache."""

    def __init__(self, backbone: Backbone, context: RunContext, sight: Sight) -> None:
        self._backbone = backbone
        self._context = context
        self._sight = sight
        warn = context.reporter.warn
        self._seen = Shelf(cache.SEEN, warn)
        self._regions = Shelf(cache.REGIONS, warn)
        self._described = Shelf(cache.DESCRIBED, warn)

    def analyse(
        self,
        sitters: Sequence[Sitter],
        recipe: Recipe,
        networks: dict[str, object],
        rows: int = 1,
    ) -> list[Analysis]:
        """Look at pictures of one size.

        Args:
            sitters: At most `rows` of them.
            recipe: Of these pictures.
            networks: Identity of those that `Sight` uses for the recipe.
            rows: The model always sees so many, the last one filling up, so that results do not
                depend on which others there are.

        Raises:
            ItemError: The model returned NaN or infinity.
            WeightsError: A network is not on this machine.
        """
        identities = [self._identities(one, recipe, networks, rows) for one in sitters]
        regions = [self._regions.find(one.regions) for one in identities]
        described = [self._described.find(one.described) for one in identities]
        # Features are large, and of no use to those whose regions are known.
        needs = [None in both for both in zip(regions, described, strict=True)]
        seen = self._look(sitters, identities, needs, recipe, rows)
        found = []
        for at, sitter in enumerate(sitters):
            cut, told = regions[at], described[at]
            own = _as_regions(cut) if cut else self._cut(sitter, seen[at], recipe, identities[at])
            if sitter.paint and (lost := sitter.paint.lost(own.of_paint)):
                self._context.reporter.warn(f"{sitter.canvas.name}: {lost}")
            if own.moved > MOST_MOVED:
                self._context.reporter.warn(
                    f"{sitter.canvas.name}: noisy segmentation, {own.moved:.0%} of it was fragments"
                )
            compared = (
                _as_described(told)
                if told
                else self._describe(sitter, seen[at], own, recipe, networks, identities[at])
            )
            found.append(self._analysis(sitter, seen[at], own, compared))
        return found

    def _look(
        self,
        sitters: Sequence[Sitter],
        identities: Sequence[_Identities],
        needs: Sequence[bool],
        recipe: Recipe,
        rows: int,
    ) -> list[Seen]:
        """What the model sees of each; without features where none are needed and some are kept."""
        found = [
            _as_seen(self._seen.find(one.seen, None if is_needed else LATENTS))
            for one, is_needed in zip(identities, needs, strict=True)
        ]
        # The same picture may be there twice.
        missing: dict[str, list[int]] = {}
        for at, one in enumerate(found):
            if one is None:
                missing.setdefault(sitters[at].canvas.sha256, []).append(at)
        if missing:
            first = [places[0] for places in missing.values()]
            made = self._see([sitters[at].canvas for at in first], recipe, rows)
            for places, one in zip(missing.values(), made, strict=True):
                tensors = {
                    "clean": one.clean,
                    "noise": one.noise,
                    "features": one.features.half(),
                }
                self._seen.keep(identities[places[0]].seen, tensors, {})
                for at in places:
                    found[at] = one
        return [one for one in found if one is not None]

    def _see(self, canvases: Sequence[Canvas], recipe: Recipe, rows: int) -> list[Seen]:
        name = together([canvas.name for canvas in canvases])
        images = torch.cat([canvas.image for canvas in filled(canvases, rows)])
        with self._context.reporter.task(f"look at {name}", recipe.dfcc.steps) as task:
            return see(self._backbone, images, recipe.dfcc, on_step=lambda: task.advance(1))[
                : len(canvases)
            ]

    def _cut(self, sitter: Sitter, seen: Seen, recipe: Recipe, known: _Identities) -> Regions:
        canvas, paint = sitter.canvas, sitter.paint
        picture = canvas.image[0]
        found = divide(
            seen,
            recipe.dfcc,
            seed=known.regions["seed"],
            depth=self._sight.depth(picture, recipe),
            segments=self._sight.segments(picture, recipe, seen=seen, seed=known.regions["seed"]),
            painted=None if paint is None else paint.at(canvas.geometry),
        )
        tensors = {"labels": found.labels}
        if found.depth is not None:
            tensors["depth"] = found.depth
        facts = {
            "scores": [[k, score] for k, score in found.scores.items()],
            "moved": found.moved,
            "painted": list(found.painted),
            "of_paint": [[number, region] for number, region in found.of_paint.items()],
        }
        self._regions.keep(known.regions, tensors, facts)
        return found

    def _describe(
        self,
        sitter: Sitter,
        seen: Seen,
        regions: Regions,
        recipe: Recipe,
        networks: dict[str, object],
        known: _Identities,
    ) -> Described:
        canvas = sitter.canvas
        semantics = self._sight.semantics(
            canvas.image[0],
            regions.labels,
            recipe,
            pixels=None if canvas.picture is None else canvas.picture.pixels,
        )
        found = describe(
            seen,
            regions.labels,
            recipe.matching.model_copy(update={"semantics": networks["semantics"]}),
            semantics=semantics,
        )
        tensors = {"circles": found.circles}
        if found.statistics is not None:
            tensors["statistics"] = found.statistics
        if found.semantics is not None:
            tensors["semantics"] = found.semantics
        self._described.keep(known.described, tensors, {})
        return found

    def _analysis(
        self, sitter: Sitter, seen: Seen, regions: Regions, described: Described
    ) -> Analysis:
        canvas, px = sitter.canvas, self._backbone.latent_px
        rows, columns = (-(-side // px) for side in canvas.geometry.resized)
        return Analysis(
            name=canvas.name,
            sha256=canvas.sha256,
            geometry=canvas.geometry,
            cells=(rows, columns),
            clean=seen.clean,
            noise=seen.noise,
            regions=regions,
            described=described,
            colours=_colours(canvas, regions, px),
        )

    def _identities(
        self, sitter: Sitter, recipe: Recipe, networks: dict[str, object], rows: int
    ) -> _Identities:
        backbone, canvas, dfcc = self._backbone, sitter.canvas, recipe.dfcc
        seen = {
            "model": backbone.fingerprint,
            **backbone.precision,
            "device": backbone.device.type,
            "scheduler": dict(backbone.schedule.config),
            "scaling_factor": backbone.scaling_factor,
            "picture_sha256": canvas.sha256,
            "geometry": canvas.geometry.as_dict(),
            "dfcc": {"steps": dfcc.steps, "block": dfcc.block},
            # Batches of other sizes may differ in the last bit, and a result is to be made again.
            **({"rows": rows} if rows > 1 else {}),
            **({"tuned": dict(backbone.tuned)} if backbone.tuned else {}),
        }
        own = dfcc.model_dump(mode="json", exclude={"steps", "block", "depth", "segmenter"})
        if sitter.paint is None:
            del own["mask_mode"]
        regions = {
            "seen": seen,
            "dfcc": own,
            "depth": networks["depth"],
            "segmenter": networks["segmenter"],
            "mask": None if sitter.paint is None else sitter.paint.sha256(),
            # Of the picture, so that neither its name nor its place in a list decides anything.
            "seed": derive(recipe.sampling.seed, canvas.sha256),
        }
        compared = ("statistics", "features", "semantics_view", "circle")
        described = {
            "regions": regions,
            "matching": recipe.matching.model_dump(mode="json", include=set(compared)),
            "semantics": networks["semantics"],
            "weights": networks["weights"],
        }
        return _Identities(seen, regions, described)


def _as_seen(kept: Kept | None) -> Seen | None:
    """With features of no width where they were not read."""
    if kept is None or not {*LATENTS} <= kept.tensors.keys():
        return None
    clean, noise = (kept.tensors[name] for name in LATENTS)
    features = kept.tensors.get("features")
    return Seen(clean, noise, clean[:0] if features is None else features.float())


def _as_regions(kept: Kept) -> Regions:
    facts: dict[str, Any] = dict(kept.facts)
    return Regions(
        labels=kept.tensors["labels"],
        scores=dict(facts["scores"]),
        depth=kept.tensors.get("depth"),
        moved=facts["moved"],
        painted=tuple(facts["painted"]),
        of_paint=dict(facts["of_paint"]),
    )


def _as_described(kept: Kept) -> Described:
    tensors = kept.tensors
    return Described(tensors.get("statistics"), tensors.get("semantics"), tensors["circles"])


def _colours(canvas: Canvas, regions: Regions, px: int) -> Float[Tensor, "r 3"]:
    cells = F.avg_pool2d(canvas.image, px)[0].flatten(1).T.float()
    labels = regions.labels.flatten() - 1
    sums = torch.zeros(int(labels.max()) + 1, 3).index_add_(0, labels, cells)
    return sums / torch.bincount(labels)[:, None]
