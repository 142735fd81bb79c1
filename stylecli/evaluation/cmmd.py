"""Distance of two sets of CLIP embeddings under a Gaussian kernel (Jayasumana et al. 2024).

It assumes no shape of either distribution and settles with a few hundred pictures, where a Fréchet
distance is still mostly bias. The published form counts every picture as its own neighbour, which
adds about 1 / n of either set; the unbiased form does not, and may be negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from stylecli.errors import ItemError
from stylecli.evaluation.frechet import Table, in_double, spans

SIGMA = 10.0
SCALE = 1000


@dataclass(frozen=True, slots=True, eq=False)
class KernelSums:
    """Kernel values of two sets, summed by the group an output is of.

    All that a distance needs, with or without any of the groups: one pass over the pairs serves the
    whole jackknife.

    Attributes:
        sizes: Outputs of each group.
        within: Over pairs of outputs, an output with itself among them.
        between: Over pairs of an output and a reference.
        references: Over pairs of references, one with itself among them.
        n_references: How many references.
    """

    sizes: Int[Tensor, " g"]
    within: Float64[Tensor, "g g"]
    between: Float64[Tensor, " g"]
    references: float
    n_references: int

    @classmethod
    def of(
        cls,
        outputs: Table,
        references: Table,
        groups: Int[Tensor, " n"],
        *,
        sigma: float = SIGMA,
        block: int = 2048,
    ) -> KernelSums:
        """Every pair once, in tiles of `block` rows: no matrix grows with the square of a set.

        Raises:
            ItemError: Features that are not finite.
        """
        count = int(groups.max()) + 1
        members = torch.nn.functional.one_hot(groups, count).double()
        within = torch.zeros(count, count, dtype=torch.float64)
        between = torch.zeros(count, dtype=torch.float64)
        tiles = spans(len(outputs), block)
        for index, span in enumerate(tiles):
            rows, mine = in_double(outputs[span]), members[span]
            for other in tiles[index:]:
                kernel = _kernel(rows, rows if other == span else in_double(outputs[other]), sigma)
                summed = mine.T @ kernel @ members[other]
                within += summed if other == span else summed + summed.T
            for other in spans(len(references), block):
                between += mine.T @ _kernel(rows, in_double(references[other]), sigma).sum(dim=1)
        theirs = 0.0
        tiles = spans(len(references), block)
        for index, span in enumerate(tiles):
            rows = in_double(references[span])
            theirs += float(_kernel(rows, rows, sigma).sum())
            for other in tiles[index + 1 :]:
                theirs += 2 * float(_kernel(rows, in_double(references[other]), sigma).sum())
        return cls(members.sum(dim=0).long(), within, between, theirs, len(references))

    def distance(self, *, without: int | None = None, unbiased: bool = False) -> float:
        """A thousand times the squared distance, as published.

        Args:
            without: A group to leave out.
            unbiased: Leave out what a picture has to do with itself.

        Raises:
            ItemError: A set is too small for that.
        """
        kept = torch.arange(len(self.sizes)) != (-1 if without is None else without)
        n, m = int(self.sizes[kept].sum()), self.n_references
        # The kernel of a picture with itself is 1.
        own = 1 if unbiased else 0
        if min(n, m) <= own:
            raise ItemError(
                f"a distance between sets needs {own + 1} pictures of each, and there is "
                f"{min(n, m)}",
                fix="score more pictures",
            )
        ours = (float(self.within[kept][:, kept].sum()) - own * n) / (n * (n - own))
        theirs = (self.references - own * m) / (m * (m - own))
        return SCALE * (ours + theirs - 2 * float(self.between[kept].sum()) / (n * m))

    def jackknife(self, *, unbiased: bool = False) -> Mapping[int, float]:
        """The distance without each group in turn; empty where too little would be left."""
        present = [int(group) for group in self.sizes.nonzero().flatten()]
        total = int(self.sizes.sum())
        if len(present) < 2 or any(total - int(self.sizes[group]) < 2 for group in present):
            return {}
        return {group: self.distance(without=group, unbiased=unbiased) for group in present}


def cmmd(outputs: Table, references: Table, *, unbiased: bool = False, block: int = 2048) -> float:
    """The distance of two sets of unit vectors, times a thousand.

    Raises:
        ItemError: A set that is too small, or features that are not finite.

    >>> one, other = torch.eye(2)
    >>> round(cmmd(one[None], other[None]), 4)
    19.9003
    """
    groups = torch.zeros(len(outputs), dtype=torch.long)
    sums = KernelSums.of(outputs, references, groups, block=block)
    return sums.distance(unbiased=unbiased)


def _kernel(
    x: Float64[Tensor, "a d"], y: Float64[Tensor, "b d"], sigma: float
) -> Float64[Tensor, "a b"]:
    squared = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * (x @ y.T)
    return torch.exp(squared.clamp_min(0) / (-2 * sigma**2))
