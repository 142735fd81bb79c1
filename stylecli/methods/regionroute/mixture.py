"""Weights of a soft mix of experts, by what their names mean (an option; the paper picks one)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TOP, TEMPERATURE = 2, 0.05


def mixture(
    query: Float[Tensor, " d"],
    keys: Float[Tensor, "k d"],
    top_k: int = TOP,
    tau: float = TEMPERATURE,
) -> list[tuple[int, float]]:
    """The nearest experts and their weights, the largest first; weights sum to 1.

    Args:
        query: Text embedding of what the user called the style; any length.
        keys: Of each expert's phrase.
        top_k: How many to mix; fewer where there are fewer.
        tau: Cosines are divided by it before the softmax over the chosen.

    Raises:
        ValueError: There is nothing to mix, or the temperature is not positive.
    """
    if top_k < 1 or not len(keys):
        raise ValueError("a mixture of nothing")
    if tau <= 0:
        raise ValueError(f"temperature {tau} is not positive")
    nearness = F.cosine_similarity(keys.double(), query.double()[None], dim=1)
    best = nearness.topk(min(top_k, len(keys)))
    weights = (best.values / tau).softmax(dim=0)
    return list(zip(best.indices.tolist(), weights.tolist(), strict=True))
