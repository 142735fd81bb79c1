"""What the frozen parts say of pictures and captions: asked once, kept, and the same each time.

Everything is encoded alone, never in a batch: batches differ from run to run, and with them the
last bits. What is kept has been rounded before its first use too, so that a run which finds it in
the cache learns what the run that put it there did.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from stylecli.artifacts import cache, files, images, store
from stylecli.backbone.denoisers.base import Denoiser
from stylecli.engine.i2l.data.items import Item, picture
from stylecli.methods.i2l import pictures
from stylecli.methods.i2l.encoders.base import Encoder
from stylecli.recipe.i2l import Kept

# Of each kind; a data set of icons fits whole, and of large ones what was seen last.
MEMORY_BYTES = 2 * 10**9
KINDS = ("i2l-latents", "i2l-text", "i2l-tokens")
Warn: TypeAlias = Callable[[str], None]
# What there is to see of a reference: itself, or grey in its place.
Look: TypeAlias = Callable[[Item], Tensor]


class Shelf:
    """Tensors of one kind by digest: the last ones in memory, all in the cache where asked."""

    def __init__(
        self,
        kind: str,
        identity: str,
        *,
        is_kept: bool,
        warn: Warn,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """Name what is kept.

        Args:
            kind: Its folder in the cache.
            identity: Of all that decides a tensor besides what it is of.
            is_kept: In the cache too.
            warn: Told when the disk is full.
            memory_bytes: At most so many stay in memory.
        """
        self._kind, self._identity = kind, identity
        self._is_kept, self._warn = is_kept, warn
        self._room = memory_bytes
        self._seen: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of one thing, made if nobody has; on the CPU, not to be changed."""
        if what in self._seen:
            self._seen.move_to_end(what)
            return self._seen[what]
        path = cache.cached(self._kind, store.digest([self._identity, what]), ".safetensors")
        found = _read(path) if self._is_kept else None
        if found is None:
            found = make().detach().cpu().contiguous().clone()
            if self._is_kept:
                content = to_bytes({"value": found})
                cache.keep(path, lambda: files.write_atomic(path, content), self._warn)
        self._seen[what] = found
        self._room -= found.nbytes
        while self._room < 0 and len(self._seen) > 1:
            _, gone = self._seen.popitem(last=False)
            self._room += gone.nbytes
        return found


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
            return found.to(_kept_type(self._denoiser.dtype))

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


def _kept_type(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float32 else torch.bfloat16


def _read(path: Path) -> Tensor | None:
    try:
        found: Tensor = from_bytes(path.read_bytes())["value"]
    except (OSError, SafetensorError, KeyError):
        return None  # not there, or damaged: it is made again
    cache.touch(path)
    return found
