"""LPIPS v0.1 (Zhang et al. 2018): the published network and heads, loaded strictly and offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.errors import ItemError
from stylecli.evaluation.metrics import LUMA
from stylecli.evaluation.weights import load_strictly

Net = Literal["alex", "vgg"]
# After these layers of torchvision's `features`: the ReLUs that end each block.
TAPS: Mapping[Net, tuple[int, ...]] = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
# A smaller picture has nothing left at the last tap.
MIN_PX: Mapping[Net, int] = {"alex": 31, "vgg": 16}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10

Picture = Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]


class Lpips(nn.Module):
    """The distance and its map.

    Pictures are bytes, or floats with their range declared: [0, 1] taken for [-1, 1] gives values
    that look right and are not.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net, trunk: nn.Sequential, heads: Sequence[Tensor]) -> None:
        super().__init__()
        self.net: Net = net
        self.trunk = trunk
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def distance(
        self, a: Picture, b: Picture, *, value_range: tuple[float, float] | None = None
    ) -> Float[Tensor, " b"]:
        """Mean over places, summed over layers (eq. 1); 0 for equal pictures.

        Raises:
            TypeError: Floats without a range.
            ItemError: Pictures too small for the network.
        """
        layers = self._differences(a, b, value_range)
        return torch.stack([layer.mean(dim=(1, 2, 3)) for layer in layers]).sum(dim=0)

    def map(
        self, a: Picture, b: Picture, *, value_range: tuple[float, float] | None = None
    ) -> Float[Tensor, "b h w"]:
        """The same before the mean, each layer scaled up to the pictures' size.

        Raises:
            TypeError: Floats without a range.
            ItemError: Pictures too small for the network.
        """
        size = a.shape[-2:]
        layers = [
            F.interpolate(layer, size, mode="bilinear", align_corners=False)
            for layer in self._differences(a, b, value_range)
        ]
        return torch.stack(layers).sum(dim=0)[:, 0]

    def _differences(
        self, a: Picture, b: Picture, value_range: tuple[float, float] | None
    ) -> list[Float[Tensor, "b 1 _h _w"]]:
        height, width = a.shape[-2:]
        if min(height, width) < MIN_PX[self.net]:
            raise ItemError(
                f"{width}x{height} is too small for LPIPS ({self.net})",
                fix=f"at least {MIN_PX[self.net]} px a side",
            )
        ours, theirs = (self._features(_signed(x, value_range)) for x in (a, b))
        found = []
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            head: Tensor = getattr(self, f"head{index}")
            found.append(F.conv2d((_normalised(one) - _normalised(other)).square(), head))
        return found

    def _features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        hidden = (image - self.shift) / self.scale
        found = []
        for index, layer in enumerate(self.trunk):
            hidden = layer(hidden)
            if index in TAPS[self.net]:
                found.append(hidden)
        return found


def lpips_network(net: str, tensors: Mapping[str, Tensor], *, file: str) -> Lpips:
    """LPIPS on a published trunk.

    Args:
        net: ``alex`` or ``vgg``.
        tensors: torchvision's checkpoint; its classifier is not used.
        file: For messages.

    Raises:
        WeightsError: Keys or shapes are not the trunk's.
    """
    from torchvision.models import alexnet, vgg16

    kind: Net = "alex" if net == "alex" else "vgg"
    build = alexnet if kind == "alex" else vgg16
    with torch.device("meta"):
        features = build(weights=None).features
    model = nn.ModuleDict({"features": features.to_empty(device="cpu")})
    load_strictly(model, tensors, file=file, ignore=("classifier.",))
    made = Lpips(kind, features[: TAPS[kind][-1] + 1], _heads(kind))
    made.eval().requires_grad_(False)
    return made


def luminance(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Luma in all three channels: the picture without its colour."""
    weights = image.new_tensor(LUMA)[:, None, None]
    return (image * weights).sum(dim=1, keepdim=True).expand_as(image)


def _heads(net: Net) -> list[Float[Tensor, "1 c 1 1"]]:
    """The non-negative weights of each layer's channels, which come with the `lpips` package."""
    path = files("lpips").joinpath("weights", "v0.1", f"{net}.pth")
    with path.open("rb") as stream:
        found = torch.load(stream, map_location="cpu", weights_only=True)
    return [found[f"lin{index}.model.1.weight"] for index in range(len(TAPS[net]))]


def _signed(image: Picture, value_range: tuple[float, float] | None) -> Float[Tensor, "b 3 h w"]:
    if image.dtype == torch.uint8:
        return image.float() / 127.5 - 1
    if value_range is None:
        raise TypeError("LPIPS of floats needs value_range, such as (0, 1)")
    low, high = value_range
    return (image - low) / (high - low) * 2 - 1


def _normalised(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + EPSILON)
