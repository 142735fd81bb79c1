"""What backends are given in tests: settings, a CPU, and nothing else unless a test brings it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from stylecli.masks.base import Ranker, Setup
from stylecli.recipe.finding import Masks


def setup(ranker: Callable[[], Ranker] | None = None, **settings: Any) -> Setup:
    return Setup(
        settings=Masks(**settings),
        device=torch.device("cpu"),
        dtype=torch.float32,
        backbone=_unwanted,
        ranker=ranker or _unwanted,
        sharpness=100.0,
    )


def picture(width: int = 50, height: int = 30, seed: int = 0) -> Image.Image:
    """Noise, wider than high."""
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _unwanted() -> Any:
    raise AssertionError("this model was not asked for")
