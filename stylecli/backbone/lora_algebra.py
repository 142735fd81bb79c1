"""Sums, measures and smaller versions of LoRAs, without ever forming a whole ``B A``.

A pair is down ``A [rank, in]`` and up ``B [out, rank]``; of a convolution the kernel's axes follow,
and count as more inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.row_loras import Pairs
from stylecli.errors import UsageError

Weighted = Sequence[tuple[Pairs, float]]
Pair = tuple[Tensor, Tensor]


def scaled(pairs: Pairs, weight: float) -> Pairs:
    """The LoRA at another strength."""
    return pairs if weight == 1 else {path: (a, b * weight) for path, (a, b) in pairs.items()}


def delta(loras: Weighted) -> Pairs:
    """The sum of ``w B A``, exactly: factors side by side, so ranks add up.

    A LoRA of weight 0 leaves no trace, and one alone keeps its rank.

    Raises:
        UsageError: Two of them do not agree on the size of a layer.
    """
    found = {}
    kept = [(pairs, weight) for pairs, weight in loras if weight] or list(loras[:1])
    for path, own in _by_layer(kept).items():
        found[path] = (
            torch.cat([a.float() for (a, _), _ in own]),
            torch.cat([b.float() * weight for (_, b), weight in own], dim=1),
        )
    return found


def factors(loras: Weighted) -> Pairs:
    """Downs and ups summed apart: the rank stays, and ``w_i w_j B_i A_j`` come in uninvited.

    Means something where factors correspond, as those of one predictor do.

    Raises:
        UsageError: They differ in layers, sizes or ranks.
    """
    found = {}
    for path, own in _by_layer(loras).items():
        if len(own) < len(loras) or len({len(a) for (a, _), _ in own}) > 1:
            raise UsageError(
                f"the LoRAs do not all have {path} at one rank, so their factors do not correspond",
                fix="use --mode delta",
            )
        found[path] = (
            sum((a.float() * weight for (a, _), weight in own), torch.zeros(())),
            sum((b.float() * weight for (_, b), weight in own), torch.zeros(())),
        )
    return found


def compressed(pairs: Pairs, rank: int) -> Pairs:
    """The nearest LoRA of at most this rank, layer by layer; exact where it had no more.

    Args:
        pairs: Those of a lower rank stay as they are.
        rank: At least 1.
    """
    return {
        path: pair if len(pair[0]) <= rank else _smaller(pair, rank) for path, pair in pairs.items()
    }


def norms(pairs: Pairs) -> dict[str, float]:
    """Frobenius norm of ``B A`` of every layer."""
    found = {}
    for path, pair in pairs.items():
        a, b = _flat(pair)
        # The trace of (B'B)(AA') is a sum of products of two small matrices.
        found[path] = float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())
    return found


def core(pair: Pair) -> Float[Tensor, "m n"]:
    """A small matrix with the singular values of ``B A``."""
    a, b = _flat(pair)
    found: Tensor = torch.linalg.qr(b, mode="r").R @ torch.linalg.qr(a.T, mode="r").R.T
    return found


def effective_rank(matrices: Float[Tensor, "*batch k width"]) -> Float[Tensor, "*batch"]:
    """How many singular values count: the exponential of their entropy (Roy, Vetterli 2007).

    k equal ones give k, one alone gives 1, none gives 0.

    >>> round(effective_rank(torch.diag(torch.tensor([3.0, 3.0, 0.0]))).item(), 4)
    2.0
    """
    values = torch.linalg.svdvals(matrices.detach().double())
    total = values.sum(-1)
    shares = values / total.clamp_min(torch.finfo(values.dtype).tiny)[..., None]
    counted = torch.special.entr(shares).sum(-1).exp()
    return torch.where(total > 0, counted, torch.zeros_like(counted)).float()


def distances(left: Pairs, right: Pairs) -> dict[str, float]:
    """``|BA - B'A'| / |B'A'|`` of every layer of either: infinite where only the left has it.

    Raises:
        UsageError: They do not agree on the size of a layer.
    """
    apart = norms(delta([(left, 1.0), (right, -1.0)]))
    own = norms(right)
    return {
        path: gap / own[path] if own.get(path) else math.inf if gap else 0.0
        for path, gap in apart.items()
    }


def outside(weights: Iterable[float]) -> list[float]:
    """Weights so far from what LoRAs were made for that pictures are likely to break."""
    return [weight for weight in weights if not -1 <= weight <= 2]


def _by_layer(loras: Weighted) -> dict[str, list[tuple[Pair, float]]]:
    found: dict[str, list[tuple[Pair, float]]] = {}
    for pairs, weight in loras:
        for path, pair in pairs.items():
            found.setdefault(path, []).append((pair, weight))
    for path, own in found.items():
        sizes = {(a.shape[1:], b.shape[:1] + b.shape[2:]) for (a, b), _ in own}
        if len(sizes) > 1:
            raise UsageError(
                f"the LoRAs belong to different backbones: {path} has sizes "
                + " and ".join(sorted(f"{a.shape[1]} -> {b.shape[0]}" for (a, b), _ in own)),
                fix="combine LoRAs of one backbone",
            )
    return found


def _smaller(pair: Pair, rank: int) -> Pair:
    a, b = pair
    flat_a, flat_b = _flat(pair)
    left, upper = torch.linalg.qr(flat_b)
    right, lower = torch.linalg.qr(flat_a.T)
    u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    root = values[:rank].sqrt()
    down = root[:, None] * (v[:rank] @ right.T)
    up = left @ u[:, :rank] * root
    return down.reshape(-1, *a.shape[1:]).float(), up.reshape(len(b), -1, *b.shape[2:]).float()


def _flat(pair: Pair) -> Pair:
    """As float64 matrices: the norm of a difference is far below those of its parts."""
    a, b = pair
    return a.detach().flatten(1).double(), b.detach().flatten(1).double()
