"""From features of cells to what may be a thing: regions, their unions, and how whole each looks.

Pure arithmetic. Clusterings of several sizes are cut into pieces, pieces that touch are joined like
to like until one is left, and whatever the border's clusters leave over is added. The many regions
this gives are then reduced to a few that do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from stylecli.tensors import clustering
from stylecli.tensors.channels import FLAT

KS = tuple(range(2, 13))
# Latents tell colours apart better than the decoder's features do; both have about unit spread.
LATENT_WEIGHT = 0.35
SPECK_CELLS = 4
# Of the picture: what is smaller is a speck, what is larger is the picture.
MIN_SHARE, MAX_SHARE = 0.004, 0.95
SAME_OVERLAP = 0.9
MAX_COMMON = 0.4
MOST = 10
BORDER_CELLS, RING_CELLS = 2, 2
NEIGHBOURS = 5
# A logistic model of "overlaps a thing by 0.75", fitted to the regions of 72 scenes of icons.
WEIGHTS = {
    "log_area": 1.07,
    "log_votes": 0.34,
    "unlike_border": 4.43,
    "ring_unlike_border": -3.31,
    "contrast": 0.97,
    "of_border": -5.37,
    "edge": -0.77,
}
BIAS = 1.74
# Variance of colour below which a mask's edge is not moved (the guided filter's epsilon), and how
# much steeper than fitted the edge is made.
SMOOTHNESS = 1e-3
STEEPNESS = 4.0

Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A region of cells that may be a thing.

    Attributes:
        cells: What belongs to it.
        objectness: The chance that it is one whole thing, as far as form and place tell.
        traits: What that was told from, by name.
    """

    cells: Bool[Tensor, "h w"]
    objectness: float
    traits: dict[str, float]


@dataclass(frozen=True, slots=True)
class Regions:
    """Everything a picture was cut into.

    Attributes:
        pieces: The finest cut, numbers from 1.
        proposals: All regions worth looking at, the most object-like first; they overlap.
    """

    pieces: Int[Tensor, "h w"]
    proposals: tuple[Proposal, ...]


def describe(
    features: Float[Tensor, "c h w"], latents: Float[Tensor, "d h w"]
) -> Float[Tensor, "e h w"]:
    """Features and latents in one space, on a common scale."""
    points = clustering.principal(clustering.standardise(features))
    points = points / points.std(dim=0).norm().clamp(min=FLAT)
    colours = LATENT_WEIGHT * clustering.standardise(latents)
    return torch.cat([points, colours], dim=1).T.reshape(-1, *features.shape[1:])


def propose(description: Float[Tensor, "c h w"], *, seed: int, ks: Sequence[int] = KS) -> Regions:
    """Cut a picture into regions and say how object-like each is.

    Args:
        description: From `describe`.
        seed: Of k-means.
        ks: Numbers of clusters, ascending; the last is the finest cut.
    """
    points, size = description.flatten(1).T, description.shape[1:]
    labelings = [
        clustering.sweep(clustering.k_means(points, k, seed).view(size), smallest=SPECK_CELLS)
        for k in ks
    ]
    pieces = clustering.components(labelings[-1])
    values = description.numpy()
    found = unions(pieces.numpy(), values)
    for labels in labelings:
        found += left_over(labels.numpy())
    regions, votes = distinct(found)
    border = unlike_border(description).numpy()
    proposals = []
    for cells, count in zip(regions, votes, strict=True):
        traits = _traits(cells, values, border) | {"log_votes": float(np.log(count))}
        odds = BIAS + sum(WEIGHTS[name] * value for name, value in traits.items())
        chance = float(1 / (1 + np.exp(-odds)))
        proposals.append(Proposal(torch.from_numpy(cells), chance, traits))
    return Regions(pieces, tuple(sorted(proposals, key=lambda p: -p.objectness)))


def few(proposals: Sequence[Proposal], most: int = MOST) -> list[Proposal]:
    """The most object-like that share little of themselves with better ones."""
    kept: list[Proposal] = []
    for one in proposals:
        if len(kept) == most:
            break
        if all(_common(one.cells, other.cells) < MAX_COMMON for other in kept):
            kept.append(one)
    return kept


def unions(pieces: npt.NDArray[np.int64], values: npt.NDArray[np.float32]) -> list[Cells]:
    """Every piece and every union on the way to the whole picture.

    The touching pair whose union adds least variance is joined next (Ward 1963).
    """
    count = int(pieces.max())
    flat = pieces.ravel() - 1
    sizes = np.bincount(flat, minlength=count).astype(float)
    sums = np.stack([np.bincount(flat, row.ravel(), count) for row in values], axis=1)
    touch = np.zeros((count, count), bool)
    for here, beside in ((pieces[1:], pieces[:-1]), (pieces[:, 1:], pieces[:, :-1])):
        touch[here.ravel() - 1, beside.ravel() - 1] = True
    touch |= touch.T
    np.fill_diagonal(touch, False)
    cells: list[Cells] = [pieces == number for number in range(1, count + 1)]
    found = list(cells)
    while len(cells) > 1:
        means = sums / sizes[:, None]
        gaps = ((means[:, None] - means[None]) ** 2).sum(axis=2)
        costs = np.where(touch, gaps * sizes * sizes[:, None] / (sizes + sizes[:, None]), np.inf)
        one, other = sorted(divmod(int(costs.argmin()), len(cells)))
        cells[one] = cells[one] | cells[other]
        found.append(cells[one])
        sums[one] += sums[other]
        sizes[one] += sizes[other]
        touch[one] |= touch[other]
        touch[:, one] = touch[one]
        touch[one, one] = False
        del cells[other]
        sums, sizes = np.delete(sums, other, axis=0), np.delete(sizes, other)
        touch = np.delete(np.delete(touch, other, axis=0), other, axis=1)
    return found


def left_over(labels: npt.NDArray[np.int64]) -> list[Cells]:
    """The pieces that remain when the border's clusters are taken away, one after the other."""
    from scipy import ndimage

    around = _border(labels.shape, 1)
    found_labels, counts = np.unique(labels[around], return_counts=True)
    found: list[Cells] = []
    rest = np.ones(labels.shape, bool)
    for label in found_labels[np.argsort(-counts, kind="stable")]:
        rest = rest & (labels != label)
        for whole in (rest, ndimage.binary_fill_holes(rest)):
            numbered, count = ndimage.label(whole)
            found += [numbered == number for number in range(1, count + 1)]
    return found


def distinct(found: Sequence[Cells]) -> tuple[list[Cells], list[int]]:
    """Regions without their holes, specks and near copies; and how many copies each stands for."""
    from scipy import ndimage

    filled = [ndimage.binary_fill_holes(cells) for cells in found]
    filled = [cells for cells in filled if MIN_SHARE <= cells.mean() <= MAX_SHARE]
    if not filled:
        return [], []
    flat = np.stack([cells.ravel() for cells in filled]).astype(np.float32)
    common, areas = flat @ flat.T, flat.sum(axis=1)
    is_same = common > SAME_OVERLAP * (areas + areas[:, None] - common)
    kept: list[int] = []
    votes: list[int] = []
    for index in range(len(filled)):
        same = [rank for rank, other in enumerate(kept) if is_same[index, other]]
        if same:
            votes[same[0]] += 1
        else:
            kept.append(index)
            votes.append(1)
    return [filled[index] for index in kept], votes


def unlike_border(description: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """How far a cell is from what the picture's edge is made of: about 0 for ground, 1 for things.

    The distance to the fifth nearest cell of the edge: one stray cell there makes nothing ground.
    """
    points, size = description.flatten(1).T, description.shape[1:]
    edge = points[torch.from_numpy(_border(size, BORDER_CELLS).ravel())]
    nearest = torch.cdist(points, edge).sort(dim=1).values[:, min(NEIGHBOURS, len(edge)) - 1]
    low, high = torch.quantile(nearest, torch.tensor([0.1, 0.9]))
    found: Tensor = (nearest - low) / (high - low).clamp(min=FLAT)
    return found.view(size)


@dataclass(frozen=True, slots=True)
class Edges:
    """Masks as colours of a picture: in every window a mask is a linear map of the colour.

    He et al. 2013 (guided filter); what was fitted on a small picture is used on the large one as
    in their fast variant of 2015.
    """

    slopes: Float[Tensor, "n 3 h w"]
    offsets: Float[Tensor, "n h w"]

    def soft(
        self, picture: Float[Tensor, "3 height width"], index: int
    ) -> Float[Tensor, "height width"]:
        """One mask on a picture of any size, not below 0; those of a partition sum to 1 or more."""
        fitted = torch.cat([self.slopes[index], self.offsets[index][None]])
        if fitted.shape[1:] != picture.shape[1:]:
            size = picture.shape[1:]
            fitted = F.interpolate(fitted[None], size, mode="bilinear", align_corners=False)[0]
        return ((fitted[:3] * picture).sum(dim=0) + fitted[3]).clamp(min=0)

    def on(
        self, picture: Float[Tensor, "3 height width"], index: int
    ) -> Float[Tensor, "height width"]:
        """The same with a steeper edge."""
        return ((self.soft(picture, index) - 0.5) * STEEPNESS + 0.5).clamp(0, 1)


def fit_edges(masks: Float[Tensor, "n h w"], picture: Float[Tensor, "3 h w"], radius: int) -> Edges:
    """The linear maps that give soft masks the edges of a picture of the same size.

    Args:
        masks: In [0, 1].
        picture: In [0, 1].
        radius: Of the window, in pixels.
    """
    sides, width = [radius] * 4, 2 * radius + 1

    def mean(maps: Float[Tensor, "m h w"]) -> Float[Tensor, "m h w"]:
        padded = F.pad(maps[None], sides, mode="replicate")
        # Along rows, then along columns: the same means for a fraction of the sums.
        rows = F.avg_pool2d(padded, (1, width), 1)
        return F.avg_pool2d(rows, (width, 1), 1)[0]

    colour, wanted = picture.double(), masks.double()
    centre, level = mean(colour), mean(wanted)
    products = mean((colour[:, None] * colour[None]).flatten(0, 1)).unflatten(0, (3, 3))
    covariance = (products - centre[:, None] * centre[None]).permute(2, 3, 0, 1)
    joint = mean((colour[:, None] * wanted[None]).flatten(0, 1)).unflatten(0, (3, len(masks)))
    joint = (joint - centre[:, None] * level[None]).permute(2, 3, 0, 1)
    ridge = SMOOTHNESS * torch.eye(3, dtype=torch.double)
    slopes = torch.linalg.solve(covariance + ridge, joint).permute(3, 2, 0, 1)
    offsets = level - (slopes * centre[None]).sum(dim=1)
    smooth = mean(slopes.flatten(0, 1)).unflatten(0, (len(masks), 3))
    return Edges(smooth.float(), mean(offsets).float())


def _traits(
    cells: Cells, values: npt.NDArray[np.float32], unlike: npt.NDArray[np.float32]
) -> dict[str, float]:
    from scipy import ndimage

    border = _border(cells.shape, 1)
    rim = cells & ~ndimage.binary_erosion(cells, border_value=1)
    edge = int((rim | (cells & border)).sum())
    ring = ndimage.binary_dilation(cells, iterations=RING_CELLS) & ~cells
    inside, outside = values[:, cells].mean(axis=1), values[:, ring].mean(axis=1)
    return {
        "log_area": float(np.log(cells.mean())),
        "unlike_border": float(np.quantile(unlike[cells], 0.2)),
        "ring_unlike_border": float(unlike[ring].mean()),
        "contrast": float(np.linalg.norm(inside - outside)),
        "of_border": float((cells & border).sum() / border.sum()),
        "edge": float(edge / np.sqrt(cells.sum())),
    }


def _border(size: Sequence[int], cells: int) -> Cells:
    border = np.ones(tuple(size), bool)
    border[cells:-cells, cells:-cells] = False
    return border


def _common(one: Bool[Tensor, "h w"], other: Bool[Tensor, "h w"]) -> float:
    return float((one & other).sum() / torch.minimum(one.sum(), other.sum()))
