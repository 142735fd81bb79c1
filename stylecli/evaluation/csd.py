"""CSD (Somepalli et al. 2024): CLIP ViT-L/14 turned towards style, as unit vectors.

Training kept CLIP's picture half and put two matrices behind its pooled feature, one pulled towards
artists' styles and one away from them. Only the first is read here. The authors say of the file
they published that it does not reproduce their paper; `docs/evaluation.md` says what to make of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.evaluation.weights import load_strictly

# What open_clip calls OpenAI's ViT-L/14, written out: CSD's file has no configuration.
LARGE: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 14,
    "width": 1024,
    "layers": 24,
    "heads": 16,
    "mlp_ratio": 4.0,
    "output_dim": 768,
}
# What parallel training puts before every key.
PARALLEL = "module."


class Csd(nn.Module):
    """The picture half of a CLIP without its projection, and the two heads of the file."""

    def __init__(self, backbone: nn.Module, width: int, style_width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.last_layer_style = nn.Parameter(torch.empty(width, style_width))
        # Without use, but in the file: a strict comparison of keys wants a place for it.
        self.last_layer_content = nn.Parameter(torch.empty(width, style_width))

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b d"]:
        """Unit vectors of pictures that ``PREPROCESS["clip224"]`` has prepared."""
        pooled: Tensor = self.backbone(images)
        return nn.functional.normalize(pooled @ self.last_layer_style, dim=1)


def csd_network(
    tensors: Mapping[str, Tensor], *, file: str, config: Mapping[str, Any] | None = None
) -> Csd:
    """The network from the tensors of its file, in float32.

    Args:
        tensors: Under ``backbone.*``, ``last_layer_style`` and ``last_layer_content``, with or
            without ``module.`` before them.
        file: For messages.
        config: Another architecture in open_clip's words, for tests.

    Raises:
        WeightsError: The file is of another network.
    """
    from open_clip.transformer import QuickGELU, VisionTransformer

    shape = config or LARGE
    with torch.device("meta"):
        # OpenAI's activation, as in `stylecli.evaluation.clip`: no key betrays it.
        backbone = VisionTransformer(**shape, act_layer=QuickGELU)
        backbone.proj = None
        model = Csd(backbone, shape["width"], shape["output_dim"])
    model.to_empty(device="cpu")
    load_strictly(model, {key.removeprefix(PARALLEL): t for key, t in tensors.items()}, file=file)
    return model
