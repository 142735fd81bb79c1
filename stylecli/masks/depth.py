"""How near each part of a picture is, by a published network such as Depth Anything V2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylecli.masks.hub import Networks

# The largest of the family whose weights are free for any use.
DEPTH = "depth-anything/Depth-Anything-V2-Small-hf"


class Depth:
    """Any network that `AutoModelForDepthEstimation` knows and a DPT processor prepares for."""

    def __init__(self, networks: Networks, name: str) -> None:
        self._networks = networks
        self._name = name

    @torch.no_grad()
    def of(self, image: Image.Image) -> Float[Tensor, "hd wd"]:
        """Relative inverse depth, on the CPU: what is near has large values, and none has a unit.

        Args:
            image: RGB, of any size; the map has the size that the network works at, and covers the
                same picture.

        Raises:
            WeightsError: The network is not on this machine, or its file is of another one.
        """
        from transformers import AutoModelForDepthEstimation

        # Not the one that resizes with torchvision: its last bits depend on that library's binary.
        from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

        model, processor = self._networks.get(
            self._name, AutoModelForDepthEstimation, DPTImageProcessorPil
        )
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        found: Tensor = model(pixel_values=pixels.to(model.device)).predicted_depth
        return found[0].float().cpu()
