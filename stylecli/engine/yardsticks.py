"""How near two pictures are in layout and in texture, for the figures beneath a sheet.

On what ships, so a sheet says the same on every machine: these compare cells of one sheet, and are
no scores of a method (`style evaluate` has those).
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.registry import ASSETS
from stylecli.evaluation.metrics import edge_correlation, gram_rel
from stylecli.evaluation.perceptual import PocketLpips, load_pocket_lpips

# Cells across of what is called coarse.
COARSE = 8


@cache
def _network() -> PocketLpips:
    """Read once: every sheet and every figure of a run asks for it."""
    return load_pocket_lpips(ASSETS / "pocket" / "lpips")


class Yardsticks:
    """Distances of pictures in [0, 1]; 0 for equal ones."""

    @torch.inference_mode()
    def perceptual(self, a: Float[Tensor, "3 h w"], b: Float[Tensor, "3 h w"]) -> float:
        """pocket-lpips: unlike in what is where."""
        return float(_network().distance(a[None], b[None]))

    @torch.inference_mode()
    def texture(self, a: Float[Tensor, "3 h w"], b: Float[Tensor, "3 _h _w"]) -> float:
        """Relative Gram distance on the same features (pocket-gram): unlike wherever it is."""
        first, second = _network().features(a[None]), _network().features(b[None])
        return float(gram_rel(first, second))

    def coarse(self, a: Float[Tensor, "3 h w"], b: Float[Tensor, "3 h w"]) -> float:
        """RMS difference of what is left at eight cells across: large shapes and their colours."""
        small = [F.adaptive_avg_pool2d(x[None], COARSE) for x in (a, b)]
        return float((small[0] - small[1]).square().mean().sqrt())

    def edges(self, a: Float[Tensor, "3 h w"], b: Float[Tensor, "3 h w"]) -> float:
        """Correlation of edges: 1 keeps every one. Nearness, not distance."""
        return float(edge_correlation(a[None], b[None]))
