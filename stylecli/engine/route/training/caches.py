"""What the frozen parts say of pairs and instructions: asked once, kept, the same each time.

Everything is kept by what it is of: the digests of a sample's own files, and its own words. No
order of samples comes into it, so no shuffle, epoch or process can mix them up. Each is encoded
alone, and rounded before its first use as it is in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.backbone.editors.base import Editor, Text
from stylecli.engine.route.data import items
from stylecli.engine.route.data.items import Edit, Sample, Span
from stylecli.engine.route.training.buckets import bucket
from stylecli.engine.training.shelf import Shelf, Warn, kept_type
from stylecli.errors import ImageError
from stylecli.methods.regionroute.grids import on_grid
from stylecli.methods.regionroute.spans import locate

_EMBEDS, _POOLED = "embeds", "pooled"
_MEND = "put it back, or run `style route-data` again"


# Raised when masks come to the grid in another way: what was kept then is not taken.
_GRIDDED = "2"


@dataclass(frozen=True, slots=True)
class Asked:
    """Words of an instruction whose attention is supervised, and where it should be.

    Attributes:
        tokens: Places of the words among the tokens.
        edits: Of all objects that these words are for.
    """

    tokens: tuple[int, ...]
    edits: tuple[Edit, ...]


class Encoded:
    """Latents of pictures, embeddings of instructions, objects on the grid of attention."""

    def __init__(self, editor: Editor, *, side: int, is_kept: bool, warn: Warn) -> None:
        """Open the shelves.

        Args:
            side: Pictures are seen with the area of such a square.
            is_kept: For later trainings too.
        """
        self._editor, self._side = editor, side
        # What a device computes with decides last bits, and bits are what a resumed run is held to.
        where = [editor.fingerprint, str(editor.dtype), editor.device.type]
        of_words = store.digest([*where, editor.text_length])
        self._latents = Shelf("route-latents", store.digest(where), is_kept=is_kept, warn=warn)
        self._texts = Shelf("route-text", of_words, is_kept=is_kept, warn=warn)
        self._masks = Shelf("route-masks", _GRIDDED, is_kept=is_kept, warn=warn)

    def size(self, sample: Sample) -> tuple[int, int]:
        """Height and width that a pair is seen at."""
        return bucket(sample.size, side=self._side, multiple=self._editor.multiple_px)

    def source(self, sample: Sample) -> Float[Tensor, "1 c lh lw"]:
        """Latents of the picture before the edit.

        Raises:
            ImageError: It cannot be read, or is another picture than it was.
        """
        return self._encoded(sample.source, sample.sha256["source"], self.size(sample))

    def target(self, sample: Sample) -> Float[Tensor, "1 c lh lw"]:
        """Of the picture after it.

        Raises:
            ImageError: As for `source`.
        """
        return self._encoded(sample.target, sample.sha256["target"], self.size(sample))

    def text(self, prompt: str) -> Text:
        """Of an instruction, or of none; one row."""

        def encode() -> dict[str, Tensor]:
            with torch.no_grad():
                found = self._editor.encode_prompt([prompt])
            said = {_EMBEDS: found.embeds}
            return said if found.pooled is None else said | {_POOLED: found.pooled}

        kept = self._texts.several(prompt, encode)
        return Text(kept[_EMBEDS], kept.get(_POOLED))

    def asked(self, sample: Sample) -> tuple[Asked, ...]:
        """The phrases of a sample; edits that share one have it together.

        Raises:
            UsageError: The instruction is too long for the model, or a phrase is in no token.
        """
        by_span: dict[Span, list[Edit]] = {}
        for edit in sample.edits:
            by_span.setdefault(edit.style_span, []).append(edit)
        length, tokenizer = self._editor.text_length, self._editor.tokenizer
        return tuple(
            Asked(locate(tokenizer, sample.prompt, span, length), tuple(edits))
            for span, edits in by_span.items()
        )

    def mask(
        self, sample: Sample, edits: tuple[Edit, ...], grid: tuple[int, int]
    ) -> Float[Tensor, " n"]:
        """What of each cell is one of these objects of a sample.

        Raises:
            ImageError: A mask cannot be read, is another than it was, or of another size than the
                pictures.
        """
        files = [_digest(edit.mask) for edit in edits]
        for edit, sha256 in zip(edits, files, strict=True):
            # Of several masks the set has the digest of the first.
            if edit.mask == sample.edits[0].mask:
                _refuse_another(edit.mask, sha256, sample.sha256["mask"], "mask")

        def read() -> Tensor:
            each = [items.mask_of(edit) for edit in edits]
            for edit, one in zip(edits, each, strict=True):
                if tuple(one.shape) != sample.size:
                    height, width = one.shape
                    raise ImageError(
                        f"{edit.mask}: is {width}x{height}, and the pictures of {sample.id} are "
                        f"{sample.size[1]}x{sample.size[0]}",
                        fix=_MEND,
                    )
            return on_grid(torch.stack(each).amax(dim=0)[None], grid)[0].half()

        key = store.digest([files, list(sample.size), list(grid)])
        return self._masks.get(key, read).float()

    def _encoded(
        self, file: Path, sha256: str, size: tuple[int, int]
    ) -> Float[Tensor, "1 c lh lw"]:
        def encode() -> Tensor:
            _refuse_another(file, _digest(file), sha256, "picture")
            pixels = images.scaled(items.picture(file), size)[None]
            with torch.no_grad():
                found = self._editor.encode_image(pixels.to(self._editor.device))
            return found.to(kept_type(self._editor.dtype))

        return self._latents.get(store.digest([sha256, list(size)]), encode).float()


def _digest(file: Path) -> str:
    try:
        return store.file_sha256(file)
    except OSError as error:
        raise ImageError(f"{file}: {error.strerror or error}", fix=_MEND) from error


def _refuse_another(file: Path, found: str, wanted: str, what: str) -> None:
    if found != wanted:
        raise ImageError(f"{file}: is not the {what} that the set was made with", fix=_MEND)
