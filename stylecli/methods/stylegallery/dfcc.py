"""Where the regions of a picture are: clusters of what the diffusion model sees in it.

The first stage of StyleGallery (CVPR 2026, section "DFCC"). Section numbers are those of our notes
on it; what its authors' code does otherwise is in `as_released`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from stylecli.backbone.features import decoder_features
from stylecli.backbone.finite import see_finite
from stylecli.backbone.model import Backbone
from stylecli.methods.stylegallery import as_released
from stylecli.recipe.gallery import Dfcc
from stylecli.tensors import clustering, depths
from stylecli.tensors.cells import majority

# Numbers of cells in a recipe are meant for so many; Stable Diffusion 1.5 was trained on them.
USUAL_CELLS = 64 * 64
# With more of the picture in no segment, clusters say more about it than the segments do.
MOST_UNCOVERED = 0.3
# Pixels that differ by less than an 8-bit level are of one colour.
LEVEL = 1 / 255


@dataclass(frozen=True, slots=True)
class Seen:
    """What the diffusion model sees of one picture; on the CPU, and free of inference mode.

    Attributes:
        clean: Latents, scaled.
        noise: Where the inversion ends; `clean` for an inversion of no steps.
        features: One vector per cell. Rounded to half precision, so that those read from a file
            are the same; zeros for a picture of one colour, of which borders are all a model sees.
    """

    clean: Float[Tensor, "c h w"]
    noise: Float[Tensor, "c h w"]
    features: Float[Tensor, "d h w"]


@dataclass(frozen=True, slots=True)
class Regions:
    """A picture in pieces.

    Attributes:
        labels: From 1 without gaps, the largest region first; one for each cell of the latents.
        scores: Mean silhouette of every number of clusters tried; empty where nothing was
            clustered.
        depth: Of cells, 0 far and 1 near; None where none was given or it tells nothing.
        moved: Share of cells that were swept into a neighbour; more than a quarter is noise.
        painted: Numbers of regions that came from a user's mask, in the order of `labels`.
        of_paint: The region of each number of that mask; one that covers no cell is missing.
    """

    labels: Int[Tensor, "h w"]
    scores: Mapping[int, float]
    depth: Float[Tensor, "h w"] | None
    moved: float
    painted: tuple[int, ...] = ()
    of_paint: Mapping[int, int] = field(default_factory=dict)


def see(
    backbone: Backbone,
    images: Float[Tensor, "b 3 height width"],
    settings: Dfcc,
    *,
    on_step: Callable[[], object] = lambda: None,
) -> list[Seen]:
    """Encode and invert pictures of one size, in [0, 1], in one batch.

    Args:
        backbone: With no LoRA switched on.
        images: As the model is to see them.
        settings: `steps` and `block` count; nothing else does.
        on_step: Called after each level of the inversion.

    Raises:
        RecipeError: The model has no such block, or not so many levels.
        ItemError: The model returned NaN or infinity.
        WeightsError: Its weights hold them.
    """
    clean = backbone.encode_image(images)
    found = decoder_features(backbone, clean, settings.steps, settings.block, on_step=on_step)
    see_finite(found.maps, backbone, what="the features hold")
    see_finite(found.noise, backbone, what="inversion gave")
    features = F.interpolate(found.maps, clean.shape[2:], mode="bilinear")
    most = torch.finfo(torch.half).max
    features = features.clamp(-most, most).half().float()
    pixels = images.flatten(2)
    is_plain = (pixels.amax(2) - pixels.amin(2)).amax(1) < LEVEL
    return [
        # A copy, because tensors of inference mode cannot take part in training.
        Seen(
            clean[row].float().cpu().clone(),
            found.noise[row].float().cpu().clone(),
            (features[row] * float(not is_plain[row])).cpu().clone(),
        )
        for row in range(len(images))
    ]


def divide(
    seen: Seen,
    settings: Dfcc,
    *,
    seed: int,
    depth: Float[Tensor, "hd wd"] | None = None,
    segments: Bool[Tensor, "n hs ws"] | None = None,
    painted: Int[Tensor, "hp wp"] | None = None,
) -> Regions:
    """Cut a picture into regions; equal arguments give equal ones.

    Args:
        seen: The picture, as `see` leaves it.
        settings: Of the clusters.
        seed: Of the clusters' restarts.
        depth: Inverse depth, large is near, of any scale and size; splits clusters.
        segments: Of any size, in any order; they take the clusters' place, and depth splits none.
        painted: By hand, of any size: cells of each number but 0 are one region. They lie on
            everything else, or else there is nothing but what they leave free.
    """
    size = (seen.clean.shape[1], seen.clean.shape[2])
    near = None if depth is None else _normalised(depth, size, settings)
    hand = None if painted is None else majority(painted, size)
    labels, scores = torch.ones(size, dtype=torch.long), dict[int, float]()
    if hand is None or settings.mask_mode == "override":
        labels, scores = (
            _clusters(seen, settings, seed, near)
            if segments is None
            else _segments(seen, settings, seed, segments)
        )
    before = labels
    if hand is not None:
        before = torch.where(hand > 0, hand, hand.max() + clustering.by_area(labels))
    swept = _sweep(before, settings, None if hand is None else hand > 0)
    labels = clustering.by_area(swept)
    of_paint = (
        {}
        if hand is None
        else {
            number: int(labels[swept == number][0])
            for number in hand.unique().tolist()
            if number and (swept == number).any()
        }
    )
    return Regions(
        labels=labels,
        scores=scores,
        depth=near,
        moved=float((swept != before).double().mean()),
        painted=tuple(sorted(of_paint.values())),
        of_paint=of_paint,
    )


def _clusters(
    seen: Seen, settings: Dfcc, seed: int, depth: Float[Tensor, "h w"] | None
) -> tuple[Int[Tensor, "h w"], dict[int, float]]:
    """Clusters, merged; those that reach from near to far are split, and merged again."""
    if settings.k == 1:
        return torch.ones(seen.clean.shape[1:], dtype=torch.long), {}
    labels, scores = _best_clusters(_points(seen, settings, seed), settings, seed)
    merge = as_released.merge if settings.merge == "ordered" else clustering.merge
    labels = merge(labels.view(seen.clean.shape[1:]), seen.clean, settings.merge_distance)
    if depth is None:
        return labels, scores
    smallest = _scaled(depths.SMALLEST_CELLS, labels)
    labels = depths.split(labels, depth, span=settings.depth_span, smallest=smallest)
    # Never what the first merging left apart: with a distance of 0 nothing is merged at all.
    threshold = min(settings.depth_distance, settings.merge_distance)
    labels = merge(labels, seen.clean, threshold, depth=depth, depth_gap=settings.depth_gap)
    return labels, scores


def _segments(
    seen: Seen, settings: Dfcc, seed: int, segments: Bool[Tensor, "n hs ws"]
) -> tuple[Int[Tensor, "h w"], dict[int, float]]:
    """Segments, small ones on large ones; what none covers joins the likest, or is clustered."""
    areas = segments.flatten(1).sum(1)
    flat = torch.zeros(segments.shape[1:], dtype=torch.long)
    for number, row in enumerate(areas.argsort(descending=True, stable=True).tolist(), start=1):
        flat[segments[row]] = number
    labels = majority(flat, (seen.clean.shape[1], seen.clean.shape[2]))
    is_free, scores = labels == 0, dict[int, float]()
    if is_free.any():
        points = _points(seen, settings, seed)
        if is_free.double().mean() > MOST_UNCOVERED:
            found, scores = _best_clusters(points, settings, seed)
            labels = torch.where(is_free, labels.max() + 1 + found.view(labels.shape), labels)
        else:
            labels = _join_likest(labels, points)
    merge = as_released.merge if settings.merge == "ordered" else clustering.merge
    return merge(labels, seen.clean, settings.segment_distance), scores


def _join_likest(labels: Int[Tensor, "h w"], points: Float[Tensor, "n p"]) -> Int[Tensor, "h w"]:
    """Cells labelled 0 take the label whose mean point is nearest to their own."""
    flat = labels.flatten()
    known = flat.unique()
    known = known[known > 0]
    means = torch.stack([points[flat == label].mean(dim=0) for label in known])
    nearest = known[torch.cdist(points, means).argmin(dim=1)]
    return torch.where(flat == 0, nearest, flat).view(labels.shape)


def _points(seen: Seen, settings: Dfcc, seed: int) -> Float[Tensor, "n p"]:
    """One per cell, in the space in which clusters are looked for."""
    rows = clustering.standardise(seen.features)
    if settings.pca == "random":
        return as_released.principal(rows, settings.components, seed)
    return clustering.principal(rows, settings.components)


def _best_clusters(
    points: Float[Tensor, "n p"], settings: Dfcc, seed: int
) -> tuple[Int[Tensor, " n"], dict[int, float]]:
    fixed = settings.k
    return clustering.cluster_points(
        points,
        seed=seed,
        ks=(fixed,) if fixed else range(settings.k_min, settings.k_max + 1),
        find=as_released.k_means if settings.k_means == "random" else clustering.k_means,
    )


def _normalised(
    depth: Float[Tensor, "hd wd"], size: tuple[int, int], settings: Dfcc
) -> Float[Tensor, "h w"] | None:
    if settings.depth_resize == "area":
        return depths.normalised(depth, size)
    return depths.between_ends(F.interpolate(depth[None, None], size, mode="nearest")[0, 0])


def _sweep(
    labels: Int[Tensor, "h w"], settings: Dfcc, protected: Bool[Tensor, "h w"] | None
) -> Int[Tensor, "h w"]:
    sweep = as_released.sweep if settings.sweep == "once" else clustering.sweep
    return sweep(labels, smallest=_scaled(settings.min_cells, labels), protected=protected)


def _scaled(cells: int, labels: Int[Tensor, "h w"]) -> int:
    """A number that is meant for the usual number of cells, for as many as there are."""
    return math.ceil(cells * labels.numel() / USUAL_CELLS)
