"""SigLIP 2's vision towers without their pooling heads: what each patch is, not the picture.

Checkpoints of one resolution are SigLIP models to transformers; those for any shape (NaFlex) see
patches that their caller cut, and how many there are. References are square, so here all pictures
of such a tower have equally many patches and none is ever filled up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.errors import WeightsError


class Tower(NamedTuple):
    """A published one, as far as plans need it before its weights are read.

    Attributes:
        revision: Commit to fetch; None is the newest. Which weights a predictor was trained with
            is told by the digest in its own file, and other ones are refused.
    """

    repository: str
    px: int
    width: int
    depth: int
    hidden: int
    patch: int = 16
    revision: str | None = None

    @property
    def tokens(self) -> int:
        """Of one picture."""
        return (self.px // self.patch) ** 2

    @property
    def parameters(self) -> int:
        """Without the pooling head."""
        w, f = self.width, self.hidden
        # Four projections and two layers with biases, and two norms.
        block = 4 * (w * w + w) + 2 * w * f + f + w + 4 * w
        patches = 3 * self.patch**2 * w + w
        return self.depth * block + patches + self.tokens * w + 2 * w


TOWERS: Mapping[str, Tower] = {
    "siglip2-base-256": Tower("google/siglip2-base-patch16-256", 256, 768, 12, 3072),
    "siglip2-so400m-384": Tower("google/siglip2-so400m-patch16-384", 384, 1152, 27, 4304),
    "siglip2-giant-384": Tower("google/siglip2-giant-opt-patch16-384", 384, 1536, 40, 6144),
    "siglip2-base-naflex": Tower("google/siglip2-base-patch16-naflex", 256, 768, 12, 3072),
    "siglip2-so400m-naflex": Tower("google/siglip2-so400m-patch16-naflex", 256, 1152, 27, 4304),
}
FIXED = ("siglip", "siglip_vision_model")
FLEXIBLE = ("siglip2", "siglip2_vision_model")
# Of whole checkpoints; nobody here asks for them.
UNUSED = ("text_model.", "logit_", "head.")


class SiglipTokens:
    """Tokens of a `SiglipVisionModel` or `Siglip2VisionModel` that has no pooling head."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self._model = model
        self._is_flexible = config.model_type in FLEXIBLE
        self._patch = int(config.patch_size)
        count = config.num_patches if self._is_flexible else (config.image_size // self._patch) ** 2
        self._side = int(count**0.5)
        self.width = int(config.hidden_size)
        self.tokens = self._side**2
        self.px = self._side * self._patch
        if not self._is_flexible:
            # Its convolution leaves out what is less than a patch.
            self.px = int(config.image_size)

    def __call__(self, pictures: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b t e"]:
        """Of the last layer, after its norm."""
        asked = {"pixel_values": pictures}
        if self._is_flexible:
            patches = cut(pictures, self._patch)
            there = torch.ones(patches.shape[:2], dtype=torch.int32, device=patches.device)
            shapes = torch.full((len(patches), 2), self._side, device=patches.device)
            asked = {
                "pixel_values": patches,
                "pixel_attention_mask": there,
                "spatial_shapes": shapes,
            }
        found: Tensor = self._model(**asked).last_hidden_state
        return found


def cut(pictures: Float[Tensor, "b 3 px px"], patch: int) -> Float[Tensor, "b patches numbers"]:
    """Patches row by row, each pixel's colours side by side, as NaFlex towers learnt them."""
    tiles = pictures.unfold(2, patch, patch).unfold(3, patch, patch)
    return tiles.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def tower(config: Mapping[str, Any], *, name: str, dtype: torch.dtype) -> nn.Module:
    """A vision model without pooling head whose weights are yet to come.

    Args:
        config: Of a whole checkpoint, or of its vision half.
        name: For messages.
        dtype: Of the weights.

    Raises:
        WeightsError: The config is not of SigLIP, or has values that no such model can have.
    """
    kind = str(config.get("model_type"))
    if kind not in (*FIXED, *FLEXIBLE):
        raise WeightsError(
            f"{name} is a model of type {kind}, not of SigLIP",
            fix=f"give i2l.encoder.id a folder of SigLIP 2, or one of {', '.join(TOWERS)}",
        )
    from transformers import (
        Siglip2VisionConfig,
        Siglip2VisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    said = {**config.get("vision_config", config), "vision_use_head": False}
    said.pop("model_type", None)
    try:
        with torch.device("meta"):
            if kind in FIXED:
                model: Any = SiglipVisionModel(SiglipVisionConfig(**said))
            else:
                model = Siglip2VisionModel(Siglip2VisionConfig(**said))
    except Exception as error:  # the library's own checks raise several kinds
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{name}: config.json is not one of a SigLIP model: {reason}",
            fix="copy the folder again",
        ) from error
    model.to(dtype).to_empty(device="cpu")
    embeddings = model.embeddings
    if kind in FIXED:
        # In no file: the numbers of the patches.
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    made: nn.Module = model.eval().requires_grad_(False)
    return made


def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a vision tower, by its own names, of a checkpoint of any release of transformers."""
    bare = {key.removeprefix("vision_model."): tensor for key, tensor in tensors.items()}
    if len(bare) < len(tensors):
        raise WeightsError(
            "a file holds one tensor under two names, with vision_model. in front and without",
            fix="get the folder again",
        )
    return {key: tensor for key, tensor in bare.items() if not key.startswith(UNUSED)}
