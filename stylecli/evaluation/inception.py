"""Two Inception-v3 networks that see pictures as numbers: FID's and ArtFID's.

They share a name and little else. FID's was trained in TensorFlow, whose pooling differs, and sees
299 x 299 pixels around zero; ArtFID's is torchvision's, was trained to tell artists and styles, and
sees any size in [0, 1]. Distances of one say nothing about distances of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.evaluation.weights import load_strictly

# TensorFlow's ImageNet labels: 1000, and eight that were never used.
CLASSES = 1008
# The last mixed block, known by its input; the block before it is of the same kind.
LAST_CHANNELS = 2048
# art-Inception's two heads, artist and style, which its features come before.
ART_HEADS = ("AuxLogits1.", "AuxLogits2.", "fc1.", "fc2.")


def fid_inception(tensors: Mapping[str, Tensor], *, file: str) -> nn.Module:
    """FID's own network (Heusel et al. 2017), up to the 2048 pooled features.

    Args:
        tensors: What the published file holds, its head included, which is checked and dropped.
        file: For messages.

    Returns:
        (b, 3, 299, 299), as (pixels - 128) / 128 -> (b, 2048).

    Raises:
        WeightsError: The tensors are not those of this network.
    """
    from torchvision.models import inception as tv

    blocks = [
        tv.BasicConv2d,
        _pooling(tv.InceptionA),
        tv.InceptionB,
        _pooling(tv.InceptionC),
        tv.InceptionD,
        _pooling(tv.InceptionE),
        tv.InceptionAux,
    ]
    model: nn.Module = tv.Inception3(
        CLASSES, aux_logits=False, inception_blocks=blocks, init_weights=False
    )
    load_strictly(model, tensors, file=file)
    model.fc = nn.Identity()
    return model.eval()


def art_inception(tensors: Mapping[str, Tensor], *, file: str) -> nn.Module:
    """ArtFID's network (Wright & Ommer 2022), without its two heads.

    Args:
        tensors: What the published file holds, with its heads or without.
        file: For messages.

    Returns:
        (b, 3, h, w) in [0, 1], of 75 pixels a side or more and not normalised -> (b, 2048).

    Raises:
        WeightsError: The tensors are not those of this network, were it only for one.
    """
    from torchvision.models import inception_v3

    model: nn.Module = inception_v3(
        weights=None, aux_logits=False, transform_input=False, init_weights=False
    )
    model.fc = nn.Identity()
    load_strictly(model, tensors, file=file, ignore=ART_HEADS)
    return model


def _pooling(block: Any) -> Any:
    """A torchvision block that pools as TensorFlow's network did; its keys stay the same."""

    class Pooling(block):  # type: ignore[misc]
        def __init__(self, in_channels: int, **options: Any) -> None:
            super().__init__(in_channels, **options)
            self.pool = _largest if in_channels == LAST_CHANNELS else _mean_without_padding

        def _forward(self, x: Tensor) -> list[Tensor]:
            # torchvision puts the pooled branch last. Its own is computed for nothing, at one part
            # in twenty of the work, which spares a copy of all the other branches.
            *others, _ = super()._forward(x)
            return [*others, self.branch_pool(self.pool(x))]

    return Pooling


def _mean_without_padding(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=1, padding=1)
