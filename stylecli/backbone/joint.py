"""Where transformers with joint attention hand over what an exchange carries.

Words and picture are one sequence there, and each token looks at all of it. Handed over is what
belongs to the picture: queries and keys of its tokens, while those of words stay the row's own. So
a picture's token looks at the picture as the source's did, and asks the row's own words, with the
source's query; a word looks at the source's keys. There is no cross-attention to be told apart.

Queries and keys are taken before places are turned into them: a row's words may be fewer than the
source's, which in some models moves the picture's places, and each row turns in its own.

Layers are the blocks of the main stack, numbered from 0. A transformer has no decoder; its second
half stands for it, and the anchor is the first block of that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.exchange import Exchange, Eyes, Mix, Tap
from stylecli.backbone.layers import Layer

# Which part of the sequence the picture is.
Side = Literal["first", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Layer):
    """One block of the main stack.

    Attributes:
        path: Of its module.
        attend: Makes its processor.
        is_double: Picture and words come and go in tensors of their own.
    """

    path: str
    attend: Callable[[str, JointExchange, Any], Shared]
    is_double: bool = False


@dataclass(frozen=True, slots=True)
class Anatomy:
    """How one kind of transformer is built.

    Attributes:
        blocks: In the order they run.
        side: Where the picture's tokens are in a joint sequence.
        tokens: Of the picture, from the arguments of a call of the model; and its rows.
    """

    blocks: Sequence[Block]
    side: Side
    tokens: Callable[[tuple[Any, ...], dict[str, Any]], tuple[int, int]]


class JointExchange(Exchange):
    """Carries what blocks make of a picture's tokens between passes of a transformer."""

    def __init__(
        self,
        anatomy: Anatomy,
        *,
        features: Sequence[Block],
        attention: Sequence[Block],
        tap: Tap = "residual",
        mix: Mix = "probs",
    ) -> None:
        super().__init__(features=len(features), attention=len(attention), tap=tap, mix=mix)
        self._anatomy = anatomy
        self._features = tuple(features)
        self._layers = tuple(attention)
        self._tokens = 0

    @contextmanager
    def installed(self, model: Any) -> Iterator[None]:
        """Put processors and hooks into a transformer, and take them out again."""
        handles = [model.register_forward_pre_hook(self._count, with_kwargs=True)]
        stock: list[tuple[Any, Any]] = []
        try:
            for block in self._layers:
                for name in block.self_attention:
                    attn: Any = model.get_submodule(name.removesuffix(".processor"))
                    stock.append((attn, attn.processor))
                    attn.processor = block.attend(name, self, attn.processor)
            for block in self._features:
                tapped = model.get_submodule(block.path)
                hook = _Feature(block, self)
                handles.append(tapped.register_forward_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for attn, processor in stock:
                attn.processor = processor
            self._store.clear()

    def _count(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, self._tokens = self._anatomy.tokens(args, kwargs)
        self._begins(rows)

    def parted(self, sequence: Float[Tensor, "rows n *_rest"]) -> tuple[Tensor, Tensor]:
        """The words and the picture of a joint sequence."""
        words = sequence.shape[1] - self._tokens
        if self._anatomy.side == "first":
            picture, others = sequence.split([self._tokens, words], dim=1)
            return others, picture
        others, picture = sequence.split([words, self._tokens], dim=1)
        return others, picture

    def joined(self, words: Tensor, picture: Tensor) -> Float[Tensor, "rows n *_rest"]:
        """The joint sequence of words and picture."""
        both = (picture, words) if self._anatomy.side == "first" else (words, picture)
        return torch.cat(both, dim=1)


def middle(layers: Sequence[Layer]) -> int:
    """The number of the anchor: the first block of the second half."""
    return len(layers) // 2


class Shared(ABC):
    """A processor whose picture's tokens may look through the source's eyes."""

    def __init__(self, key: str, exchange: JointExchange, stock: Any) -> None:
        self.key = key
        self.exchange = exchange
        self._attention_backend = stock._attention_backend
        self._parallel_config = stock._parallel_config

    def mixed(
        self,
        words: Eyes,
        own: Callable[[], Eyes],
        value: Tensor,
        turned: Callable[[Tensor], Tensor],
        mask: Tensor | None = None,
    ) -> Float[Tensor, "rows n c"]:
        """What the tokens of a joint sequence find, before the projection.

        Args:
            words: Queries and keys of the words, ``[rows, m, heads, d]`` as all here.
            own: The picture's; not asked where it looks wholly through the source's.
            value: Of the whole sequence.
            turned: Turns the places of a sequence into queries or keys.
            mask: Of the whole sequence, where some rows are shorter than others.
        """

        def attend(eyes: Eyes, found: Tensor) -> Tensor:
            query, key = (
                turned(self.exchange.joined(*pair)) for pair in zip(words, eyes, strict=True)
            )
            return cast(
                Tensor,
                dispatch_attention_fn(
                    query,
                    key,
                    found,
                    attn_mask=mask,
                    backend=self._attention_backend,
                    parallel_config=self._parallel_config,
                ),
            )

        mixed = self.exchange.attended(self.key, len(value), own, lambda: value, attend)
        return mixed.flatten(2, 3).to(value.dtype)

    @abstractmethod
    def __call__(self, attn: Any, hidden_states: Tensor, **kwargs: Any) -> Any:
        """As the stock processor's."""


class _Feature:
    """What a block makes of the picture's tokens, kept or put in place.

    The residual is what it adds to them: then the row's own stream goes on underneath, as the
    shortcut of a resnet does, and what is injected is soft.
    """

    def __init__(self, block: Block, exchange: JointExchange) -> None:
        self._key = f"feature.{block.number}"
        self._is_double = block.is_double
        self._exchange = exchange

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        exchange = self._exchange
        if not exchange.taking_features and not exchange.giving_features:
            return None
        came = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if self._is_double:
            words, picture = output
        else:
            words, picture = exchange.parted(output)
            came = exchange.parted(came)[1]
        is_residual = exchange.tap == "residual"
        if exchange.taking_features:
            exchange.put(self._key, picture - came if is_residual else picture.clone())
            return None
        (source,) = exchange.get(self._key, len(picture))
        picture = came + source if is_residual else source
        return (words, picture) if self._is_double else exchange.joined(words, picture)
