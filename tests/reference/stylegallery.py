"""StyleGallery's third stage as its authors run it: every pass whole, every mask a multiplication.

Content and styles pass the model one by one and clean. For each region of the content, queries are
multiplied by its mask, keys and values by that of the region it matches, and attention runs over
all tokens of both; what comes out is multiplied by the region's mask again. One Adam changes the
latent at each of many timesteps; nothing is sampled, and no noise is added.

In place of the multiplied masks there is the form the paper means, by a dense mask of forbidden
pairs, so that both can be checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from . import attention
from .attention_distillation import Adam
from .styleid import LAYERS

# Latent cells to a token, each way, by the block of the decoder.
SPANS = {"2": 2, "3": 1}
FEW = 8


@dataclass
class Picture:
    """Of a content or a style; regions are numbers at latent size."""

    clean: torch.Tensor
    noise: torch.Tensor
    labels: torch.Tensor


@dataclass
class Settings:
    lr: float = 0.05
    style_weight: float = 1.0
    content_weight: float = 0.26
    scale: float = 1.5
    mask_mode: str = "zero"
    masks: str = "nearest"
    iterations: int = 1


class Layer:
    """Attention that keeps all it computes."""

    def __init__(self, name: str, notes: dict) -> None:
        self.name = name
        self.notes = notes

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_: object):
        qkv = [
            attention.split_heads(linear(hidden_states), attn.heads)
            for linear in (attn.to_q, attn.to_k, attn.to_v)
        ]
        out = F.scaled_dot_product_attention(*qkv)
        self.notes[self.name] = *qkv, out
        return attn.to_out[0](attention.join_heads(out))


@contextmanager
def noted(unet, layers: Sequence[str]):
    """Inside, query, key, value and output of those layers are in the dictionary this gives."""
    before = dict(unet.attn_processors)
    notes: dict = {}
    unet.set_attn_processor({**before, **{name: Layer(name, notes) for name in layers}})
    try:
        yield notes
    finally:
        unet.set_attn_processor(before)


def span_of(layer: str) -> int:
    return SPANS[layer.split(".")[1]]


def covered(cells: torch.Tensor, span: int) -> list[list[float]]:
    """Share of each token that lies in a region, from cells cut into as many parts as tokens."""
    height, width = cells.shape
    rows, columns = -(-height // span), -(-width // span)
    found = []
    for top in range(0, rows * height, height):
        row = []
        for left in range(0, columns * width, width):
            inside = [
                bool(cells[y // rows, x // columns])
                for y in range(top, top + height)
                for x in range(left, left + width)
            ]
            row.append(sum(inside) / len(inside))
        found.append(row)
    return found


def token_labels(labels: torch.Tensor, span: int, how: str) -> torch.Tensor:
    """The region of each token, in the order of the layer."""
    if how == "nearest":
        return labels[::span, ::span].flatten()
    best: list[tuple[float, int]] = []
    for number in sorted(set(labels.flatten().tolist())):
        shares = [share for row in covered(labels == number, span) for share in row]
        if not best:
            best = [(-1.0, 0)] * len(shares)
        best = [
            (share, number) if share >= most else (most, held)
            for share, (most, held) in zip(shares, best, strict=True)
        ]
    return torch.tensor([number for _, number in best])


def key_tokens(cells: torch.Tensor, span: int, how: str) -> torch.Tensor:
    """Which tokens a region offers: true or false of each, never all false."""
    shares = torch.tensor(covered(cells, span))
    chosen = cells[::span, ::span].clone() if how == "nearest" else shares >= 0.5
    if not chosen.any():
        chosen = shares == shares.max()
    while how != "nearest" and int(chosen.sum()) < min(FEW, chosen.numel()):
        wider = chosen.clone()
        for y, x in chosen.nonzero().tolist():
            wider[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        chosen = wider
    return chosen.flatten()


def masked(query, key, value, rows, keys, scale: float):
    """The authors' target of one region: zeros in, zeros out."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    rows, keys = (mask.to(query.device, dtype)[:, None] for mask in (rows, keys))
    temperature = scale / math.sqrt(query.shape[-1])
    out = F.scaled_dot_product_attention(query * rows, key * keys, value * keys, scale=temperature)
    return out * rows


def excluded(query, key, value, rows, keys, scale: float):
    """The same with pairs forbidden that do not belong together."""
    allowed = torch.zeros(1, len(keys)).masked_fill(~keys, -math.inf).to(query)
    temperature = scale / math.sqrt(query.shape[-1])
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=temperature)
    return out * rows.to(query)[:, None]


@dataclass
class Pair:
    """One region of the content and what it looks at, at the size of a layer.

    Attributes:
        rows: Which tokens of the content are in the region.
        style: Number of the picture, or None for the content itself.
        keys: Which of its tokens are looked at.
    """

    rows: torch.Tensor
    style: int | None
    keys: torch.Tensor


def pairs(content: Picture, styles: Sequence[Picture], matches: Mapping, span: int, how: str):
    """All of a layer; `matches` is region -> (style or None, its regions)."""
    tokens = token_labels(content.labels, span, how)
    found = []
    for number, (style, regions) in matches.items():
        labels = content.labels if style is None else styles[style].labels
        cells = torch.zeros_like(labels, dtype=torch.bool)
        for region in (number,) if style is None else regions:
            cells |= labels == region
        found.append(Pair(tokens == number, style, key_tokens(cells, span, how)))
    return found


def losses(latent: Mapping, content: Mapping, styles: Sequence[Mapping], plan: Mapping, settings):
    """To the style and to the content: sums over layers of means over all tokens.

    Args:
        latent: ``(query, key, value, output)`` of each layer, by name, with their graph.
        content: Of the content.
        styles: Of every style.
        plan: `pairs` of every layer.
        settings: Scale and kind of mask.
    """
    target = masked if settings.mask_mode == "zero" else excluded
    to_style, to_content = 0.0, 0.0
    for name, (query, _, _, out) in latent.items():
        for pair in plan[name]:
            _, key, value, _ = content[name] if pair.style is None else styles[pair.style][name]
            with torch.no_grad():
                wanted = target(query.detach(), key, value, pair.rows, pair.keys, settings.scale)
            own = out * pair.rows.to(wanted)[:, None]
            to_style = to_style + (own - wanted).abs().mean()
        to_content = to_content + (query - content[name][0]).abs().mean()
    return to_style, to_content


def channel_normalised(noise: torch.Tensor) -> torch.Tensor:
    """Each place of its own, over the channels."""
    found = noise.clone()
    channels = noise.shape[1]
    mean = sum(noise[:, c] for c in range(channels)) / channels
    variance = sum((noise[:, c] - mean) ** 2 for c in range(channels)) / (channels - 1)
    for c in range(channels):
        found[:, c] = (noise[:, c] - mean) / (variance.sqrt() + 1e-8)
    return found


def stylise(
    unet,
    content: Picture,
    styles: Sequence[Picture],
    matches: Mapping,
    timesteps: Sequence[int],
    *,
    null: torch.Tensor,
    settings: Settings,
    layers: Sequence[str] = LAYERS,
    start: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The latent after every update.

    Args:
        matches: Region of the content -> (style or None, its regions).
        timesteps: In the order they are visited.
        start: The first latent; else the normalised noise.
    """
    plan = {name: pairs(content, styles, matches, span_of(name), settings.masks) for name in layers}

    def seen(latent: torch.Tensor, t: int) -> dict:
        with noted(unet, layers) as notes:
            unet(latent, t, encoder_hidden_states=null)
        return notes

    here = channel_normalised(content.noise) if start is None else start
    adam = Adam(settings.lr, torch.zeros_like(here), torch.zeros_like(here))
    path = []
    for t in timesteps:
        with torch.no_grad():
            of_content = seen(content.clean, t)
            of_styles = [seen(style.clean, t) for style in styles]
        for _ in range(settings.iterations):
            leaf = here.clone().requires_grad_()
            of_latent = seen(leaf, t)
            to_style, to_content = losses(of_latent, of_content, of_styles, plan, settings)
            whole = settings.style_weight * to_style + settings.content_weight * to_content
            whole.backward()
            here = adam.step(here, leaf.grad)
            path.append(here)
    return path
