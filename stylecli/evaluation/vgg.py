"""VGG19 up to where it is needed: the features of Gram matrices and of block matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.evaluation.weights import load_strictly

TAPS: Mapping[str, int] = {
    "relu1_1": 1,
    "relu2_1": 6,
    "relu3_1": 11,
    "relu4_1": 20,
    "relu5_1": 29,
}


class Vgg19(nn.Module):
    """torchvision's convolutions, with named places to look at."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def taps(
        self, image: Float[Tensor, "b 3 h w"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "b _c _h _w"]]:
        """Features at the places asked for; nothing behind the deepest is computed.

        Args:
            image: Normalised by ImageNet's mean and deviation.
            names: Keys of `TAPS`.
        """
        wanted = {TAPS[name]: name for name in names}
        hidden, found = image, dict[str, Tensor]()
        layers = list(self.features)
        for index, layer in enumerate(layers[: max(wanted) + 1]):
            # In place would change what was just handed out.
            hidden = torch.relu(hidden) if isinstance(layer, nn.ReLU) else layer(hidden)
            if index in wanted:
                found[wanted[index]] = hidden
        return found


def vgg19(tensors: Mapping[str, Tensor], *, file: str) -> Vgg19:
    """The trunk of a torchvision checkpoint; its classifier is not used.

    Raises:
        WeightsError: Keys or shapes are not VGG19's.
    """
    from torchvision.models import vgg19 as build

    with torch.device("meta"):
        features = build(weights=None).features
    made = Vgg19(features.to_empty(device="cpu"))
    load_strictly(made, tensors, file=file, ignore=("classifier.",))
    return made
