"""A result, and how it comes from what the model decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images
from stylecli.engine.contents import Canvas
from stylecli.engine.regions import Masks
from stylecli.errors import ItemError
from stylecli.recipe.schema import Sampling
from stylecli.tensors.regions import composite

# A result with less spread than this, in [0, 1], holds nothing.
FLAT = 1e-3


@dataclass(frozen=True, slots=True)
class Painted:
    """A result and what it was made of.

    Attributes:
        pixels: The result.
        content: At the same size.
        masks: Of every area that has one, at the content file's size.
        details: Figures worth keeping.
    """

    pixels: UInt8[Tensor, "h w 3"]
    content: Float[Tensor, "3 h w"]
    masks: Sequence[Float[Tensor, "hc wc"]]
    details: Mapping[str, Any] = field(default_factory=dict)


def pasted(
    canvas: Canvas,
    masks: Masks,
    image: Float[Tensor, "1 3 hp wp"],
    sampling: Sampling,
    prompts: Sequence[str],
) -> Painted:
    """A decoded picture as its content is shaped, in the content's own pixels where no mask is.

    Raises:
        ItemError: There is nothing to be seen in it.
    """
    decoded = canvas.geometry.undo(image)[0]
    content = canvas.geometry.undo(canvas.image)[0]
    if float(decoded.std()) < FLAT <= float(content.std()):
        raise ItemError("the result is one flat colour", fix="use --dtype float32")
    if masks.covered is None or sampling.composite == "none" or canvas.picture is None:
        pixels = images.to_pixels(decoded)
    else:
        size = canvas.geometry.original
        pixels = composite(images.scaled(decoded, size), canvas.picture.pixels, masks.covered)
        content = images.to_float(canvas.picture.pixels)
    height, width = pixels.shape[:2]
    details = {"height": height, "width": width, "prompts": prompts, **masks.details}
    return Painted(pixels, content, masks.full, details)
