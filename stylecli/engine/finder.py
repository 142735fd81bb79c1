"""Masks from words inside other commands: found once, then taken from the cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts import cache, store
from stylecli.artifacts.images import Picture
from stylecli.artifacts.masks import mask_pixels, read_mask
from stylecli.engine import mask_backends
from stylecli.engine.session import Session
from stylecli.errors import ImageError

# Raised when a change of ours finds other masks in the same pictures.
VERSION = 1


class CachedFinder:
    """What finds words in one picture after another."""

    def __init__(self, session: Session, *, allow_download: bool) -> None:
        self._finder = mask_backends.Finder(session, allow_download=allow_download)
        self._session = session

    def find(self, picture: Picture, words: str) -> tuple[Float[Tensor, "h w"], dict[str, Any]]:
        """The mask of words at the picture's size, and what is known of it.

        With 256 shades, as its file in the cache has it: whoever finds it there makes the same
        pixels as whoever put it there.

        Raises:
            ItemError: Nothing matches.
            WeightsError: The backend's weights are not on this machine.
        """
        decisive = [
            VERSION,
            picture.sha256,
            words,
            self._session.recipe.sampling.seed,
            self._session.context.device.type,
            self._finder.identity(),
        ]
        key = store.digest(decisive)
        path = cache.cached("masks", key, ".png")
        known = self._cached(path)
        if known is not None:
            return known
        found = mask_backends.find_mask(
            self._finder.backend,
            Image.fromarray(picture.pixels.numpy()),
            words,
            self._finder.settings,
            name=str(picture.path),
        )
        if self._session.context.device.type == "cuda":
            # What paints needs the memory more than the next picture needs the detector at once.
            self._finder.close()
        height, width = picture.pixels.shape[:2]
        mask = torch.zeros(height, width) if found is None else found.mask
        details = {
            "score": None if found is None else round(found.score, 6),
            "backend": self._finder.name,
        }
        made_by = {"prompt": words, "details": details, "finder": self._finder.described()}
        pixels = mask_pixels(mask)
        warn = self._session.context.reporter.warn
        cache.keep(path, partial(store.save_image, path, pixels, made_by), warn)
        # As it would be read again.
        return pixels.float() / 255, details

    def _cached(self, path: Path) -> tuple[Tensor, dict[str, Any]] | None:
        made_by = store.read_provenance(path) if path.exists() else None
        if made_by is None:
            return None
        try:
            return read_mask(path), made_by["details"]
        except (ImageError, KeyError):
            return None
