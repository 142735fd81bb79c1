"""What the frozen parts say of pictures and captions: asked once, kept, and the same each time.

Everything is encoded alone, never in a batch: batches differ from run to run, and with them the
last bits. What is kept has been rounded before its first use too, so that a run which finds it in
the cache learns what the run that put it there did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.backbone.denoisers.base import Denoiser
from stylecli.engine.i2l.data.items import Item, picture
from stylecli.engine.training.shelf import Shelf, Warn, kept_type
from stylecli.methods.i2l import pictures
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.recipe.i2l import Kept

KINDS = ("i2l-latents", "i2l-text", "i2l-tokens")
# What there is to see of a reference: itself, or grey in its place.
Look: TypeAlias = Callable[[Item], Tensor]


@dataclass(frozen=True, slots=True)
class Target:
    """How a target becomes what the model sees."""

    px: int

    def pixels(self, seen: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "1 3 px px"]:
        """The middle square, scaled; data sets are of this size already, and stay as they are."""
        height, width = seen.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images.to_float(seen[top : top + side, left : left + side])
        return images.scaled(square, (self.px, self.px))[None]


class Encoded:
    """Latents of targets, embeddings of captions, tokens of references."""

    def __init__(
        self,
        denoiser: Denoiser,
        encoder: Encoder,
        *,
        model: str,
        px: int,
        kept: Kept,
        warn: Warn,
    ) -> None:
        """Open the shelves.

        Args:
            model: The fingerprint of the denoiser's weights.
            px: Side of the targets.
        """
        self._denoiser, self._encoder = denoiser, encoder
        self._target = Target(px)
        # What a device computes with decides last bits, and bits are what a resumed run is held to.
        where = [model, str(denoiser.dtype), denoiser.device.type]
        how = [encoder.identity, str(encoder.dtype), denoiser.device.type]
        self._latents = Shelf(
            "i2l-latents", store.digest([*where, px]), is_kept=kept.latents, warn=warn
        )
        self._text = Shelf("i2l-text", store.digest(where), is_kept=kept.text, warn=warn)
        self._tokens = Shelf("i2l-tokens", store.digest(how), is_kept=kept.tokens, warn=warn)

    def latents(self, item: Item) -> Float[Tensor, "1 ..."]:
        """Of a target.

        Raises:
            ImageError: It cannot be read, or is another picture than it was.
        """

        def encode() -> Tensor:
            pixels = self._target.pixels(picture(item).pixels)
            with torch.no_grad():
                found = self._denoiser.encode_target(pixels.to(self._denoiser.device))
            return found.to(kept_type(self._denoiser.dtype))

        return self._latents.get(item.sha256, encode).float()

    def text(self, caption: str) -> Tensor:
        """Of a caption, on the model's device."""

        def encode() -> Tensor:
            with torch.no_grad():
                (found,) = self._denoiser.encode_prompt([caption])
            return found

        return self._text.get(caption, encode).to(self._denoiser.device)

    def tokens(self, item: Item) -> Float[Tensor, "t e"]:
        """Of a reference.

        Raises:
            ImageError: As for `latents`.
        """
        return self._tokens.get(item.sha256, lambda: self._asked(picture(item).pixels)).float()

    def grey(self, item: Item) -> Float[Tensor, "t e"]:
        """Of what stands in for a reference where there is to be no style: grey, of its size."""
        size = (item.height, item.width)

        def encode() -> Tensor:
            return self._asked(pictures.grey(size))

        return self._tokens.get(f"grey {size[0]}x{size[1]}", encode).float()

    def _asked(self, seen: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "t e"]:
        found = self._encoder(self._encoder.prepared(seen)[None])[0]
        # Half a token's bytes, of which the predictor's first norm makes nothing.
        return found.to(torch.bfloat16 if found.abs().max() > 1e4 else torch.float16)
