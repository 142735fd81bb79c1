"""DiffStyler v1's way from words to a mask: cut out everything there is, let CLIP compare.

Every candidate is shown twice, with its surroundings and on white, because a crop alone says more
of a meadow than of the deer in it, and a silhouette alone little of either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stylecli.errors import UsageError, WeightsError
from stylecli.masks.base import Box, MaskResult, Ranker, Setup, box_of
from stylecli.masks.hub import Networks
from stylecli.masks.sam2 import SAM2, Sam2, Shape, result, results
from stylecli.recipe.finding import Masks

FASTSAM_LICENCE = "AGPL-3.0"
# Candidates of at most so many pixels are specks (v1).
MAX_SPECK_PX = 100
MARGIN = 0.1
TEMPERATURE = 100.0
# Beside the best, finds of less than this share of all the evidence are not worth a name.
MIN_SHARE = 0.1
CROPS_PER_BATCH = 32
# Of FastSAM's own examples.
FASTSAM_PX, FASTSAM_CONFIDENCE, FASTSAM_OVERLAP = 1024, 0.4, 0.9


class SamClip:
    """Candidates by SAM 2, compared by CLIP."""

    name = "sam-clip"
    licence = "Apache-2.0 (SAM 2), MIT (CLIP)"

    def __init__(self, setup: Setup) -> None:
        settings = setup.settings
        self._settings = settings
        self._networks = Networks(setup)
        self._sam = Sam2(self._networks, settings.model or SAM2)
        self._ranker = _ranker(setup, self._networks)

    def close(self) -> None:
        """Let go of SAM, and of a CLIP that settings named."""
        self._networks.close()

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """See `MaskBackend`; a score is the candidate's share of the evidence for the words."""
        return ranked(image, self._sam.everything(image), prompts, self._ranker, self._settings)

    def segment_at(
        self,
        image: Image.Image,
        *,
        points: Sequence[tuple[float, float, bool]] = (),
        boxes: Sequence[Box] = (),
    ) -> list[MaskResult]:
        """See `PointsBackend`; by SAM 2 alone, with its score."""
        return self._sam.segment_at(image, points, boxes)


class FastSam:
    """Candidates by FastSAM, compared by CLIP: what v1 did, with its index repaired.

    Its package is under the AGPL-3.0 and no dependency of this one. Its weights exist only as a
    pickle, so the file has to be named.
    """

    name = "fastsam"
    licence = FASTSAM_LICENCE

    def __init__(self, setup: Setup) -> None:
        try:
            from ultralytics import FastSAM
        except ImportError as error:
            raise UsageError(
                f"fastsam needs the package ultralytics, which is under the {FASTSAM_LICENCE}",
                fix="`pip install ultralytics`, or use --backend sam-clip, the same with SAM 2",
            ) from error
        file = setup.settings.model
        if file is None or not Path(file).expanduser().is_file():
            # The package would fetch what it does not find.
            raise WeightsError(
                f"fastsam's weights are not named, or not there: masks.model is {file!r}",
                fix="get FastSAM-s.pt of ultralytics and give it: --set masks.model=FASTSAM.pt; it "
                "is a pickle, which can run code",
            )
        self._settings = setup.settings
        self._device = str(setup.device)
        self._model = FastSAM(str(Path(file).expanduser()))
        self._networks = Networks(setup)
        self._ranker = _ranker(setup, self._networks)

    def close(self) -> None:
        """Let go of a CLIP that settings named."""
        self._networks.close()

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """See `MaskBackend`; a score is the candidate's share of the evidence for the words."""
        return ranked(image, self._everything(image), prompts, self._ranker, self._settings)

    def _everything(self, image: Image.Image) -> list[Shape]:
        (found,) = self._model(
            image,
            device=self._device,
            retina_masks=True,
            imgsz=FASTSAM_PX,
            conf=FASTSAM_CONFIDENCE,
            iou=FASTSAM_OVERLAP,
            verbose=False,
        )
        if found.masks is None:
            return []
        pairs = zip(found.masks.data.cpu(), found.boxes.conf.tolist(), strict=True)
        return [Shape(mask=mask > 0.5, quality=float(quality)) for mask, quality in pairs]


def ranked(
    image: Image.Image,
    candidates: Sequence[Shape],
    prompts: Sequence[str],
    ranker: Callable[[], Ranker],
    settings: Masks,
) -> list[MaskResult]:
    """The candidates that may be what each prompt names, the best first.

    The best always stays, as in v1, unless `masks.threshold` says what a find has to score.

    Args:
        image: RGB.
        candidates: Everything there is.
        prompts: None returns all candidates, with the quality that they have of themselves.
        ranker: Loads what compares; not called without prompts or candidates.
        settings: For the threshold.
    """
    solid = [one for one in candidates if int(one.mask.sum()) > MAX_SPECK_PX]
    if not prompts:
        return results(sorted(solid, key=lambda one: -one.quality))
    if not solid:
        return []
    scores = evidence(image, [one.mask for one in solid], prompts, ranker())
    found: list[MaskResult] = []
    for prompt, column in zip(prompts, scores.T, strict=True):
        values = column.tolist()
        order = sorted(range(len(solid)), key=lambda i: -values[i])
        floor = settings.threshold
        if floor is None:
            floor = min(MIN_SHARE, values[order[0]])
        for i in order:
            if values[i] >= floor:
                detail = {"mask_quality": solid[i].quality}
                made = result(solid[i], score=values[i], prompt=prompt, detail=detail)
                found += [made] if made else []
    return found


def evidence(
    image: Image.Image, masks: Sequence[Bool[Tensor, "h w"]], prompts: Sequence[str], rank: Ranker
) -> Float[Tensor, "candidates prompts"]:
    """How the evidence for each prompt is shared among the candidates: columns sum to one.

    ``softmax(100 cos)`` over the candidates, the cosine being the mean of those of the two crops.
    """
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    cosines = []
    for i in range(0, len(masks), CROPS_PER_BATCH):
        batch = masks[i : i + CROPS_PER_BATCH]
        pairs = [crops(picture, mask) for mask in batch]
        plain = rank([one for one, _ in pairs], prompts)
        on_white = rank([other for _, other in pairs], prompts)
        cosines.append((plain + on_white) / 2)
    return (TEMPERATURE * torch.cat(cosines).float()).softmax(dim=0)


def crops(
    picture: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]
) -> tuple[Float[Tensor, "3 hc wc"], Float[Tensor, "3 hc wc"]]:
    """A candidate in its surroundings, and the same with all around it painted white.

    The crop reaches a tenth of the candidate's size beyond it on every side, as far as the picture
    goes.

    Raises:
        ValueError: The mask is empty.
    """
    box = box_of(mask)
    if box is None:
        raise ValueError("the mask is empty")
    height, width = mask.shape
    left, top, right, bottom = (int(edge) for edge in box)
    across, down = round(MARGIN * (right - left)), round(MARGIN * (bottom - top))
    rows = slice(max(0, top - down), min(height, bottom + down))
    columns = slice(max(0, left - across), min(width, right + across))
    plain = picture[:, rows, columns]
    return plain, torch.where(mask[rows, columns], plain, torch.ones(()))


def clip_ranker(networks: Networks, name: str) -> Ranker:
    """A CLIP of transformers, by hub id or folder, as what compares crops with words."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = networks.get(name, CLIPModel, CLIPProcessor)

    @torch.no_grad()
    def rank(crops: Sequence[Tensor], texts: Sequence[str]) -> Float[Tensor, "crops texts"]:
        words = processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
        seen = processor(images=list(crops), do_rescale=False, return_tensors="pt")
        asked = model.get_text_features(**words.to(model.device)).pooler_output
        shown = model.get_image_features(**seen.to(model.device)).pooler_output
        unit = torch.nn.functional.normalize
        cosines: Tensor = unit(shown.float(), dim=1) @ unit(asked.float(), dim=1).T
        return cosines.cpu()

    return rank


def _ranker(setup: Setup, networks: Networks) -> Callable[[], Ranker]:
    """Loads what compares, the first time it is called: CLIP as settings have it, or v1's."""
    name = setup.settings.segmenter

    @cache
    def load() -> Ranker:
        return clip_ranker(networks, name) if name else setup.ranker()

    return load
