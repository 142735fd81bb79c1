"""Mask backends with all that they need, and the rules for what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts.images import to_pixels
from stylecli.engine import metric_weights
from stylecli.engine.plan import Input
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.session import Session
from stylecli.errors import UsageError, WeightsError
from stylecli.evaluation import published, weights
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.masks import registry
from stylecli.masks.base import MaskBackend, MaskResult, PointsBackend, Ranker, Setup
from stylecli.masks.choose import choose, nothing_matches
from stylecli.masks.hub import shown
from stylecli.recipe.finding import Masks

# These shape a mask where it is used; what is found, and written, can be used with any of them.
OF_USE = {"invert", "dilate_px", "feather_px", "resize"}
RANKER = "clip-b32"
# What cosines count for: as CLIP was trained; pocket-clip's was fitted on scenes of its own.
OF_CLIP, SHARPNESS = 100.0, {"pocket-clip": 30.0}
CROPS_PER_BATCH = 16


class Finder:
    """A backend that is known by name, and made when it is first used.

    Attributes:
        settings: The section ``masks`` with *auto* replaced.
    """

    def __init__(
        self, session: Session, *, everything: bool = False, allow_download: bool = False
    ) -> None:
        """Settle who finds, loading nothing.

        Args:
            everything: Nothing in particular will be asked for; *auto* then is clustering.

        Raises:
            UsageError: No such backend.
        """
        given = session.recipe.masks
        name = registry.resolve(given.backend, session.source)
        if everything and given.backend == registry.AUTO:
            name = registry.CLUSTERS
        self.settings = given.model_copy(update={"backend": name})
        self.session = session
        self._allow_download = allow_download
        self._backend: MaskBackend | None = None

    @property
    def name(self) -> str:
        return self.settings.backend

    @property
    def backend(self) -> MaskBackend:
        """Made on first use, and announced with its licence.

        Raises:
            UsageError: A package is missing, or a plug-in is broken.
        """
        if self._backend is None:
            context = self.session.context
            self._backend = registry.create(
                Setup(
                    settings=self.settings,
                    device=context.device,
                    dtype=context.dtype,
                    backbone=lambda: self.session.backbone,
                    ranker=self._ranker,
                    sharpness=SHARPNESS.get(self._ranker_name, OF_CLIP),
                    seed=self.session.recipe.sampling.seed,
                    allow_download=self._allow_download,
                )
            )
            context.reporter.note(self._announcement())
        return self._backend

    def points(self) -> PointsBackend:
        """The backend, which has to find by places too.

        Raises:
            UsageError: It does not.
        """
        backend = self.backend
        if not isinstance(backend, PointsBackend):
            raise UsageError(
                f"{self.name} finds by words alone, not at points or in boxes",
                fix=f"use --backend {registry.GROUNDED_SAM2} or {registry.CLUSTERS}",
            )
        return backend

    def close(self) -> None:
        """Let go of the backend's networks, where it knows how."""
        close = getattr(self._backend, "close", None)
        if close is not None:
            close()

    def identity(self) -> dict[str, Any]:
        """What decides the finds beside the picture, for keys: settings, weights, the model.

        Weights of the hub count by name; those in a folder of the user's by their bytes.

        Raises:
            InputError: A folder cannot be read.
        """
        named = {name: identity(name) for name in registry.models(self.settings)}
        settings = self.settings.model_dump(exclude=OF_USE)
        found: dict[str, Any] = {"masks": settings, "models": list(named.values())}
        for key in ("model", "segmenter"):
            if settings[key] is not None:
                settings[key] = named[settings[key]]
        if registry.uses_backbone(self.name):
            found |= {"model": self.session.fingerprint, **self.session.precision}
        return found

    def described(self) -> dict[str, Any]:
        """Backend, licence and weights, for files: no folder of this machine."""
        return {
            "backend": self.name,
            "licence": registry.licence(self.backend, self.settings),
            "models": self._models(),
        }

    def _models(self) -> list[str]:
        named = [shown(name) for name in registry.models(self.settings)]
        if registry.uses_backbone(self.name):
            named.append(shown(self.session.source.name))
        return named

    def _announcement(self) -> str:
        weights_ = ", ".join(self._models())
        licence = registry.licence(self.backend, self.settings)
        return f"regions by {self.name} ({licence}) with {weights_}"

    def _ranker(self) -> Ranker:
        return ranker(
            self._ranker_name,
            self.session.context.device,
            allow_download=self._allow_download,
        )

    @property
    def _ranker_name(self) -> str:
        """Clusters of a model are ranked by what the registry says; all else by CLIP ViT-B/32."""
        return self.session.source.ranker if self.name == registry.CLUSTERS else RANKER


def identity(name: str) -> str:
    """What stands for a network in keys: a hub id, or the digest of a user's file or folder.

    Raises:
        InputError: It cannot be read.
    """
    place = Path(name).expanduser()
    return Input.of("mask", place).sha256 if place.exists() else name


def find_mask(
    backend: MaskBackend, picture: Image.Image, words: str, settings: Masks, *, name: str
) -> MaskResult | None:
    """The one region that words name in a picture, as `masks.select` and `masks.on_empty` have it.

    Args:
        picture: RGB.
        name: Of the picture, for messages.

    Returns:
        None where nothing matches and `masks.on_empty` is *skip*; all of the picture where it is
        *full*.

    Raises:
        ItemError: Nothing matches, and that is an error.
        UsageError: A plug-in's mask is not of the picture's size.
    """
    results = checked(backend.segment(picture, [words]), picture)
    chosen = choose(results, settings)
    if chosen is not None:
        return chosen
    if settings.on_empty == "error":
        raise nothing_matches(name, words, results, settings)
    return None if settings.on_empty == "skip" else full(picture, words)


def full(picture: Image.Image, words: str) -> MaskResult:
    """All of a picture, where nothing in it matched."""
    size = (picture.height, picture.width)
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    return MaskResult(mask=torch.ones(size), score=0.0, prompt=words, boxes=(box,))


def checked(results: Sequence[MaskResult], picture: Image.Image) -> list[MaskResult]:
    """The same, every mask being one of the picture.

    Raises:
        UsageError: One is of another size; a plug-in that errs so does it with every picture.
    """
    for one in results:
        height, width = one.mask.shape
        if (width, height) != picture.size:
            raise UsageError(
                f"the backend's mask is {width}x{height}, but the picture is "
                f"{picture.width}x{picture.height}",
                fix="mend the plug-in, or use another --backend",
            )
    return list(results)


def ranker(name: str, device: torch.device, *, allow_download: bool = False) -> Ranker:
    """A text-image model of the metrics as what compares crops with words.

    Raises:
        WeightsError: Its weights are not on this machine.
    """
    networks = Networks(network_files(name, allow_download), device)
    prepare = PREPROCESS[NETWORKS[name].shown].apply

    def rank(crops: Sequence[Tensor], texts: Sequence[str]) -> Float[Tensor, "crops texts"]:
        shown_ = [prepare(to_pixels(crop)) for crop in crops]
        vectors = [
            networks.embed(name, torch.stack(shown_[i : i + CROPS_PER_BATCH]))
            for i in range(0, len(shown_), CROPS_PER_BATCH)
        ]
        words = torch.cat([networks.text(name, text) for text in texts])
        return torch.cat(vectors) @ words.T

    networks.get(name)  # missing weights are told of now
    return rank


def network_files(name: str, allow_download: bool) -> Mapping[str, Path]:
    found = {}
    for need in NETWORKS[name].needs:
        wanted = published.WEIGHTS[need]
        try:
            found[need] = weights.find(wanted)
        except WeightsError:
            if not allow_download:
                raise
            found[need] = metric_weights.pull(wanted)
    return found
