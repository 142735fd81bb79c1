"""DINOv2 (Oquab et al. 2023) and DINO (Caron et al. 2021): what a picture shows, and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
LARGE = {**BASE, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
# DINO's ViT-B/8. The epsilon is that of its authors' code, not the default that the hub's
# configuration took over; the difference is below rounding.
VIT_B8: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 8,
    "qkv_bias": True,
}
# Part of a key as published -> as newer releases of transformers call it in the model.
RENAMED: Mapping[str, str] = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}
# DINO's, behind those: what is left of `output.dense` is the second layer of a perceptron.
VIT_RENAMED: Mapping[str, str] = {
    **RENAMED,
    "encoder.layer.": "layers.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}
KEYS, PATCHES = "keys", "patches"
BLOCK = "block"


class DinoV2(nn.Module):
    """The class token behind the last normalisation, not of unit length; and maps of patches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "b 3 224 224"]) -> Float[Tensor, "b d"]:
        """Vectors of pictures that ``PREPROCESS["dinov2_224"]`` has prepared."""
        found: Tensor = self.model(pixel_values=images).last_hidden_state[:, 0]
        return found

    def taps(
        self, image: Float[Tensor, "b 3 224 224"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "b _c _h _w"]]:
        """Patch tokens as maps.

        Args:
            image: As for the class token.
            names: ``block3`` for what the third block gives, ``patches`` for what the last gives,
                normalised.
        """
        seen = self.model(pixel_values=image, output_hidden_states=True)
        found = {}
        for name in names:
            # The first of the states is what goes into the first block.
            is_last = name == PATCHES
            tokens = (
                seen.last_hidden_state
                if is_last
                else seen.hidden_states[int(name.removeprefix(BLOCK))]
            )
            side = math.isqrt(tokens.shape[1] - 1)
            found[name] = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        return found


class Dino(nn.Module):
    """DINO, for the keys of its last attention layer (Tumanyan et al. 2022)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def taps(
        self, image: Float[Tensor, "b 3 224 224"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "b _c _n 1"]]:
        """Keys of all tokens, the class token first, heads side by side.

        Args:
            image: As ``PREPROCESS["dino224"]`` prepares it.
            names: ``keys``, the only place.
        """
        # Called so by releases of transformers before and behind the one that renamed it.
        layers = [
            module
            for name, module in self.model.named_modules()
            if name.endswith((".k_proj", ".attention.key"))
        ]
        caught: list[Tensor] = []
        hook = layers[-1].register_forward_hook(lambda *call: caught.append(call[-1]))
        try:
            self.model(pixel_values=image)
        finally:
            hook.remove()
        (keys,) = caught
        return dict.fromkeys(names, keys.transpose(1, 2)[..., None])


def dinov2(
    tensors: Mapping[str, Tensor], *, file: str, config: Mapping[str, Any] | None = None
) -> DinoV2:
    """The network from the tensors of its file, in float32.

    Args:
        tensors: Under the keys of ``facebook/dinov2-base``.
        file: For messages.
        config: Another architecture in the words of transformers; default: `BASE`.

    Raises:
        WeightsError: The file is of another network.
    """
    from transformers import Dinov2Config, Dinov2Model

    def build() -> Any:
        return Dinov2Model(Dinov2Config(**(config or BASE)))

    return DinoV2(_filled(build, tensors, RENAMED, file=file))


def dino(
    tensors: Mapping[str, Tensor], *, file: str, config: Mapping[str, Any] | None = None
) -> Dino:
    """DINO's ViT-B/8 from the tensors of its file, in float32.

    Args:
        tensors: Under the keys of ``facebook/dino-vitb8``.
        file: For messages.
        config: Another architecture in the words of transformers, for tests.

    Raises:
        WeightsError: The file is of another network.
    """
    from transformers import ViTConfig, ViTModel

    def build() -> Any:
        return ViTModel(ViTConfig(**(config or VIT_B8)), add_pooling_layer=False)

    # Of a pooler, which whoever saves the model again may have added, nothing is used.
    return Dino(_filled(build, tensors, VIT_RENAMED, file=file, ignore=("pooler.",)))


def _filled(
    build: Callable[[], Any],
    tensors: Mapping[str, Tensor],
    renamed: Mapping[str, str],
    *,
    file: str,
    ignore: Sequence[str] = (),
) -> Any:
    # Unfilled: every tensor of it comes from the file.
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    load_strictly(model, _as_named_by(model, tensors, renamed), file=file, ignore=ignore)
    return model


def _as_named_by(
    model: nn.Module, tensors: Mapping[str, Tensor], renamed: Mapping[str, str]
) -> dict[str, Tensor]:
    """The tensors under the keys of this release's model; a key that fits is left alone."""
    wanted = model.state_dict().keys()
    named = {}
    for key, tensor in tensors.items():
        new = key
        for published, newer in renamed.items():
            new = new.replace(published, newer)
        # Where both names are in the file, neither may silently win.
        is_free = new in wanted and new not in tensors
        named[new if is_free else key] = tensor
    return named
