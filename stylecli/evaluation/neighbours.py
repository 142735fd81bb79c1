"""Similarity freed of hubs: some pictures are near to everything, and nearness to them says little.

Cross-domain similarity local scaling (Conneau et al. 2018, sec. 2.3), made for translating words:
twice the cosine, less what either side has on average with its nearest of the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.nn import functional as F

from stylecli.evaluation.frechet import Table, in_double, spans

NEAREST = 10


def csls(
    outputs: Table,
    references: Table,
    pairs: Int[Tensor, "p 2"],
    *,
    nearest: int = NEAREST,
    block: int = 2048,
) -> Float64[Tensor, " p"]:
    """``2 cos(a, b) - r(a) - r(b)`` of pairs of an output and a reference.

    r is the mean cosine to the `nearest` of the other side, or to all where they are fewer. The
    whole table of cosines is seen once, in tiles.

    Args:
        outputs: Of one method, each once.
        references: That its outputs were compared with, each once.
        pairs: Row of an output, row of a reference.
        nearest: How many neighbours.
        block: Rows in memory at a time, of either side.
    """
    cosines = torch.empty(len(pairs), dtype=torch.float64)
    of_outputs, of_references = _Nearest(len(outputs), nearest), _Nearest(len(references), nearest)
    for rows in spans(len(outputs), block):
        a = _unit(outputs[rows])
        here = (pairs[:, 0] >= rows.start) & (pairs[:, 0] < rows.stop)
        for columns in spans(len(references), block):
            tile = a @ _unit(references[columns]).T
            of_outputs.see(rows, tile)
            of_references.see(columns, tile.T)
            chosen = here & (pairs[:, 1] >= columns.start) & (pairs[:, 1] < columns.stop)
            inside = pairs[chosen] - torch.tensor([rows.start, columns.start])
            cosines[chosen] = tile[inside[:, 0], inside[:, 1]]
    left, right = of_outputs.mean()[pairs[:, 0]], of_references.mean()[pairs[:, 1]]
    return 2 * cosines - left - right


@dataclass(frozen=True, slots=True)
class Gap:
    """Whether a similarity can tell one family of styles from the others.

    Attributes:
        within: Mean similarity of two different references of the family.
        across: The highest mean similarity to another family.
        nearest: Which family that is.
        n: References of the family.
    """

    within: float
    across: float
    nearest: str
    n: int

    @property
    def value(self) -> float:
        """How much nearer a family is to itself; at 0 or below the similarity is blind to it."""
        return self.within - self.across


def gaps(
    references: Table,
    families: Sequence[str],
    *,
    corrected: bool = False,
    nearest: int = NEAREST,
    block: int = 2048,
) -> Mapping[str, Gap]:
    """The discrimination gap of every family of two references or more.

    A mean of cosines is the product of two mean vectors, so no table of pairs is made.

    Args:
        references: One row for each reference.
        families: The family of each.
        corrected: By `csls`, where each reference's neighbours are the other references.
        nearest: How many of them.
        block: Rows in memory at a time.

    Returns:
        By name; nothing where there are fewer than two families.
    """
    names = sorted(set(families))
    codes = torch.tensor([names.index(family) for family in families])
    if len(names) < 2:
        return {}
    sizes = torch.bincount(codes).double()
    sums = _sums(references, codes, len(names), block)
    means = sums @ sums.T / torch.outer(sizes, sizes)
    # A reference is no evidence about itself: its cosine of 1 is taken out.
    own = (sums.square().sum(dim=1) - sizes) / (sizes * (sizes - 1))
    similar = torch.where(torch.eye(len(names), dtype=torch.bool), own[:, None], means)
    if corrected:
        near = _to_others(references, nearest, block)
        of_family = torch.bincount(codes, weights=near) / sizes
        similar = 2 * similar - of_family[:, None] - of_family
    found = {}
    for index, name in enumerate(names):
        if sizes[index] < 2:
            continue
        others = similar[index].clone()
        others[index] = -torch.inf
        best = int(others.argmax())
        found[name] = Gap(
            float(similar[index, index]), float(others[best]), names[best], int(sizes[index])
        )
    return found


class _Nearest:
    """The largest cosines of every row of a side, as tiles of the table come by."""

    def __init__(self, rows: int, nearest: int) -> None:
        self._best = torch.full((rows, nearest), -torch.inf, dtype=torch.float64)

    def see(self, rows: slice, tile: Float64[Tensor, "a b"]) -> None:
        both = torch.cat([self._best[rows], tile], dim=1)
        self._best[rows] = both.topk(self._best.shape[1], dim=1).values

    def mean(self) -> Float64[Tensor, " n"]:
        """NaN for a row that has seen nobody."""
        seen = self._best.isfinite()
        found: Tensor = self._best.where(seen, 0).sum(dim=1) / seen.sum(dim=1)
        return found


def _to_others(references: Table, nearest: int, block: int) -> Float64[Tensor, " n"]:
    """Mean cosine of each reference to the nearest of the others."""
    found = _Nearest(len(references), nearest)
    for rows in spans(len(references), block):
        a = _unit(references[rows])
        for columns in spans(len(references), block):
            tile = a @ _unit(references[columns]).T
            if rows == columns:
                tile.fill_diagonal_(-torch.inf)
            found.see(rows, tile)
    return found.mean()


def _sums(
    references: Table, codes: Int[Tensor, " n"], families: int, block: int
) -> Float64[Tensor, "f d"]:
    total = None
    for rows in spans(len(references), block):
        members = F.one_hot(codes[rows], families).double()
        part = members.T @ _unit(references[rows])
        total = part if total is None else total + part
    assert total is not None  # noqa: S101  two families have two references
    return total


def _unit(rows: Tensor) -> Float64[Tensor, "n d"]:
    return F.normalize(in_double(rows), dim=1)
