"""What the frozen parts say of pictures and captions, asked once for all LoRAs of a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images
from stylecli.backbone.model import Backbone
from stylecli.recipe.schema import Lora
from stylecli.tensors.colour import Moments, moments

# Pictures and captions that are remembered; one at 512 px takes 128 KiB.
MOST = 256


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a style picture.

    Attributes:
        mean: Of the VAE's posterior, scaled, on the CPU; as is its deviation.
        colours: First two moments of its own pixels.
    """

    mean: Float[Tensor, "1 c h w"]
    deviation: Float[Tensor, "1 c h w"]
    colours: Moments


class Encoded:
    """The VAE and the text encoder of one model, with a memory."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._seen: OrderedDict[tuple[str, int], Seen] = OrderedDict()
        self._captions: OrderedDict[tuple[str, ...], Mapping[str, Tensor]] = OrderedDict()

    def picture(self, path: Path, sha256: str, settings: Lora) -> Seen:
        """A picture as the model is to learn it.

        Raises:
            ImageError: It cannot be read.
        """
        key = (sha256, settings.resolution)
        if key not in self._seen:
            image = images.to_tensor(images.read(path).pixels)
            geometry = _geometry(image.shape[-2:], settings, self._backbone)
            # Cut rather than pad: padding would be learned as part of the style.
            cut = images.crop_center(geometry.resize(image), self._backbone.multiple_px)
            mean, deviation = self._backbone.posterior(cut)
            self._seen[key] = Seen(mean.cpu().clone(), deviation.cpu().clone(), moments(image))
            _forget(self._seen)
        return self._seen[key]

    def captions(self, captions: Iterable[str]) -> Mapping[str, Float[Tensor, "tokens width"]]:
        """Embeddings of the captions of one LoRA, and of none.

        Those of a LoRA are encoded together and with no others: its values do not depend on what
        else is learned.
        """
        key = tuple(sorted({*captions, ""}))
        if key not in self._captions:
            embeds = self._backbone.encode_prompt(list(key)).clone()
            self._captions[key] = dict(zip(key, embeds, strict=True))
            _forget(self._captions)
        return self._captions[key]


def latent_sides(path: Path, settings: Lora, backbone: Backbone) -> tuple[int, int]:
    """Height and width of the rows that a picture gives; its header alone is read.

    Raises:
        ImageError: It is no picture.
    """
    multiple, cell = backbone.multiple_px, backbone.latent_px
    resized = _geometry(images.size_of(path), settings, backbone).resized
    most = settings.crop_px if settings.crop == "random" else max(resized) + multiple
    tall, wide = (min(max(side, multiple) // multiple * multiple, most) // cell for side in resized)
    return tall, wide


def _geometry(size: Sequence[int], settings: Lora, backbone: Backbone) -> images.Geometry:
    height, width = size
    return images.Geometry.plan(
        height, width, short_side=settings.resolution, multiple=backbone.multiple_px
    )


def _forget(known: OrderedDict[Any, Any]) -> None:
    while len(known) > MOST:
        known.popitem(last=False)
