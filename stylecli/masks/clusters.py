"""Masks from the diffusion model itself: clusters of its features, compared with words.

The features are those of StyleGallery (CVPR 2026, section "DFCC"): a decoder block's output while
the picture is inverted, clean steps counting most. Nothing but the backbone and the ranker is
needed, so this works wherever they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.backbone.features import decoder_features
from stylecli.backbone.model import Backbone
from stylecli.masks import proposals
from stylecli.masks.base import Box, MaskBackend, MaskResult, Setup, box_of
from stylecli.masks.proposals import Edges, Proposal, Regions
from stylecli.tensors import clustering
from stylecli.tensors.channels import FLAT

# Larger pictures are scaled down to so many cells a side; Stable Diffusion 1.5 was trained there.
WORKING_CELLS = 64
MERGE_DISTANCE = 0.85
# Features are blurred by a cell or two; masks are fitted to the picture in windows of this radius.
EDGE_CELLS = 3
MARGIN = 0.08
# What the logarithm of objectness counts for, and how sharply finds compete; from the 72 scenes
# that `proposals` was fitted on.
PER_OBJECTNESS, SHARPNESS = 0.5, 3.0
MIN_SHARE = 0.1
MOST_FINDS = 5


@dataclass(frozen=True, slots=True)
class View:
    """A picture at working size, and what the diffusion model sees in it.

    Attributes:
        full: In [0, 1], at the picture's own size.
        working: The same, scaled down where it was large.
        latents: One vector per cell; the last cells may reach beyond the picture.
        features: Of the decoder, on the same cells.
    """

    full: Float[Tensor, "3 height width"]
    working: Float[Tensor, "3 h w"]
    latents: Float[Tensor, "d hc wc"]
    features: Float[Tensor, "c hc wc"]
    cell_px: int

    def upsample(self, cells: Float[Tensor, "n hc wc"]) -> Float[Tensor, "n h w"]:
        """Cells as pixels of the working picture."""
        size = [side * self.cell_px for side in cells.shape[1:]]
        pixels = F.interpolate(cells[None], size, mode="bilinear", align_corners=False)[0]
        return pixels[:, : self.working.shape[1], : self.working.shape[2]]

    def edges(self, cells: Float[Tensor, "n hc wc"]) -> Edges:
        return proposals.fit_edges(self.upsample(cells), self.working, EDGE_CELLS * self.cell_px)


def clusters(setup: Setup) -> MaskBackend:
    return Clusters(setup)


class Clusters:
    """Regions of equal features; words choose among them."""

    name = "clusters"
    licence = "Apache-2.0"

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._seen: tuple[bytes, View] | None = None
        self._cut: Regions | None = None

    def close(self) -> None:
        """Forget the last picture."""
        self._seen = self._cut = None

    def segment(self, image: Image.Image, prompts: Sequence[str]) -> list[MaskResult]:
        """See `MaskBackend`; a score is a find's share of the evidence for its words.

        Prompts given together are told apart: what fits another one better fits this one less.
        """
        view = self._view(image)
        if not prompts:
            return self._partition(view)
        found = proposals.few(self._regions(view).proposals)
        if not found:
            return []
        edges = view.edges(torch.stack([one.cells for one in found]).float())
        crops = [crop(view.working, edges.on(view.working, row)) for row in range(len(found))]
        cosines = self._setup.ranker()(crops, list(prompts)).float().cpu()
        objectness = torch.tensor([one.objectness for one in found])
        shares = evidence(cosines, objectness, self._setup.sharpness)
        results: list[MaskResult] = []
        for column, prompt in enumerate(prompts):
            for row in self._matching(shares[:, column]):
                detail = {
                    "cosine": float(cosines[row, column]),
                    "objectness": found[row].objectness,
                }
                mask, share = edges.on(view.full, row), float(shares[row, column])
                results.append(_result(mask, share, prompt=prompt, detail=detail))
        return results

    def segment_at(
        self,
        image: Image.Image,
        *,
        points: Sequence[tuple[float, float, bool]] = (),
        boxes: Sequence[Box] = (),
    ) -> list[MaskResult]:
        """See `PointsBackend`; a score is the region's objectness, or its overlap with the box."""
        view = self._view(image)
        regions = self._regions(view)
        found: list[tuple[Tensor, float]] = []
        if any(belongs for _, _, belongs in points):
            found.append(_at_points(regions, [(*_cell(view, x, y), b) for x, y, b in points]))
        found += [_in_box(regions, _cells_of(view, box)) for box in boxes]
        # Points inside and outside may lie in one piece, which then belongs to neither.
        found = [one for one in found if one[0].any()]
        if not found:
            return []
        edges = view.edges(torch.stack([cells for cells, _ in found]).float())
        return [
            _result(edges.on(view.full, index), score) for index, (_, score) in enumerate(found)
        ]

    def _matching(self, shares: Float[Tensor, " n"]) -> list[int]:
        """Finds that share enough, best first; the best always, unless a threshold is set."""
        order = shares.argsort(descending=True, stable=True)[:MOST_FINDS].tolist()
        threshold = self._setup.settings.threshold
        if threshold is not None:
            return [row for row in order if float(shares[row]) >= threshold]
        return order[:1] + [row for row in order[1:] if float(shares[row]) >= MIN_SHARE]

    def _partition(self, view: View) -> list[MaskResult]:
        """StyleGallery's regions, the largest first; their masks sum to one."""
        fixed = self._setup.settings.clusters
        labels, scores = clustering.cluster(
            view.features, seed=self._setup.seed, ks=(fixed,) if fixed else clustering.KS
        )
        if not fixed:
            labels = clustering.merge(labels, view.latents, MERGE_DISTANCE)
        labels = clustering.by_area(clustering.sweep(labels, smallest=_small(labels)))
        cells = F.one_hot(labels - 1).permute(2, 0, 1).float()
        edges = view.edges(cells)
        soft = torch.stack([edges.soft(view.full, index) for index in range(len(cells))])
        masks = soft / soft.sum(dim=0)
        best = max(0.0, max(scores.values()))
        return [_result(mask, best, detail={"silhouette_of_clusters": best}) for mask in masks]

    def _view(self, image: Image.Image) -> View:
        """Kept for the last picture: questions about one picture come one after the other."""
        rgb = image.convert("RGB")
        key = repr(rgb.size).encode() + rgb.tobytes()
        if self._seen is None or self._seen[0] != key:
            pixels = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255
            self._seen, self._cut = (key, look(self._setup.backbone(), pixels)), None
        return self._seen[1]

    def _regions(self, view: View) -> Regions:
        if self._cut is None:
            fixed = self._setup.settings.clusters
            self._cut = proposals.propose(
                proposals.describe(view.features, view.latents),
                seed=self._setup.seed,
                ks=(fixed,) if fixed else proposals.KS,
            )
        return self._cut


def look(backbone: Backbone, picture: Float[Tensor, "3 height width"]) -> View:
    """Invert a picture at working size and keep what the decoder saw."""
    longest = WORKING_CELLS * backbone.latent_px
    height, width = picture.shape[1:]
    scale = min(1.0, longest / max(height, width))
    working = picture
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        working = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    height, width = working.shape[1:]
    multiple = backbone.multiple_px
    beyond = (0, -width % multiple, 0, -height % multiple)
    clean = backbone.encode_image(F.pad(working[None], beyond, mode="replicate"))
    features = decoder_features(backbone, clean).maps
    rows, columns = (math.ceil(side / backbone.latent_px) for side in (height, width))
    return View(
        full=picture,
        working=working,
        latents=clean[0, :, :rows, :columns].float().cpu(),
        features=features[0, :, :rows, :columns].cpu(),
        cell_px=backbone.latent_px,
    )


def evidence(
    cosines: Float[Tensor, "n texts"], objectness: Float[Tensor, " n"], sharpness: float
) -> Float[Tensor, "n texts"]:
    """Each find's share of the evidence for each text; columns sum to one.

    Args:
        sharpness: What a cosine counts for in all; see `Setup`.
    """
    likeness = sharpness / SHARPNESS * cosines
    if cosines.shape[1] > 1:
        likeness = likeness - likeness.logsumexp(dim=1, keepdim=True)
    logs = likeness + PER_OBJECTNESS * objectness.clamp(min=FLAT).log()[:, None]
    return (SHARPNESS * logs).softmax(dim=0)


def crop(picture: Float[Tensor, "3 h w"], mask: Float[Tensor, "h w"]) -> Float[Tensor, "3 s s"]:
    """A square around a mask with a margin, what lies outside the mask painted white."""
    rows, columns = (mask > 0.5 * mask.max()).nonzero(as_tuple=True)
    if not len(rows):
        return picture.new_ones(3, 1, 1)
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    side = max(1, round(max(height, width) * (1 + 2 * MARGIN)))
    y, x = top - (side - height) // 2, left - (side - width) // 2
    painted = F.pad(picture * mask + 1 - mask, [side] * 4, value=1.0)
    return painted[:, y + side : y + 2 * side, x + side : x + 2 * side]


def _at_points(
    regions: Regions, points: Sequence[tuple[int, int, bool]]
) -> tuple[Bool[Tensor, "h w"], float]:
    """The likeliest thing with all points that belong and no others, or else the points' pieces."""
    for one in regions.proposals:
        if all(bool(one.cells[row, column]) == belongs for row, column, belongs in points):
            return one.cells, one.objectness
    pieces = {(int(regions.pieces[row, column]), belongs) for row, column, belongs in points}
    wanted = [number for number, belongs in pieces if belongs and (number, False) not in pieces]
    return torch.isin(regions.pieces, torch.tensor(wanted, dtype=torch.long)), 0.0


def _in_box(regions: Regions, box: tuple[int, int, int, int]) -> tuple[Bool[Tensor, "h w"], float]:
    """The region whose own box overlaps the given one most; without any, the box."""
    inside = torch.zeros_like(regions.pieces, dtype=torch.bool)
    left, top, right, bottom = box
    inside[top:bottom, left:right] = True
    best: tuple[float, Proposal] | None = None
    for one in regions.proposals:
        own = one.cells.any(dim=1)[:, None] & one.cells.any(dim=0)[None]
        overlap = float((own & inside).sum() / (own | inside).sum())
        if best is None or overlap > best[0]:
            best = (overlap, one)
    if best is None or not best[0]:
        return inside, 0.0
    return best[1].cells, best[0]


def _cell(view: View, x: float, y: float) -> tuple[int, int]:
    """Row and column; what lies outside the picture is moved to its edge."""
    (height, width), (rows, columns) = view.full.shape[1:], view.latents.shape[1:]
    scale_y, scale_x = (view.working.shape[i] / view.full.shape[i] / view.cell_px for i in (1, 2))
    row = int(min(max(y, 0), height - 1) * scale_y)
    column = int(min(max(x, 0), width - 1) * scale_x)
    return min(row, rows - 1), min(column, columns - 1)


def _cells_of(view: View, box: Box) -> tuple[int, int, int, int]:
    (top, left), (bottom, right) = _cell(view, box[0], box[1]), _cell(view, box[2], box[3])
    return left, top, right + 1, bottom + 1


def _small(labels: Int[Tensor, "h w"]) -> int:
    """StyleGallery's 20 of 64 x 64 cells, in proportion."""
    return max(2, round(clustering.SMALL_CELLS * labels.numel() / WORKING_CELLS**2))


def _result(
    mask: Float[Tensor, "h w"],
    score: float,
    *,
    prompt: str = "",
    detail: Mapping[str, float] | None = None,
) -> MaskResult:
    box = box_of(mask > 0.5)
    boxes = () if box is None else (box,)
    return MaskResult(mask=mask, score=score, prompt=prompt, boxes=boxes, detail=dict(detail or {}))
