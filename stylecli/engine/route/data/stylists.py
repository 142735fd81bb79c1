"""Who restyles whole pictures for a set: an editing model, or rules whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts import images
from stylecli.backbone.editors.base import Editor
from stylecli.engine.route.applying.editing import fitted, refuse_nothing
from stylecli.engine.route.data.making import Styled, Subject, View, sample_id, seed_of
from stylecli.engine.runs.local import is_out_of_memory
from stylecli.errors import MemoryExhaustedError
from stylecli.methods.regionroute.styles import WHOLE, Style
from stylecli.recipe.route import Apply
from stylecli.tensors.filters import FILTERS

# Other rules make another set.
RULES = 1
# Where gradients inside the object agree less than this, the editor has moved it.
MIN_STRUCTURE = 0.2
# Between the seeds of one picture's tries.
NEXT_SEED = 2**32


class Stylist(Protocol):
    """Restyles a picture without knowing which part of it counts.

    Attributes:
        facts: All that decides what comes out, but for the picture, the style and the seed.
        tries: How often it may be asked for another answer.
    """

    facts: Mapping[str, Any]
    tries: int

    def stylise(
        self, image: Float[Tensor, "3 h w"], style: Style, seed: int
    ) -> Float[Tensor, "3 h w"]:
        """All of the picture in this style, in [0, 1]."""
        ...


class ByFilter:
    """A look by rule (`tensors.filters`)."""

    tries = 1

    def __init__(self) -> None:
        self.facts: Mapping[str, Any] = {"stylist": "filter", "rules": RULES}

    def stylise(
        self, image: Float[Tensor, "3 h w"], style: Style, seed: int
    ) -> Float[Tensor, "3 h w"]:
        """See `Stylist`; no chance is in it."""
        del seed
        return FILTERS[style.id](image)


class ByEditor:
    """A model told to restyle the whole picture (section 1.2)."""

    def __init__(
        self,
        open_editor: Callable[[], Editor],
        model: Mapping[str, Any],
        apply: Apply,
        *,
        tries: int = 1,
    ) -> None:
        """Remember how; the model is loaded when the first picture is to be made.

        Args:
            model: All that decides what its weights compute, as facts.
            tries: Of how many answers the one is taken that keeps most of the object's structure,
                unless one keeps enough of it.
        """
        self._open, self._apply, self.tries = open_editor, apply, tries
        sampling = apply.model_dump(include={"steps", "guidance", "image_guidance", "size"})
        self.facts: Mapping[str, Any] = {
            "stylist": "editor",
            **model,
            "command": WHOLE,
            "tries": tries,
            **sampling,
        }

    def stylise(
        self, image: Float[Tensor, "3 h w"], style: Style, seed: int
    ) -> Float[Tensor, "3 h w"]:
        """See `Stylist`.

        Raises:
            ItemError: The model gave nothing that can be seen.
            UsageError: The command is longer than the model reads.
        """
        editor = self._open()
        height, width = image.shape[1:]
        side = self._apply.size or editor.native_px
        geometry = fitted(height, width, side=side, multiple=editor.multiple_px)
        with torch.inference_mode():
            before = geometry.apply(image[None])
            reference = editor.encode_image(before.to(editor.device))
            latents = editor.edit(
                reference,
                editor.encode_prompt([WHOLE.format(style=style.text)]),
                seeds=[seed],
                steps=self._apply.steps,
                guidance=self._apply.guidance,
                image_guidance=self._apply.image_guidance,
            )
            decoded = editor.decode(latents).float().cpu().clamp(0, 1)
            refuse_nothing(before, decoded)
            pixels = images.to_pixels(geometry.undo(decoded)[0])
        # Back to the size of the photograph, whose mask is as it was (section 1.2).
        back = Image.fromarray(pixels.numpy()).resize((width, height), Image.Resampling.LANCZOS)
        return images.to_float(torch.from_numpy(np.array(back)))


class Restyler:
    """A stylist as one of a set's hands."""

    def __init__(self, stylist: Stylist) -> None:
        self._stylist = stylist
        self.facts = stylist.facts

    def styled(self, subject: Subject, view: View, style: Style) -> Styled:
        """See `making.Hand`.

        Raises:
            ItemError: The model gave nothing that can be seen.
            MemoryExhaustedError: It does not fit; no other picture is tried, all are as large.
        """
        first = seed_of(subject.image_id, style)
        tried: list[Styled] = []
        while len(tried) < self._stylist.tries:
            seed = first + len(tried) * NEXT_SEED
            picture = self._stylised(subject, view, style, seed)
            structure = agreement(view.picture, picture, view.mask)
            change = float((picture - view.picture).abs().mean(dim=0)[view.mask].mean())
            quality = {"structure": round(structure, 4), "change": round(change, 4)}
            tried.append(Styled(picture, view.mask, seed, quality))
            if structure >= MIN_STRUCTURE:
                break
        return max(tried, key=lambda each: each.quality["structure"])

    def _stylised(
        self, subject: Subject, view: View, style: Style, seed: int
    ) -> Float[Tensor, "3 h w"]:
        try:
            return self._stylist.stylise(view.picture, style, seed).float().cpu()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryExhaustedError(
                f"{sample_id(subject, style)}: out of memory; what was made before stays",
                fix="lower route.apply.size, or use a recipe for less memory",
            ) from error


def agreement(
    before: Float[Tensor, "3 h w"], after: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]
) -> float:
    """Correlation of the gradients' magnitudes inside the mask; 0 where one of them is flat."""
    one, other = (_edges(picture)[mask].double() for picture in (before, after))
    one, other = one - one.mean(), other - other.mean()
    scale = float(one.norm() * other.norm())
    return float(one @ other) / scale if scale > 0 else 0.0


def _edges(picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    grey = picture.mean(dim=0)
    down, right = torch.zeros_like(grey), torch.zeros_like(grey)
    down[1:] = grey.diff(dim=0)
    right[:, 1:] = grey.diff(dim=1)
    return (down.square() + right.square()).sqrt()
