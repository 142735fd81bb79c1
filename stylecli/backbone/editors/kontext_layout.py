"""How FLUX.1-Kontext lays pictures out in a sequence, and what its layers are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stylecli.backbone.linears import natural
from stylecli.errors import RecipeError

# Cells of the latent that make one token, a side.
PATCH = 2
_DOUBLE, _SINGLE = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
_ATTN_DOUBLE = rf"{_DOUBLE}attn\.to_(q|k|v|out\.0)"
_ATTN_SINGLE = rf"{_SINGLE}attn\.to_[qkv]"
_TEXT = rf"{_DOUBLE}attn\.(add_[qkv]_proj|to_add_out)"
# Whole paths: the bare name proj_out would also fit the model's last layer, which is no block's.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "attn": (_ATTN_DOUBLE, _ATTN_SINGLE),
    "attn+text": (_ATTN_DOUBLE, _ATTN_SINGLE, _TEXT),
    "full": (
        _ATTN_DOUBLE,
        _ATTN_SINGLE,
        _TEXT,
        rf"{_DOUBLE}ff(_context)?\.net\.(0\.proj|2)",
        rf"{_SINGLE}proj_mlp",
    ),
    "double": (_ATTN_DOUBLE,),
    "single": (_ATTN_SINGLE,),
}


def packed(latents: Float[Tensor, "b c lh lw"]) -> Float[Tensor, "b n channels"]:
    """Tokens, row after row: a token is the 2 x 2 cells of each channel after another."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).mT.contiguous()


def unpacked(
    tokens: Float[Tensor, "b n channels"], grid: tuple[int, int]
) -> Float[Tensor, "b c lh lw"]:
    """The latents of `packed`."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, grid), PATCH)


def places(grid: tuple[int, int], picture: int) -> Float[Tensor, "n 3"]:
    """Picture, row and column of each token: the target is picture 0, the reference 1.

    >>> places((1, 2), 1).tolist()
    [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    """
    axes = (torch.tensor([float(picture)]), *(torch.arange(float(side)) for side in grid))
    return torch.cartesian_prod(*axes)


def shift_of(tokens: int, config: Mapping[str, Any]) -> float:
    """mu: how far noise levels are shifted for so many target tokens (the pipeline's own line).

    Args:
        tokens: Of the target alone.
        config: Of the scheduler.
    """
    base, most = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (most - base)
    return float(config["base_shift"] + slope * (tokens - base))


def drawn_sigmas(count: int, mu: float, generator: Generator) -> Float[Tensor, " b"]:
    """Logit-normal around mu: log(sigma / (1 - sigma)) ~ N(mu, 1).

    The same as a standard logit-normal draw s, shifted to ``e^mu s / (1 + (e^mu - 1) s)``.
    """
    return torch.sigmoid(mu + torch.randn(count, generator=generator))


def paths(model: nn.Module, target_set: str) -> tuple[str, ...]:
    """The linear layers of a target set, in natural order; LoRAs on them change no name.

    Raises:
        RecipeError: FLUX has no such set.
    """
    name = "attn" if target_set == "auto" else target_set
    if name not in TARGETS:
        raise RecipeError(
            f"route.lora.targets {target_set}: FLUX has {', '.join(TARGETS)}",
            fix="--set route.lora.targets=attn",
        )
    found = {
        path.removesuffix(".base_layer")
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    fits = re.compile("|".join(TARGETS[name])).fullmatch
    return tuple(sorted(filter(fits, found), key=natural))
