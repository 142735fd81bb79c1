"""Pocket's yardsticks: a perceptual distance and a text-image model small enough to ship.

Neither is LPIPS or CLIP of the papers, and no report calls them that: their figures are printed
as `pocket-lpips` and `pocket-clip`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from stylecli.errors import ItemError, WeightsError

LPIPS_WIDTHS = (16, 32, 64, 128, 160)
NATIVE_PX = 64
MIN_PX = 16

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class PocketLpips(nn.Module):
    """A small convolutional classifier of content and family, and the distance it implies.

    Attributes:
        contents: What the content head tells apart, in the order of its logits.
        families: The same for the family head.
    """

    def __init__(self, contents: Sequence[str], families: Sequence[str]) -> None:
        super().__init__()
        self.contents, self.families = tuple(contents), tuple(families)
        widths = (3, *LPIPS_WIDTHS)
        self.blocks = nn.ModuleList(_block(before, after) for before, after in pairwise(widths))
        self.neck = nn.Sequential(
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * widths[-1], widths[-1]),
            nn.BatchNorm1d(widths[-1]),
            nn.GELU(),
        )
        self.content_head = nn.Linear(widths[-1], len(self.contents))
        self.family_head = nn.Linear(widths[-1], len(self.families))

    def features(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Activations (b, c, h / 2**k, w / 2**k) after each block, k = 0..4.

        Args:
            images: In [0, 1], at least 16 px a side; native size 64 px.

        Raises:
            ItemError: Smaller.
        """
        if min(images.shape[-2:]) < MIN_PX:
            height, width = images.shape[-2:]
            raise ItemError(
                f"{width}x{height} is too small for pocket-lpips",
                fix=f"at least {MIN_PX} px a side",
            )
        hidden = images * 2 - 1
        found = []
        for index, block in enumerate(self.blocks):
            hidden = block(F.avg_pool2d(hidden, 2) if index else hidden)
            found.append(hidden)
        return found

    def distance(
        self, first: Float[Tensor, "b 3 h w"], second: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Squared distance of features made unit length per pixel, averaged over the blocks.

        0 for equal images; symmetric; unit-free.
        """
        total = torch.zeros(len(first), device=first.device)
        pairs = zip(self.features(first), self.features(second), strict=True)
        for one, other in pairs:
            difference = F.normalize(one, dim=1, eps=1e-6) - F.normalize(other, dim=1, eps=1e-6)
            total = total + difference.square().sum(dim=1).mean(dim=(1, 2))
        return total / len(self.blocks)

    def embedding(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """What both heads look at: one vector a picture, not of unit length."""
        pooled: Tensor = self.neck(self.features(images)[-1])
        return pooled

    def logits(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b contents"], Float[Tensor, "b families"]]:
        """Scores of every content and every family."""
        pooled = self.embedding(images)
        return self.content_head(pooled), self.family_head(pooled)


class PocketClip:
    """An open_clip model with pocket's own tokenizer."""

    def __init__(self, model: nn.Module, tokenizer: CLIPTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def image_features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit vectors; images in [0, 1] of any size, resized to 64 px."""
        if images.shape[-2:] != (NATIVE_PX, NATIVE_PX):
            size = (NATIVE_PX, NATIVE_PX)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        found: Tensor = self.model.encode_image(images * 2 - 1, normalize=True)  # type: ignore[operator]
        return found

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Unit vectors."""
        ids = clip_tokens(self.tokenizer, texts)
        device = next(self.model.parameters()).device
        found: Tensor = self.model.encode_text(ids.to(device), normalize=True)  # type: ignore[operator]
        return found


def clip_tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """Padded with zeros: open_clip pools at the largest id, which is the end token's."""
    ids = tokenizer(list(texts), truncation=True, max_length=tokenizer.model_max_length).input_ids
    padded = torch.zeros(len(ids), tokenizer.model_max_length, dtype=torch.long)
    for row, tokens in zip(padded, ids, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return padded


def create_clip(folder: Path) -> nn.Module:
    """An untrained open_clip model of the shape written in `folder`.

    Raises:
        WeightsError: The folder has no readable `config.json`.
    """
    # Imported here: open_clip takes seconds, and pocket-lpips does not need it.
    from open_clip.model import CLIP

    config = _read_config(folder)
    try:
        made: nn.Module = CLIP(
            embed_dim=config["embed_dim"],
            vision_cfg=dict(config["vision_cfg"]),  # type: ignore[call-overload]
            text_cfg=dict(config["text_cfg"]),  # type: ignore[call-overload]
        )
    except KeyError as missing:
        raise WeightsError(
            f"{folder / _CONFIG} lacks {missing}", fix="reinstall the package"
        ) from missing
    return made


def load_pocket_clip(folder: Path) -> PocketClip:
    """The text-image model, in evaluation mode.

    Args:
        folder: Holds config.json, model.safetensors and tokenizer files (`clip/`).

    Raises:
        WeightsError: A file or a tensor is missing, unknown or of the wrong shape.
    """
    model = create_clip(folder)
    _load_strictly(model, folder)
    return PocketClip(model, CLIPTokenizer.from_pretrained(folder))


def load_pocket_lpips(folder: Path) -> PocketLpips:
    """The perceptual distance, in evaluation mode.

    Args:
        folder: Holds config.json and model.safetensors (`lpips/`).

    Raises:
        WeightsError: A file or a tensor is missing, unknown or of the wrong shape.
    """
    config = _read_config(folder)
    contents, families = config.get("contents"), config.get("families")
    if not isinstance(contents, Iterable) or not isinstance(families, Iterable):
        raise WeightsError(
            f"{folder / _CONFIG} names no contents or families", fix="reinstall the package"
        )
    model = PocketLpips([str(c) for c in contents], [str(f) for f in families])
    _load_strictly(model, folder)
    return model


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.GELU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.GELU(),
    )


def _read_config(folder: Path) -> dict[str, object]:
    try:
        config: dict[str, object] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as fault:
        raise WeightsError(
            f"{folder / _CONFIG} cannot be read ({fault})", fix="reinstall the package"
        ) from fault
    return config


def _load_strictly(model: nn.Module, folder: Path) -> None:
    path = folder / _WEIGHTS
    try:
        tensors = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(path).items()
        }
        model.load_state_dict(tensors, strict=True)
    except (OSError, SafetensorError, RuntimeError) as fault:
        detail = " ".join(str(fault).split())
        raise WeightsError(f"{path}: {detail}", fix="reinstall the package") from fault
    model.eval().requires_grad_(False)
