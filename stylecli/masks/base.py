"""What a mask backend is, and the table of those there are.

A backend is a class with a name and a licence, and one method. Packages of other people add theirs
through the entry-point group ``stylecli.masks``: a function that takes a `Setup` and returns one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stylecli.backbone.model import Backbone
from stylecli.recipe.finding import Masks

Box = tuple[float, float, float, float]
# Crops in [0, 1], each (3, h, w) of any size, and texts -> cosines (crops, texts).
Ranker = Callable[[Sequence[Tensor], Sequence[str]], Float[Tensor, "crops texts"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskResult:
    """One region of one picture.

    Attributes:
        mask: In [0, 1], at the size of the picture.
        score: How well it fits what was asked for; comparable within one backend only.
        prompt: The words it answers; empty for a region nobody named.
        boxes: Where it lies, ``(left, top, right, bottom)`` in pixels.
        detail: What else the backend knows, for the JSON beside the masks.
    """

    mask: Float[Tensor, "h w"]
    score: float
    prompt: str = ""
    boxes: tuple[Box, ...] = ()
    detail: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a backend may use; models are loaded only by those that ask for them.

    Attributes:
        settings: The recipe's section ``masks``.
        backbone: Loads the diffusion model.
        ranker: Loads what compares crops with words.
        sharpness: What the ranker's cosines are multiplied by before they compete; CLIP was
            trained with 100.
        allow_download: Weights that are missing may be fetched.
    """

    settings: Masks
    device: torch.device
    dtype: torch.dtype
    backbone: Callable[[], Backbone]
    ranker: Callable[[], Ranker]
    sharpness: float = 100.0
    seed: int = 0
    allow_download: bool = False


class MaskBackend(Protocol):
    """Finds what words name."""

    name: str
    licence: str

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """Regions that may be what the prompts name, of every prompt, best first within each.

        Args:
            image: RGB.
            prompts: What to look for. An empty list asks for every region there is, unnamed.

        Raises:
            UsageError: The backend needs words and got none.
            WeightsError: Its weights are missing.
        """


@runtime_checkable
class PointsBackend(Protocol):
    """Finds what lies at a place; those that cannot do this lack the method."""

    def segment_at(
        self,
        image: Image.Image,
        *,
        points: Sequence[tuple[float, float, bool]] = (),
        boxes: Sequence[Box] = (),
    ) -> list[MaskResult]:
        """One region for all the points together, and one for each box.

        Args:
            image: RGB.
            points: ``(x, y, belongs)`` in pixels; False marks what the region must leave out.
            boxes: In pixels.
        """


def box_of(mask: Bool[Tensor, "h w"]) -> Box | None:
    """The smallest box around a mask, its right and lower edge beyond the last pixel.

    >>> box_of(torch.tensor([[False, True, True], [False, False, False]]))
    (1.0, 0.0, 3.0, 1.0)
    """
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return None
    left, top = float(columns[0]), float(rows[0])
    return left, top, float(columns[-1]) + 1, float(rows[-1]) + 1
