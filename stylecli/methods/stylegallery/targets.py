"""What every region should attend to, and how far from it the latents are (section 3.3 and 3.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.backbone.capture import Captured
from stylecli.methods.stylegallery.keysets import KeySet, Level, Parts
from stylecli.recipe.gallery import Gallery
from stylecli.tensors.attention import attention
from stylecli.tensors.losses import over_layers


@dataclass(frozen=True, slots=True)
class Keys:
    """A key set in one layer at one moment, and what is added to its logits."""

    key: Float[Tensor, "1 heads m d"]
    value: Float[Tensor, "1 heads m d"]
    bias: Float[Tensor, "1 m"] | None = None


Gathered = Mapping[tuple[str, KeySet], Keys]
# Keys and values of a layer, by picture and layer.
Taken = Mapping[tuple[int, str], tuple[Tensor, Tensor]]


def gathered(
    plan: Mapping[str, Level], taken: Taken, *, zeros: bool
) -> dict[tuple[str, KeySet], Keys]:
    """Cut out what each key set looks at, so that its softmax knows of nothing else.

    Args:
        plan: Of every layer.
        taken: Of all pictures that the plan looks at.
        zeros: Keys that are left out stay in the softmax with a logit and a value of zero. One key
            of zeros stands for all of them, its logit the logarithm of their number.
    """
    found = {}
    for layer, level in plan.items():
        for keys, left_out in level.left_out.items():
            pieces = [
                [picked(part, level.picked[piece]) for part in taken[piece[0], layer]]
                for piece in keys
            ]
            key, value = (_joined(parts) for parts in zip(*pieces, strict=True))
            one = Keys(key, value)
            found[layer, keys] = _with_zeros(one, left_out) if zeros and left_out else one
    return found


@torch.no_grad()
def targets(
    plan: Mapping[str, Level],
    queries: Mapping[str, Float[Tensor, "b _h _n _d"]],
    keys: Gathered,
    scale: float,
    contents: Sequence[int],
) -> dict[str, Float[Tensor, "b _h _n _d"]]:
    """What each token finds in its key set; zeros where it has none. Without gradients.

    Args:
        plan: Of every layer.
        queries: Of the latents; none is read that has no group.
        keys: From `gathered`.
        scale: Factor of the logits (alpha).
        contents: The number of each row's content, from 0.
    """
    found = {}
    for layer, query in queries.items():
        rows, heads, tokens, width = query.shape
        # Tokens before heads, as projections leave them: copies are of whole tokens.
        made = query.new_zeros(rows, tokens, heads, width)
        for row, content in zip(range(rows), contents, strict=True):
            for group in plan[layer].groups[content]:
                of = keys[layer, group.keys]
                asked = picked(query[row : row + 1], group.rows).to(of.key.dtype)
                seen = attention(asked, of.key, of.value, scale, of.bias)
                seen = seen[0].transpose(0, 1).to(made.dtype)
                if group.rows is None:
                    made[row] = seen
                else:
                    made[row].index_copy_(0, group.rows, seen)
        found[layer] = made.transpose(1, 2)
    return found


def losses(
    plan: Mapping[str, Level],
    captured: Captured,
    content: Mapping[str, Float[Tensor, "b _h _n _d"]],
    keys: Gathered,
    settings: Gallery,
    contents: Sequence[int],
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Of every row: its distance to the style region by region (RSL), and to its queries (GCL).

    In a layer of n tokens and h heads of width d, let q, k, v and o be queries, keys, values and
    outputs, c(p) the region of token p, and K(i) the keys that region i looks at in the pictures of
    its match. Over the layers::

        T_p   = sum_{u in K(c(p))} softmax_u(attn_scale q_p k_u / sqrt(d)) v_u
        L_RSL = sum_layers 1 / (h n d) sum_p strength(c(p)) |o_p - T_p|_1
        L_GCL = sum_layers 1 / (h n d) sum_p |q_p - q_p of the content|_1

    T has no gradient, so that of RSL comes through o alone. A token whose region has no match, or
    a strength of 0, adds nothing; it still counts in n, and what a region weighs is its area. A
    part that weighs nothing is 0 and not computed.

    Args:
        plan: Of every layer.
        captured: What `parts` of the latents names, with gradients.
        content: Queries of each row's content.
        keys: From `gathered`.
        settings: Weights, and what is compared.
        contents: The number of each row's content, from 0.
    """
    nothing = torch.zeros(len(contents), device=next(iter(captured.queries.values())).device)
    style, fixed = nothing, nothing
    if settings.style_weight:
        wanted = targets(plan, captured.queries, keys, settings.attn_scale, contents)
        own = captured.outputs or _within_regions(plan, captured, contents)
        weights = {
            layer: level.weights[list(contents)]
            for layer, level in plan.items()
            if level.weights is not None
        }
        style = over_layers(own, wanted, weights)
    if settings.content_weight:
        fixed = over_layers(captured.queries, content)
    return style, fixed


def picked(
    tensor: Float[Tensor, "1 heads n d"], rows: Int[Tensor, " m"] | None
) -> Float[Tensor, "1 heads _ d"]:
    """Some tokens of one row, lying side by side in memory."""
    if rows is None:
        return tensor
    return tensor.transpose(1, 2).index_select(1, rows).transpose(1, 2)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)


def _with_zeros(keys: Keys, number: int) -> Keys:
    # The authors' masks make this float32 too; in half precision the logarithm would be too coarse.
    dtype = torch.promote_types(keys.key.dtype, torch.float32)
    key, value = (F.pad(part.to(dtype), (0, 0, 0, 1)) for part in (keys.key, keys.value))
    bias = key.new_zeros(1, key.shape[2])
    bias[:, -1] = math.log(number)
    return Keys(key, value, bias)


def _within_regions(
    plan: Mapping[str, Level], captured: Captured, contents: Sequence[int]
) -> dict[str, Tensor]:
    """What layers would give if every token attended to its own region alone; with gradients."""
    found = {}
    for layer in captured.queries:
        qkv = captured.queries[layer], captured.keys[layer], captured.values[layer]
        rows = zip(*(of.split(1) for of in qkv), contents, strict=True)
        found[layer] = torch.cat(
            [_within(q, k, v, plan[layer].parts[content]) for q, k, v, content in rows]
        )
    return found


def _within(query: Tensor, key: Tensor, value: Tensor, parts: Parts) -> Tensor:
    made = [
        attention(picked(query, rows), picked(key, rows), picked(value, rows))
        for rows in parts.rows
    ]
    return picked(torch.cat(made, dim=2), parts.places)
