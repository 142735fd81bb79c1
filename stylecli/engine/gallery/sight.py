"""What networks beside the diffusion model see in a picture: depth, segments, what is shown.

None of them is needed. Which are used is settled by the recipe and the backbone alone: where
weights are missing nothing else is taken in their place, for regions and matches would change
without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts.images import to_pixels
from stylecli.engine import mask_backends
from stylecli.engine.mask_backends import CROPS_PER_BATCH, network_files
from stylecli.engine.scoring.networks import Networks as Metrics
from stylecli.engine.session import Session
from stylecli.errors import UsageError, WeightsError
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import IMAGENET_MEAN, IMAGENET_STD, PREPROCESS
from stylecli.masks import hub, registry
from stylecli.masks.base import Setup
from stylecli.masks.clusters import crop
from stylecli.masks.depth import DEPTH, Depth
from stylecli.masks.sam2 import Sam2
from stylecli.masks.segments import objects, segments
from stylecli.methods.stylegallery import descriptors
from stylecli.methods.stylegallery.dfcc import Seen
from stylecli.recipe.schema import Recipe

AUTO, NONE, OBJECTS = "auto", "none", "objects"
DINO, DINO_HUB = "dinov2", "facebook/dinov2-base"
# Pixels a side of a token, and latent cells a side: 32 x 32 tokens for 64 x 64 cells.
PATCH_PX, CELLS_PER_TOKEN = 14, 2
FETCH = "the same command with --allow-download"


class Sight:
    """Networks of one run, each loaded when it is first asked for."""

    def __init__(self, session: Session, *, allow_download: bool = False) -> None:
        self._session = session
        self._allow_download = allow_download
        self._networks = hub.Networks(
            Setup(
                settings=session.recipe.masks,
                device=session.context.device,
                dtype=session.context.dtype,
                backbone=lambda: session.backbone,
                ranker=self._no_words,
                allow_download=allow_download,
            ),
            fetch=FETCH,
        )

    def identity(self, recipe: Recipe) -> dict[str, object]:
        """What decides what is seen beside the picture, for keys; *auto* is settled.

        Nothing is loaded, but what is not on this machine is told of here, before any work.

        Raises:
            InputError: A folder cannot be read.
            UsageError: A network is named that nobody would ask.
            WeightsError: Weights are missing.
        """
        depth, segmenter = self._depth_model(recipe), recipe.dfcc.segmenter
        semantics = self.semantics_kind(recipe)
        if recipe.matching.semantics_model is not None and semantics != DINO:
            raise UsageError(
                f"matching.semantics_model is a {DINO}, and matching.semantics is {semantics} here",
                fix=f"--set matching.semantics={DINO}, or leave the model out",
            )
        with _or_without("dfcc.depth", NONE):
            self._look_for(depth)
        with _or_without("dfcc.segmenter", OBJECTS):
            self._look_for(segmenter)
        with _or_without("matching.semantics", "features"):
            weights = self._weights(recipe)
        return {
            "depth": _identity(depth),
            "segmenter": _identity(segmenter),
            "semantics": semantics,
            "weights": weights,
        }

    def described(self, recipe: Recipe) -> dict[str, str]:
        """The networks by name, for files that others read: no folder of this machine."""
        semantics = self.semantics_kind(recipe)
        named = {DINO: recipe.matching.semantics_model or DINO_HUB, "clip": self._clip}
        return {
            "depth": hub.shown(self._depth_model(recipe)),
            "segmenter": hub.shown(recipe.dfcc.segmenter),
            "semantics": hub.shown(named.get(semantics, semantics)),
        }

    def semantics_kind(self, recipe: Recipe) -> str:
        """The recipe's `matching.semantics` with *auto* replaced; nobody is asked for more."""
        given = recipe.matching.semantics
        if given == AUTO:
            return "clip" if self._sees_by_itself else DINO
        return given

    def depth(
        self, picture: Float[Tensor, "3 h w"], recipe: Recipe
    ) -> Float[Tensor, "hd wd"] | None:
        """Relative inverse depth at the network's own size, or None where none is wanted.

        Args:
            picture: In [0, 1], margin included, as the diffusion model has it.
            recipe: Of this picture.

        Raises:
            WeightsError: The network is not on this machine, or its file is of another one.
        """
        name = self._depth_model(recipe)
        if name == NONE:
            return None
        with _or_without("dfcc.depth", NONE):
            return Depth(self._networks, name).of(_image(picture))

    def segments(
        self,
        picture: Float[Tensor, "3 h w"],
        recipe: Recipe,
        *,
        seen: Seen,
        seed: int,
    ) -> Bool[Tensor, "n hs ws"] | None:
        """Masks of things, which may overlap, or None where clusters are wanted; see `depth`.

        Args:
            picture: See `depth`.
            recipe: See `depth`.
            seen: The same picture, as the diffusion model sees it.
            seed: Where k-means looks for things.

        Raises:
            WeightsError: The network is not on this machine, or its file is of another one.
        """
        name = recipe.dfcc.segmenter
        if name == NONE:
            return None
        if name == OBJECTS:
            return objects(seen.features, seen.clean, seed=seed)
        with _or_without("dfcc.segmenter", OBJECTS):
            return segments(Sam2(self._networks, name), _image(picture))

    def semantics(
        self,
        picture: Float[Tensor, "3 h w"],
        labels: Int[Tensor, "hl wl"],
        recipe: Recipe,
        *,
        pixels: UInt8[Tensor, "hf wf 3"] | None = None,
    ) -> Float[Tensor, "r e"] | None:
        """A vector of what each region shows, or None where the method takes its own features.

        Args:
            picture: See `depth`.
            labels: Regions 1..R, at latent size.
            recipe: See `depth`.
            pixels: The picture as its file has it, of which the middle is taken where only that is
                looked at: `picture` may be squashed. Default: `picture`.

        Raises:
            WeightsError: The network is not on this machine, or its file is of another one.
        """
        kind = self.semantics_kind(recipe)
        if kind not in (DINO, "clip"):
            return None
        with _or_without("matching.semantics", "features"):
            if kind == "clip":
                return self._by_clip(picture, labels)
            view = recipe.matching.semantics_view
            shown = (
                PREPROCESS["dinov2_224"].apply(to_pixels(picture) if pixels is None else pixels)
                if view == "centre"
                else _in_patches(picture, labels)
            )
            return descriptors.pooled(self._tokens(shown, recipe), labels, view=view)

    def close(self) -> None:
        """Let go of all networks, so that the diffusion model has the memory."""
        self._networks.close()
        for name in ("_dinov2", "_clip_network"):
            self.__dict__.pop(name, None)

    @torch.no_grad()
    def _tokens(self, shown: Float[Tensor, "3 h w"], recipe: Recipe) -> Float[Tensor, "gh gw e"]:
        """What DINOv2 says of a picture that was prepared for it."""
        name = recipe.matching.semantics_model
        model = self._dinov2 if name is None else self._named_dinov2(name)
        seen = model(pixel_values=shown[None].to(model.device)).last_hidden_state
        grid = [side // PATCH_PX for side in shown.shape[1:]]
        tokens: Tensor = seen[0, 1:].float().cpu().unflatten(0, grid)
        return tokens

    def _by_clip(
        self, picture: Float[Tensor, "3 h w"], labels: Int[Tensor, "hl wl"]
    ) -> Float[Tensor, "r e"]:
        size = picture.shape[1:]
        pixels = F.interpolate(labels[None, None].float(), size, mode="nearest")[0, 0]
        prepare = PREPROCESS[NETWORKS[self._clip].shown].apply
        picture = picture.float().cpu()
        crops = [
            prepare(to_pixels(crop(picture, (pixels == number).float())))
            for number in range(1, int(labels.max()) + 1)
        ]
        return torch.cat(
            [
                self._clip_network.embed(self._clip, torch.stack(crops[i : i + CROPS_PER_BATCH]))
                for i in range(0, len(crops), CROPS_PER_BATCH)
            ]
        )

    @property
    def _sees_by_itself(self) -> bool:
        """Whether the backbone ships with all that finds regions in its pictures."""
        return self._session.source.finder == registry.CLUSTERS

    @property
    def _clip(self) -> str:
        return self._session.source.ranker

    def _depth_model(self, recipe: Recipe) -> str:
        if recipe.dfcc.depth == AUTO:
            return NONE if self._sees_by_itself else DEPTH
        return recipe.dfcc.depth

    def _weights(self, recipe: Recipe) -> object:
        """What tells the weights behind the semantics apart."""
        kind, name = self.semantics_kind(recipe), recipe.matching.semantics_model
        if kind == DINO and name is not None:
            self._look_for(name)
            return _identity(name)
        network = {DINO: DINO, "clip": self._clip}.get(kind)
        if network is None:
            return None
        files = network_files(network, self._allow_download)
        return Metrics(files, self._session.context.device).identity(network)

    def _look_for(self, name: str) -> None:
        if name not in (NONE, OBJECTS) and not self._allow_download:
            hub.look_for(name, fetch=FETCH)

    def _named_dinov2(self, name: str) -> Any:
        from transformers import Dinov2Model

        # Pictures are prepared here, token by token over the regions, so no processor is read.
        return self._networks.get(name, Dinov2Model).model

    @cached_property
    def _dinov2(self) -> Any:
        """That of the metrics: the same file, fetched by the same command."""
        files = network_files(DINO, self._allow_download)
        return Metrics(files, self._session.context.device).get(DINO).model

    @cached_property
    def _clip_network(self) -> Metrics:
        files = network_files(self._clip, self._allow_download)
        return Metrics(files, self._session.context.device)

    def _no_words(self) -> Any:
        raise AssertionError("regions are not compared with words")


@contextmanager
def _or_without(key: str, value: str) -> Iterator[None]:
    """Missing weights, told of with the setting that does not need them."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(
            error.what, fix=f"{error.fix}; or go without: --set {key}={value}"
        ) from error


def _in_patches(
    picture: Float[Tensor, "3 h w"], labels: Int[Tensor, "hl wl"]
) -> Float[Tensor, "3 hp wp"]:
    """The whole picture, so many cells a token."""
    size = [-(-side // CELLS_PER_TOKEN) * PATCH_PX for side in labels.shape]
    resized = F.interpolate(picture[None].float().cpu(), size, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (resized[0].clamp(0, 1) - mean) / std


def _identity(name: str) -> str:
    # A folder of the user's may be called so.
    return name if name in (NONE, OBJECTS) else mask_backends.identity(name)


def _image(picture: Float[Tensor, "3 h w"]) -> Image.Image:
    return Image.fromarray(to_pixels(picture).numpy())
