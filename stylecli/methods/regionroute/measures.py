"""How well a map lies on an object, for logs and pages; one number a row."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from stylecli.methods.regionroute.grids import hard
from stylecli.methods.regionroute.losses import EPSILON, Forms, threshold

# What a map without a mask is measured by: its strongest cells.
STRONGEST = 0.1
TINY = 1e-30


def inside_mass(maps: Float[Tensor, "b n"], mask: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """The share of the attention that is inside: 1 is all; a map of zeros has 0."""
    return (maps * mask).sum(dim=1) / maps.sum(dim=1).clamp(min=TINY)


def lift(maps: Float[Tensor, "b n"], mask: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """`inside_mass` over what a uniform map has: 1 knows nothing of the object."""
    return inside_mass(maps, mask) / mask.mean(dim=1).clamp(min=TINY)


def iou(
    maps: Float[Tensor, "b n"], mask: Float[Tensor, "b n"], forms: Forms | None = None
) -> Float[Tensor, " b"]:
    """Overlap of the object with the cells above Cover's threshold, where its sigmoid passes 0.5.

    Args:
        forms: Whose kappa is used.
    """
    inside = hard(mask)
    there = maps > threshold(maps, inside, (forms or Forms()).kappa)[:, None]
    both, either = (there & inside).sum(dim=1), (there | inside).sum(dim=1)
    return both.to(maps.dtype) / either.clamp(min=1)


def argmax_hit(maps: Float[Tensor, "b n"], mask: Float[Tensor, "b n"]) -> Bool[Tensor, " b"]:
    """Whether the strongest cell is the object's."""
    return hard(mask).gather(1, maps.argmax(dim=1, keepdim=True))[:, 0]


def footprint(
    maps: Float[Tensor, "b n"], forms: Forms | None = None, strongest: float = STRONGEST
) -> Float[Tensor, "b n"]:
    """The soft mask that a map draws by itself, where no mask is known; in [0, 1].

    Cover's sigmoid, its threshold a share of the mean of the strongest cells.

    Args:
        forms: Whose gamma and kappa are used.
        strongest: The share of cells that are taken for the object's core; one cell at least.
    """
    forms = forms or Forms()
    maps = maps.float()
    core = maps.topk(max(1, round(strongest * maps.shape[1])), dim=1).values
    level = forms.kappa * core.mean(dim=1, keepdim=True)
    # sigmoid(gamma log(A / t)); a map of zeros has no core, so nothing of it is drawn.
    drawn = (forms.gamma * ((maps + EPSILON).log() - (level + EPSILON).log())).sigmoid()
    return drawn * (level > 0)
