"""Networks that find what words name: Grounding DINO with SAM 2, CLIPSeg, SAM 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.errors import UsageError
from stylecli.masks.base import Box, MaskResult, Setup, box_of
from stylecli.masks.hub import Networks
from stylecli.masks.sam2 import SAM2, Sam2, distinct, result, results

GROUNDING_DINO = "IDEA-Research/grounding-dino-tiny"
CLIPSEG = "CIDAS/clipseg-rd64-refined"
SAM3 = "facebook/sam3"
# Grounding DINO drops no duplicates of its own; boxes that overlap more than this are one find.
MAX_OVERLAP = 0.8
SAM3_INSIDE = 0.5


class GroundedSam2:
    """Boxes from words by Grounding DINO, a mask in each box by SAM 2."""

    name = "grounded-sam2"
    licence = "Apache-2.0"
    threshold = 0.30

    def __init__(self, setup: Setup) -> None:
        settings = setup.settings
        self._settings = settings
        self._networks = Networks(setup)
        self._detector = settings.model or GROUNDING_DINO
        self._sam = Sam2(self._networks, settings.segmenter or SAM2)

    def close(self) -> None:
        """Let go of the networks."""
        self._networks.close()

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """See `MaskBackend`; a score is Grounding DINO's confidence, without words SAM's.

        The words go through together, so that each thing is given to those that fit it best.
        """
        if not prompts:
            return results(self._sam.everything(image, min_quality=self._settings.threshold))
        found: list[MaskResult] = []
        by_prompt = self._detect(image, prompts)
        for prompt, finds in zip(prompts, by_prompt, strict=True):
            if not finds:
                continue
            shapes = self._sam.in_boxes(image, [box for box, _ in finds])
            for (box, score), shape in zip(finds, shapes, strict=True):
                detail = {"mask_quality": shape.quality}
                made = result(shape, score=score, prompt=prompt, boxes=(box,), detail=detail)
                found += [made] if made else []
        return found

    def segment_at(
        self,
        image: Image.Image,
        *,
        points: Sequence[tuple[float, float, bool]] = (),
        boxes: Sequence[Box] = (),
    ) -> list[MaskResult]:
        """See `PointsBackend`; by SAM 2 alone, with its score."""
        return self._sam.segment_at(image, points, boxes)

    @torch.no_grad()
    def _detect(self, image: Image.Image, prompts: Sequence[str]) -> list[list[tuple[Box, float]]]:
        """Boxes within the picture and their confidence, for each prompt, the best first."""
        from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

        model, processor = self._networks.get(
            self._detector, GroundingDinoForObjectDetection, GroundingDinoProcessor
        )
        labels = [_label(prompt) for prompt in prompts]
        inputs = processor(images=image, text=labels, return_tensors="pt").to(model.device)
        if inputs["input_ids"].shape[1] > model.config.max_text_len:
            raise UsageError(
                f"the words take more than Grounding DINO's {model.config.max_text_len} tokens",
                fix="ask for fewer things at once",
            )
        outputs = model(**inputs)
        threshold = _threshold(self._settings.threshold, self.threshold)
        (kept,) = processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=threshold,
            text_threshold=self._settings.text_threshold,
            target_sizes=[(image.height, image.width)],
        )
        # The processor says which boxes stay, but names them by whatever tokens passed, also of
        # two prompts at once; whose a box is follows from the tokens of each prompt.
        fits = outputs.logits[0].sigmoid()
        period = processor.tokenizer.convert_tokens_to_ids(".")
        fits = fits[fits.amax(dim=1) > threshold]
        own = best_token(fits, inputs["input_ids"][0], period)
        finds: list[list[tuple[Box, float]]] = [[] for _ in prompts]
        for box, score, tokens in zip(kept["boxes"], kept["scores"], own, strict=True):
            inside = _within(box, image)
            if inside and float(tokens.amax()) > self._settings.text_threshold:
                finds[int(tokens.argmax())].append((inside, float(score)))
        return [_without_duplicates(of_one) for of_one in finds]


class ClipSeg:
    """One soft map for each prompt, coarse at its edges, good for grass and sky."""

    name = "clipseg"
    licence = "Apache-2.0"
    threshold = 0.4

    def __init__(self, setup: Setup) -> None:
        self._threshold = _threshold(setup.settings.threshold, self.threshold)
        self._networks = Networks(setup)
        self._name = setup.settings.model or CLIPSEG

    def close(self) -> None:
        """Let go of the network."""
        self._networks.close()

    @torch.no_grad()
    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """See `MaskBackend`; one region a prompt, its score the mean of the map within it."""
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        require_words(self.name, prompts)
        model, processor = self._networks.get(
            self._name, CLIPSegForImageSegmentation, CLIPSegProcessor
        )
        inputs = processor(
            text=list(prompts),
            images=[image] * len(prompts),
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(model.device)
        logits = model(**inputs).logits
        maps = logits.reshape(len(prompts), 1, *logits.shape[-2:]).sigmoid()
        size = (image.height, image.width)
        found = []
        for prompt, small in zip(prompts, maps, strict=True):
            full = F.interpolate(small[None], size, mode="bilinear", align_corners=False)[0, 0]
            region = full > self._threshold
            box = box_of(region)
            if box is not None:
                score = float(full[region].mean())
                mask = region.float().cpu()
                found.append(MaskResult(mask=mask, score=score, prompt=prompt, boxes=(box,)))
        return found


class Sam3:
    """Every instance that words name; weights under a licence of their own, on request."""

    name = "sam3"
    licence = "SAM License"
    threshold = 0.3

    def __init__(self, setup: Setup) -> None:
        self._threshold = _threshold(setup.settings.threshold, self.threshold)
        self._networks = Networks(setup)
        self._name = setup.settings.model or SAM3

    def close(self) -> None:
        """Let go of the network."""
        self._networks.close()

    @torch.no_grad()
    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """See `MaskBackend`; a score is the network's confidence."""
        from transformers import Sam3Model, Sam3Processor

        require_words(self.name, prompts)
        model, processor = self._networks.get(self._name, Sam3Model, Sam3Processor)
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        seen = model.get_vision_features(pixels.to(model.device))
        found: list[MaskResult] = []
        for prompt in prompts:
            # Its processor pads the words to the network's length, and does not cut longer ones.
            words = processor(text=prompt, return_tensors="pt").to(model.device)
            if words["input_ids"].shape[1] > model.config.text_config.max_position_embeddings:
                raise UsageError(f"{prompt!r} is too long for sam3", fix="use fewer words")
            (kept,) = processor.post_process_instance_segmentation(
                model(vision_embeds=seen, **words),
                threshold=self._threshold,
                mask_threshold=SAM3_INSIDE,
                target_sizes=[(image.height, image.width)],
            )
            found += sorted(_instances(kept, prompt, image), key=lambda one: -one.score)
        return found


def require_words(name: str, prompts: Sequence[str]) -> None:
    """Refuse to look for nothing in particular.

    Raises:
        UsageError: There are no prompts.
    """
    if not prompts:
        raise UsageError(
            f"{name} finds only what words name", fix="give --text, or use --backend clusters"
        )


def best_token(
    fits: Float[Tensor, "boxes tokens"], input_ids: Int[Tensor, " ids"], period: int
) -> Float[Tensor, "boxes prompts"]:
    """How well the best token of each prompt fits each box.

    Args:
        fits: In [0, 1]; the columns beyond the ids are padding.
        input_ids: A start token, then the words of each prompt, a period after each, an end token.
        period: Its id.

    >>> best_token(torch.tensor([[0.9, 0.1, 0.3, 0.8, 0.2]]), torch.tensor([5, 7, 7, 0, 9]), 0)
    tensor([[0.3000]])
    """
    ends = (input_ids == period).nonzero()[:, 0].tolist()
    starts = [1, *(end + 1 for end in ends[:-1])]
    spans = zip(starts, ends, strict=True)
    return torch.stack([fits[:, start:end].amax(dim=1) for start, end in spans], dim=1)


def _instances(kept: dict[str, Any], prompt: str, image: Image.Image) -> list[MaskResult]:
    found = []
    for mask, box, score in zip(kept["masks"], kept["boxes"], kept["scores"], strict=True):
        inside = _within(box, image)
        if inside and bool(mask.any()):
            found.append(
                MaskResult(
                    mask=mask.float().cpu(), score=float(score), prompt=prompt, boxes=(inside,)
                )
            )
    return found


def _label(prompt: str) -> str:
    """The prompt as Grounding DINO wants it: a period would end it.

    Raises:
        UsageError: Nothing is left.
    """
    label = " ".join(prompt.replace(".", " ").split())
    if not label:
        raise UsageError(f"{prompt!r} names nothing", fix="give words, such as --text deer")
    return label


def _threshold(given: float | None, own: float) -> float:
    return own if given is None else given


def _within(box: Float[Tensor, " 4"], image: Image.Image) -> Box | None:
    """The part of a box that lies in the picture, if there is one."""
    left, top, right, bottom = box.tolist()
    left, right = (min(max(x, 0.0), float(image.width)) for x in (left, right))
    top, bottom = (min(max(y, 0.0), float(image.height)) for y in (top, bottom))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _without_duplicates(finds: Sequence[tuple[Box, float]]) -> list[tuple[Box, float]]:
    boxes, scores = [box for box, _ in finds], [score for _, score in finds]
    return [finds[i] for i in distinct(boxes, scores, MAX_OVERLAP)]
