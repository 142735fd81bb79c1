"""CLIP as OpenAI and LAION trained it: pictures and texts as unit vectors of one space.

OpenAI trained with QuickGELU, ``x * sigmoid(1.702 x)``, LAION with plain GELU, and no key and no
shape of a weight file betrays which: the same file runs under either without a complaint and gives
other numbers. The activation is therefore asserted. Cosines are the products of these vectors; the
learnt temperature (``logit_scale``) takes no part in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylecli.errors import WeightsError
from stylecli.evaluation.weights import load_strictly

# The names of open_clip without it are the same networks with plain GELU, as LAION trained its own.
QUICK_GELU = "-quickgelu"
ARCHITECTURES: Mapping[str, str] = {
    "clip-b32": "ViT-B-32-quickgelu",
    "clip-l14": "ViT-L-14-quickgelu",
    "clip-l14-336": "ViT-L-14-336-quickgelu",
    "clip-h14": "ViT-H-14",
    "pickscore": "ViT-H-14",
    "hpsv2": "ViT-H-14",
}
# Tokens of a text, the start token and the end token among them.
CONTEXT = 77
FRAME = 2


class Tokenizer(Protocol):
    """What is asked of open_clip's tokenizer."""

    context_length: int

    def encode(self, text: str) -> list[int]:
        """Tokens without start and end."""

    def decode(self, tokens: list[int]) -> str:
        """Their text."""

    def __call__(self, texts: list[str]) -> Int[Tensor, "n context"]:
        """Framed tokens, padded and cut to the context."""


class Clip:
    """An open_clip model with its tokenizer.

    Attributes:
        model: Frozen; what moves to a device.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def image_features(self, images: Float[Tensor, "b 3 px px"]) -> Float[Tensor, "b d"]:
        """Unit vectors of pictures that `PREPROCESS` has prepared, as `NETWORKS` says."""
        found: Tensor = self.model.encode_image(images, normalize=True)  # type: ignore[operator]
        return found

    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit vectors; what does not fit the context is cut off, see `truncated`."""
        tokens = self.tokenizer(list(texts)).to(next(self.model.parameters()).device)
        found: Tensor = self.model.encode_text(tokens, normalize=True)  # type: ignore[operator]
        return found

    @property
    def temperature(self) -> float:
        """What cosines were multiplied by in training."""
        found: Tensor = self.model.logit_scale.exp()  # type: ignore[operator]
        return float(found)

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts the model does not see to their end: it reads 77 tokens."""
        longest = self.tokenizer.context_length - FRAME
        return sum(len(self.tokenizer.encode(text)) > longest for text in texts)


def truncated(texts: Sequence[str]) -> int:
    """How many of the texts do not fit, for all networks of `ARCHITECTURES`; needs no weights."""
    return Clip(nn.Identity(), _tokenizer(CONTEXT)).truncated(texts)


@cache
def _tokenizer(length: int) -> Tokenizer:
    """The one that all share; it takes a second to make."""
    import open_clip

    found: Tokenizer = open_clip.SimpleTokenizer(context_length=length)
    return found


def clip_network(
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    file: str,
    config: Mapping[str, Any] | None = None,
) -> Clip:
    """A network of OpenAI's or LAION's from the tensors of its file, in float32.

    Args:
        name: A key of `ARCHITECTURES`.
        tensors: In open_clip's layout.
        file: For messages.
        config: Another architecture in open_clip's words, for tests.

    Raises:
        WeightsError: The file is of another network, or would be run with another activation.
    """
    import open_clip

    architecture = ARCHITECTURES[name]
    model = _unfilled(config or open_clip.get_model_config(architecture))
    _require_activation(model, architecture)
    load_strictly(model, tensors, file=file)
    return Clip(model, _tokenizer(model.context_length))


def _unfilled(config: Mapping[str, Any]) -> Any:
    """A model whose weights are yet to come: to draw those of ViT-L/14 would take seconds."""
    from open_clip.model import CLIP

    with torch.device("meta"):
        model = CLIP(**config)
    model.to_empty(device="cpu")
    # The one tensor that no file brings: a text token sees only those before it.
    length = model.context_length
    model.attn_mask = torch.full((length, length), -math.inf).triu(1)
    return model


def _require_activation(model: Any, architecture: str) -> None:
    from open_clip.transformer import QuickGELU

    is_quick = architecture.endswith(QUICK_GELU)

    def fits(module: nn.Module) -> bool:
        if is_quick:
            return isinstance(module, QuickGELU)
        return isinstance(module, nn.GELU) and module.approximate == "none"

    layers = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    if not all(any(map(fits, layer.modules())) for layer in layers):
        raise WeightsError(
            f"{architecture} was trained with {'QuickGELU' if is_quick else 'plain GELU'}, but "
            "would be run with another activation",
            fix="install another release of open-clip-torch",
        )
