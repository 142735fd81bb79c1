"""DINOv2 ViT-B/14 (Oquab et al. 2023): one vector of what a picture shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.evaluation.weights import load_strictly

# Written out, because the defaults of a library may change under weights that do not. The network
# was trained at 518 px; for other sizes its grid of positions is resampled.
BASE: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
# Part of a key as published -> as newer releases of transformers call it in the model.
RENAMED: Mapping[str, str] = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


class DinoV2(nn.Module):
    """The class token behind the last normalisation; not of unit length."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b d"]:
        """Vectors of pictures that ``PREPROCESS["dinov2_224"]`` has prepared."""
        found: Tensor = self.model(pixel_values=images).last_hidden_state[:, 0]
        return found


def dinov2(
    tensors: Mapping[str, Tensor], *, file: str, config: Mapping[str, Any] | None = None
) -> DinoV2:
    """The network from the tensors of its file, in float32.

    Args:
        tensors: Under the keys of ``facebook/dinov2-base``.
        file: For messages.
        config: Another architecture in the words of transformers, for tests.

    Raises:
        WeightsError: The file is of another network.
    """
    from transformers import Dinov2Config, Dinov2Model

    # Unfilled: every tensor of it comes from the file.
    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config(**(config or BASE)))
    model.to_empty(device="cpu")
    load_strictly(model, _as_named_by(model, tensors), file=file)
    return DinoV2(model)


def _as_named_by(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the keys of this release's model; a key that fits is left alone."""
    wanted = model.state_dict().keys()
    named = {}
    for key, tensor in tensors.items():
        new = key
        for published, renamed in RENAMED.items():
            new = new.replace(published, renamed)
        # Where both names are in the file, neither may silently win.
        is_free = new in wanted and new not in tensors
        named[new if is_free else key] = tensor
    return named
