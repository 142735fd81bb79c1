"""The predictor: tokens of references and learned queries through one transformer, then heads.

Read beside the paper's equations: Z = concat E(r_i) (1), H = T([Q; Z]) (3), and of layer l
A[m] = D_A C_A h_A[m], B[:, m] = D_B C_B h_B[m] (4). All of it is float32: in bfloat16 a learning
rate of 1e-5 moves no weight above 0.005, because the change is less than one rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stylecli.backbone import row_loras
from stylecli.backbone.linears import Layer
from stylecli.backbone.row_loras import Factors
from stylecli.methods.i2l.sizes import Shape

EPS = 1e-6


class Predictor(nn.Module):
    """Tokens of N references -> the LoRA of every layer, packed as `row_loras.Factors` has it.

    A fresh one predicts a LoRA that changes nothing: the last matrix of every B is zero, and of no
    A, or no gradient would ever reach anything.

    Attributes:
        shape: Its sizes.
        layers: Whose LoRA it writes, in this order.
        is_frugal: Blocks keep only what goes in, and compute the rest again on the way back.
    """

    def __init__(self, shape: Shape, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.shape, self.layers = shape, tuple(layers)
        self.is_frugal = False
        count, d = len(self.layers), shape.width
        self.img_norm = nn.RMSNorm(shape.encoder_width, eps=EPS)
        self.img_in = nn.Linear(shape.encoder_width, d)
        self.queries = nn.Parameter(torch.zeros(count, 2, shape.rank, d))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm_out = nn.RMSNorm(d, eps=EPS)
        self.heads = Heads(shape, self.layers)

    def reset(self, generator: Generator) -> None:
        """Numbers to begin training from."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    bound = 1 / math.sqrt(module.in_features)
                    module.weight.uniform_(-bound, bound, generator=generator)
                    if module.bias is not None:
                        module.bias.zero_()
                elif isinstance(module, nn.RMSNorm):
                    module.weight.fill_(1)
            self.queries.normal_(0, self.shape.query_std, generator=generator)
        self.heads.reset(generator)

    def forward(
        self,
        tokens: Float[Tensor, "b n t e"],
        is_there: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b numbers"]:
        """One LoRA a row, down and up of the first layer, then of the next; alpha is 1.

        Args:
            tokens: Of N references each, which are a set: their order changes nothing.
            is_there: Which references count; None is all of them, and faster.

        Raises:
            ValueError: A row has no reference: it would have the LoRA of no style at all.
        """
        batch, count, per_reference, _ = tokens.shape
        if not count or (is_there is not None and not bool(is_there.any(1).all())):
            raise ValueError("there is no reference")
        images = self.img_in(self.img_norm(tokens.float())).flatten(1, 2)
        queries = self.queries.flatten(0, 2).expand(batch, -1, -1)
        mask = None
        if is_there is not None and not bool(is_there.all()):
            seen = is_there.repeat_interleave(per_reference, dim=1)
            asks = seen.new_ones(batch, queries.shape[1])
            mask = torch.cat([asks, seen], dim=1)[:, None, None]
        x = torch.cat([queries, images], dim=1)
        for number, block in enumerate(self.blocks, start=1):
            # Nobody reads what the last block would make of images.
            only = queries.shape[1] if number == len(self.blocks) else None
            if self.is_frugal and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, only, use_reentrant=False)
            else:
                x = block(x, mask, only)
        with torch.autocast(x.device.type, enabled=False):
            packed: Tensor = self.heads(self.norm_out(x.float()))
        return packed

    def factors(self, packed: Float[Tensor, "b numbers"]) -> Factors:
        """What `forward` returned, as LoRAs side by side."""
        return Factors(self.row_shapes, packed)

    @property
    def is_dead(self) -> bool:
        """Whether the last matrices of all layers, of A and of B, are zero: no gradient passes."""
        return not any(bool(up.any()) for up in self.heads.up.values())

    @property
    def row_shapes(self) -> tuple[row_loras.Shape, ...]:
        """Of every layer's factors, in the order of `packed`."""
        return tuple(
            row_loras.Shape(layer.path, self.shape.rank, layer.width_in, layer.width_out)
            for layer in self.layers
        )


class Block(nn.Module):
    """One set of weights for queries and image tokens; no dropout, no time, no words."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(shape.width, eps=EPS)
        self.attn = Attention(shape.width, shape.heads)
        self.norm2 = nn.RMSNorm(shape.width, eps=EPS)
        self.ff = FeedForward(shape.width, shape.hidden)

    def forward(
        self,
        x: Float[Tensor, "b tokens d"],
        mask: Bool[Tensor, "b 1 1 tokens"] | None,
        only: int | None,
    ) -> Float[Tensor, "b kept d"]:
        """Only the first rows where that is asked for, and all where `only` is None."""
        seen = self.norm1(x)
        x = x[:, :only] + self.attn(seen[:, :only], seen, mask)
        out: Tensor = x + self.ff(self.norm2(x))
        return out


class Attention(nn.Module):
    """With queries and keys made unit size per head, so no trunk is too deep to start."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=EPS) for _ in range(2))
        self._heads = heads

    def forward(
        self,
        asking: Float[Tensor, "b rows d"],
        seen: Float[Tensor, "b tokens d"],
        mask: Bool[Tensor, "b 1 1 tokens"] | None,
    ) -> Float[Tensor, "b rows d"]:
        # Of floats even under autocast: a norm of mixed types has no fast kernel, and says so.
        q = self.norm_q(self._split(self.to_q(asking)).float())
        k = self.norm_k(self._split(self.to_k(seen)).float())
        v = self._split(self.to_v(seen))
        found = F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=mask)
        out: Tensor = self.to_out(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, rows: Tensor) -> Float[Tensor, "b heads rows head"]:
        split: Tensor = rows.unflatten(-1, (self._heads, -1))
        return split.transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "b tokens d"]) -> Float[Tensor, "b tokens d"]:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Heads(nn.Module):
    """Two heads a layer, D C h, stored so that all of them are a few products.

    The up matrices of layers with equal widths lie in one tensor; which row belongs to which layer
    follows from the order of the layers.
    """

    def __init__(self, shape: Shape, layers: Sequence[Layer]) -> None:
        super().__init__()
        widths = [width for layer in layers for width in (layer.width_in, layer.width_out)]
        self._of_width = {
            width: [place for place, own in enumerate(widths) if own == width]
            for width in sorted(set(widths))
        }
        self._widths = widths
        self.down = nn.Parameter(torch.zeros(len(widths), shape.bottleneck, shape.width))
        self.up = nn.ParameterDict(
            {
                str(width): nn.Parameter(torch.zeros(len(places), width, shape.bottleneck))
                for width, places in self._of_width.items()
            }
        )

    def reset(self, generator: Generator) -> None:
        """A as large as LoRAs usually begin; B nothing."""
        _, c, d = self.down.shape
        with torch.no_grad():
            self.down.normal_(0, 1 / math.sqrt(d), generator=generator)
            for width, places in self._of_width.items():
                up = self.up[str(width)].zero_()
                for row, place in enumerate(places):
                    if place % 2 == 0:
                        up[row].normal_(0, 1 / math.sqrt(3 * c * width), generator=generator)

    def forward(self, hidden: Float[Tensor, "b queries d"]) -> Float[Tensor, "b numbers"]:
        sides = hidden.unflatten(1, (len(self._widths), -1))
        low = torch.einsum("bpkd,pcd->pbkc", sides, self.down)
        parts: list[Tensor] = [low] * len(self._widths)
        for width, places in self._of_width.items():
            rows = torch.einsum("pbkc,poc->pbko", low[places], self.up[str(width)])
            for place, row in zip(places, rows, strict=True):
                # A is [k, in], B is [out, k].
                parts[place] = (row if place % 2 == 0 else row.mT).flatten(1)
        return torch.cat(parts, dim=1)
