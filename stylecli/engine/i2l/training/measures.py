"""What predicted LoRAs look like: how large they are, how many directions, how alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.denoisers.base import Denoiser
from stylecli.backbone.lora_algebra import effective_rank
from stylecli.backbone.row_loras import views
from stylecli.methods.i2l.predictor import Predictor

# Blocks and their numbers; what is left is what kind of layer it is.
_KIND = re.compile(
    r"(?:^|\.)((?:attn\d?|attention|self_attn|ff(?:_context)?|feed_forward|mlp)\..*)$"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Of some LoRAs.

    Attributes:
        sizes: Norm of the change over that of the weights, by kind of layer.
        rank: Effective rank of the rows of A, on average over layers and LoRAs.
        alike: Cosine between the changes of two LoRAs, on average; near 1, they have almost all in
            common.
    """

    sizes: Mapping[str, float]
    rank: float
    alike: float | None

    def row(self) -> dict[str, object]:
        """For the log."""
        return {
            "change": {kind: float(f"{size:.4g}") for kind, size in self.sizes.items()},
            "effective_rank": round(self.rank, 3),
            "alike": None if self.alike is None else round(self.alike, 4),
        }


@torch.no_grad()
def measure(
    predictor: Predictor, packed: Float[Tensor, "b numbers"], denoiser: Denoiser
) -> Measured:
    """Look at LoRAs of different styles; no change is ever formed in full."""
    count = len(packed)
    products = torch.zeros(count, count, device=packed.device)
    changes: dict[str, float] = {}
    weights: dict[str, float] = {}
    ranks = []
    for path, (down, up) in views(predictor.row_shapes, packed.float()).items():
        # <B A, D C> = trace(A C^T D^T B), of small matrices alone.
        downs = torch.einsum("ari,bsi->abrs", down, down)
        ups = torch.einsum("aor,bos->abrs", up, up)
        own = (downs * ups).sum(dim=(2, 3))
        products += own
        kind = kind_of(path)
        changes[kind] = changes.get(kind, 0.0) + float(own.diagonal().clamp(min=0).mean())
        weights[kind] = weights.get(kind, 0.0) + _square(denoiser.model, path)
        ranks.append(effective_rank(down).mean())
    sizes = {kind: (changes[kind] / max(weights[kind], 1e-30)) ** 0.5 for kind in changes}
    return Measured(sizes, float(torch.stack(ranks).mean()), _alike(products))


def kind_of(path: str) -> str:
    """The kind of a layer: its path without blocks and their numbers.

    >>> kind_of("down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_q")
    'attn2.to_q'
    """
    match = _KIND.search(path)
    return match[1] if match else path.rpartition(".")[2]


def _alike(products: Float[Tensor, "b b"]) -> float | None:
    """None where there are no two, or nothing in them."""
    norms = products.diagonal().clamp(min=0).sqrt()
    if len(products) < 2 or not bool((norms > 0).all()):
        return None
    cosines = products / norms[:, None] / norms
    is_pair = ~torch.eye(len(products), dtype=torch.bool, device=products.device)
    return float(cosines[is_pair].mean())


def _square(model: nn.Module, path: str) -> float:
    layer = model.get_submodule(path)
    weight: Tensor = getattr(layer, "base_layer", layer).weight  # type: ignore[assignment]
    return float(weight.float().square().sum())
