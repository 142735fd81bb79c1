"""SAM 2: masks of what lies in a box, at points, or anywhere in a picture.

The picture is encoded once, prompts are decoded in batches, and of the many masks only those that
are kept are brought to the picture's size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stylecli.masks.base import Box, MaskResult, box_of
from stylecli.masks.hub import Networks

SAM2 = "facebook/sam2.1-hiera-tiny"
# Of the automatic mask generator of Segment Anything (Kirillov et al. 2023, appendix B).
POINTS_PER_SIDE = 32
MIN_QUALITY = 0.88
MIN_STABILITY = 0.95
STABILITY_OFFSET = 1.0
MAX_OVERLAP = 0.7
PROMPTS_PER_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A mask of SAM's.

    Attributes:
        mask: True inside, at the picture's size.
        quality: The overlap with the truth that SAM itself expects.
    """

    mask: Bool[Tensor, "h w"]
    quality: float


class Sam2:
    """`Sam2Model` behind three questions."""

    def __init__(self, networks: Networks, name: str) -> None:
        self._networks = networks
        self._name = name

    def in_boxes(self, image: Image.Image, boxes: Sequence[Box]) -> list[Shape]:
        """The one thing in each box."""
        return list(self._one_each(image, {"input_boxes": [[list(box) for box in boxes]]}))

    def at_points(
        self, image: Image.Image, points: Sequence[tuple[float, float, bool]]
    ) -> list[Shape]:
        """The one thing that all points describe together."""
        prompts = {
            "input_points": [[[[x, y] for x, y, _ in points]]],
            "input_labels": [[[int(belongs) for *_, belongs in points]]],
        }
        return list(self._one_each(image, prompts))

    def segment_at(
        self,
        image: Image.Image,
        points: Sequence[tuple[float, float, bool]],
        boxes: Sequence[Box],
    ) -> list[MaskResult]:
        """Regions at points and in boxes, as `PointsBackend` has them."""
        shapes = self.at_points(image, points) if points else []
        shapes += self.in_boxes(image, boxes) if boxes else []
        return results(shapes)

    @torch.no_grad()
    def everything(
        self, image: Image.Image, *, min_quality: float | None = None, points: int | None = None
    ) -> list[Shape]:
        """What a grid of points finds: good, stable and distinct masks, the best first.

        Args:
            min_quality: In place of `MIN_QUALITY`.
            points: A side, in place of `POINTS_PER_SIDE`.
        """
        floor = MIN_QUALITY if min_quality is None else min_quality
        embeddings = self._encode(image)
        logits: list[Tensor] = []
        qualities: list[Tensor] = []
        grid = _grid(image.width, image.height, points or POINTS_PER_SIDE)
        for i in range(0, len(grid), PROMPTS_PER_BATCH):
            batch = grid[i : i + PROMPTS_PER_BATCH]
            prompts = {
                "input_points": [[[list(point)] for point in batch]],
                "input_labels": [[[1] for _ in batch]],
            }
            masks, quality = self._decode(image, embeddings, prompts, several=True)
            good = (quality >= floor) & (_stability(masks) >= MIN_STABILITY)
            logits.append(masks[good])
            qualities.append(quality[good])
        found, quality = torch.cat(logits), torch.cat(qualities)
        boxes = [box_of(mask > 0) for mask in found]
        solid = [i for i, box in enumerate(boxes) if box is not None]
        kept = distinct(
            [box for box in boxes if box is not None],
            [float(quality[i]) for i in solid],
            MAX_OVERLAP,
        )
        return [self._shape(image, found[solid[i]], float(quality[solid[i]])) for i in kept]

    @torch.no_grad()
    def _one_each(self, image: Image.Image, prompts: dict[str, Any]) -> Iterator[Shape]:
        masks, quality = self._decode(image, self._encode(image), prompts, several=False)
        for mask, value in zip(masks, quality, strict=True):
            yield self._shape(image, mask, float(value))

    def _encode(self, image: Image.Image) -> list[Tensor]:
        model, processor = self._load()
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        embeddings: list[Tensor] = model.get_image_embeddings(pixels.to(model.device))
        return embeddings

    def _decode(
        self,
        image: Image.Image,
        embeddings: list[Tensor],
        prompts: dict[str, Any],
        *,
        several: bool,
    ) -> tuple[Float[Tensor, "n hm wm"], Float[Tensor, " n"]]:
        """Logits at the network's own size, and the quality of each; three a prompt if several."""
        model, processor = self._load()
        inputs = processor(original_sizes=[_size(image)], return_tensors="pt", **prompts)
        outputs = model(
            image_embeddings=embeddings,
            multimask_output=several,
            **{key: inputs[key].to(model.device) for key in prompts},
        )
        masks: Tensor = outputs.pred_masks.flatten(0, 2)
        return masks.float(), outputs.iou_scores.flatten().float()

    def _shape(self, image: Image.Image, logits: Tensor, quality: float) -> Shape:
        _, processor = self._load()
        (full,) = processor.post_process_masks([logits[None, None]], [_size(image)])
        return Shape(mask=full[0, 0].cpu(), quality=quality)

    def _load(self) -> tuple[Any, Any]:
        from transformers import Sam2Model, Sam2Processor

        return self._networks.get(self._name, Sam2Model, Sam2Processor)


def result(shape: Shape, **known: Any) -> MaskResult | None:
    """A region of SAM's, or nothing where its mask is empty."""
    box = box_of(shape.mask)
    if box is None:
        return None
    given = {"score": shape.quality, "boxes": (box,), **known}
    return MaskResult(mask=shape.mask.float(), **given)


def results(shapes: Sequence[Shape]) -> list[MaskResult]:
    """Regions that nobody named, in the order given, without those that are empty."""
    return [made for shape in shapes if (made := result(shape))]


def distinct(boxes: Sequence[Box], scores: Sequence[float], max_overlap: float) -> list[int]:
    """Which boxes stay, best first, when each drops the worse ones that it overlaps too much.

    Overlap is the share of the union. Own code because torchvision's binary may not load.

    >>> distinct([(0, 0, 2, 2), (0, 0, 2, 1.9), (5, 5, 6, 6)], [0.5, 0.9, 0.1], 0.7)
    [1, 2]
    """
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(_overlap(boxes[i], boxes[j]) <= max_overlap for j in kept):
            kept.append(i)
    return kept


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if common else 0.0


def _stability(logits: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """How little a mask changes when its level moves: smaller area over larger (appendix B)."""
    inner = (logits > STABILITY_OFFSET).sum(dim=(1, 2))
    outer = (logits > -STABILITY_OFFSET).sum(dim=(1, 2))
    return inner / outer.clamp(min=1)


def _grid(width: int, height: int, points: int) -> list[tuple[float, float]]:
    steps = [(i + 0.5) / points for i in range(points)]
    return [(x * width, y * height) for y in steps for x in steps]


def _size(image: Image.Image) -> list[int]:
    return [image.height, image.width]
