"""ImageReward written out, head by head and token by token, on the published keys.

Nothing here knows transformers: names, order of operations and epsilons are those of BLIP's own
code, and the arithmetic is float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

PATCH = 16


def reward(
    tensors: Mapping[str, Tensor],
    image: Tensor,
    tokens: list[int],
    *,
    picture_heads: int,
    text_heads: int,
) -> float:
    """Of one prepared picture (3, h, w) and the tokens of its prompt, without padding."""
    given = {key: tensor.double() for key, tensor in tensors.items()}
    token = class_token(given, image, tokens, picture_heads, text_heads)
    for layer in (0, 2, 4, 6, 7):
        token = linear(given, f"mlp.layers.{layer}", token)
    return (float(token) - 0.16717362830052426) / 1.0333394966054072


def class_token(
    given: Mapping[str, Tensor], image: Tensor, tokens: list[int], heads: int, text_heads: int
) -> Tensor:
    """What the fusion encoder makes of the first token."""
    seen = patches(given, image.double(), heads)
    name = "blip.text_encoder.embeddings"
    rows = []
    for position, number in enumerate(tokens):
        row = given[f"{name}.word_embeddings.weight"][number]
        row = row + given[f"{name}.position_embeddings.weight"][position]
        rows.append(norm(given, f"{name}.LayerNorm", row, 1e-12))
    x = torch.stack(rows)
    for index in range(depth(given, "blip.text_encoder.encoder.layer.")):
        layer = f"blip.text_encoder.encoder.layer.{index}"
        for kind, others in (("attention", None), ("crossattention", seen)):
            place = f"{layer}.{kind}"
            of = x if others is None else others
            q = linear(given, f"{place}.self.query", x)
            k = linear(given, f"{place}.self.key", of)
            v = linear(given, f"{place}.self.value", of)
            mixed = linear(given, f"{place}.output.dense", attend(q, k, v, text_heads))
            x = norm(given, f"{place}.output.LayerNorm", mixed + x, 1e-12)
        wide = gelu(linear(given, f"{layer}.intermediate.dense", x))
        narrow = linear(given, f"{layer}.output.dense", wide)
        x = norm(given, f"{layer}.output.LayerNorm", narrow + x, 1e-12)
    return x[0]


def patches(given: Mapping[str, Tensor], image: Tensor, heads: int) -> Tensor:
    """The picture's tokens: a class token, then patches row by row."""
    name = "blip.visual_encoder"
    kernel = given[f"{name}.patch_embed.proj.weight"].flatten(1)
    rows = [given[f"{name}.cls_token"].flatten()]
    for top in range(0, image.shape[1], PATCH):
        for left in range(0, image.shape[2], PATCH):
            patch = image[:, top : top + PATCH, left : left + PATCH].flatten()
            rows.append(kernel @ patch + given[f"{name}.patch_embed.proj.bias"])
    x = torch.stack(rows) + given[f"{name}.pos_embed"][0]
    for index in range(depth(given, f"{name}.blocks.")):
        block = f"{name}.blocks.{index}"
        normed = norm(given, f"{block}.norm1", x, 1e-6)
        q, k, v = linear(given, f"{block}.attn.qkv", normed).chunk(3, dim=1)
        x = x + linear(given, f"{block}.attn.proj", attend(q, k, v, heads))
        wide = gelu(linear(given, f"{block}.mlp.fc1", norm(given, f"{block}.norm2", x, 1e-6)))
        x = x + linear(given, f"{block}.mlp.fc2", wide)
    return norm(given, f"{name}.norm", x, 1e-6)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Every row of q looks at every row of k: forwards and backwards."""
    width = q.shape[1] // heads
    found = torch.zeros_like(q)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for row in range(len(q)):
            scores = (k[:, own] @ q[row, own]) / math.sqrt(width)
            weights = (scores - scores.max()).exp()
            found[row, own] = (weights / weights.sum()) @ v[:, own]
    return found


def norm(given: Mapping[str, Tensor], name: str, x: Tensor, epsilon: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    scaled = (x - mean) / (variance + epsilon).sqrt()
    return scaled * given[f"{name}.weight"] + given[f"{name}.bias"]


def linear(given: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ given[f"{name}.weight"].T + given[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def depth(given: Mapping[str, Tensor], name: str) -> int:
    return 1 + max(
        int(key.removeprefix(name).split(".")[0]) for key in given if key.startswith(name)
    )
