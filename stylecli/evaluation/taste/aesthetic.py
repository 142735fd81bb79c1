"""LAION's aesthetic predictor (Schuhmann et al. 2022): a mark from about 1 to 10 for a picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stylecli.evaluation.taste.head import Head
from stylecli.evaluation.weights import load_strictly


def aesthetic(tensors: Mapping[str, Tensor], *, file: str) -> Head:
    """The head over unit vectors of OpenAI's CLIP ViT-L/14.

    It was fitted to vectors of length one: others get a mark too, and a wrong one.

    Raises:
        WeightsError: The file is of another network.
    """
    with torch.device("meta"):
        model = Head()
    model.to_empty(device="cpu")
    load_strictly(model, tensors, file=file)
    return model
