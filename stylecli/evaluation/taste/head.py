"""The small head that two of the scorers end in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16)


class Head(nn.Module):
    """Five linear layers with nothing between them that bends: together one affine map.

    Dropouts stood between them in training. They are kept, though they do nothing here, because
    the published keys count them: ``layers.0``, 2, 4, 6 and 7.
    """

    def __init__(self, width: int = 768) -> None:
        super().__init__()
        first, second, third, fourth = WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(width, first),
            nn.Dropout(0.2),
            nn.Linear(first, second),
            nn.Dropout(0.2),
            nn.Linear(second, third),
            nn.Dropout(0.1),
            nn.Linear(third, fourth),
            nn.Linear(fourth, 1),
        )

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """One number a vector."""
        weight = next(self.parameters())
        found: Tensor = self.layers(features.to(weight.device, torch.float32))
        return found[:, 0]
