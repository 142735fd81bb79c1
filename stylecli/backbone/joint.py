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
from diffusers.models.embeddings import apply_rotary_emb
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.backbone.exchange import Exchange, Eyes, Mix, Tap
from stylecli.backbone.layers import Layer, select
from stylecli.errors import RecipeError
from stylecli.recipe.schema import Injection

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

    @classmethod
    def of(cls, model: Any, injection: Injection) -> JointExchange:
        """What a recipe asks to be handed over where.

        Raises:
            RecipeError: A layer that this model does not have, or cross-attention.
        """
        if injection.attn_cross != "none":
            raise RecipeError(
                "injection.attn_cross: words and picture share their attention in this model",
                fix="--set injection.attn_cross=none",
            )
        anatomy = anatomy_of(model)

        def chosen(key: Literal["feature_layers", "attn_layers"]) -> list[Block]:
            which = getattr(injection, key)
            return select(anatomy.blocks, which, middle, key=key, with_attention=False)

        return cls(
            anatomy,
            features=chosen("feature_layers"),
            attention=chosen("attn_layers"),
            tap=injection.feature_tap,
            mix=injection.attn_mix,
        )

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


class _ZImage(Shared):
    """Of Z-Image: one stream, picture first, rows of fewer words filled up and masked."""

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows n c"],
        encoder_hidden_states: None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Float[Tensor, "rows n c"]:
        size = (attn.heads, -1)

        def eyes(states: Tensor) -> Eyes:
            query, key = (project(states).unflatten(-1, size) for project in (attn.to_q, attn.to_k))
            return Eyes(
                attn.norm_q(query) if attn.norm_q is not None else query,
                attn.norm_k(key) if attn.norm_k is not None else key,
            )

        def turned(sequence: Tensor) -> Tensor:
            if freqs_cis is None:
                return sequence
            pairs = torch.view_as_complex(sequence.float().unflatten(-1, (-1, 2)))
            turned_pairs = torch.view_as_real(pairs * freqs_cis.unsqueeze(2))
            return turned_pairs.flatten(3).type_as(sequence)

        words, picture = self.exchange.parted(hidden_states)
        value = attn.to_v(hidden_states).unflatten(-1, size)
        mask = attention_mask
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None, :]
        mixed = self.mixed(eyes(words), lambda: eyes(picture), value, turned, mask)
        for project in attn.to_out:
            mixed = project(mixed)
        return mixed


class _Double(Shared):
    """Of FLUX's double blocks: words have projections of their own."""

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows n c"],
        encoder_hidden_states: Float[Tensor, "rows m c"],
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[Float[Tensor, "rows n c"], Float[Tensor, "rows m c"]]:
        size = (-1, attn.head_dim)
        words = Eyes(
            attn.norm_added_q(attn.add_q_proj(encoder_hidden_states).unflatten(-1, size)),
            attn.norm_added_k(attn.add_k_proj(encoder_hidden_states).unflatten(-1, size)),
        )

        def own() -> Eyes:
            return Eyes(
                attn.norm_q(attn.to_q(hidden_states).unflatten(-1, size)),
                attn.norm_k(attn.to_k(hidden_states).unflatten(-1, size)),
            )

        value = self.exchange.joined(
            attn.add_v_proj(encoder_hidden_states).unflatten(-1, size),
            attn.to_v(hidden_states).unflatten(-1, size),
        )
        mixed = self.mixed(words, own, value, _turner(image_rotary_emb), attention_mask)
        said, seen = self.exchange.parted(mixed)
        project, dropout = attn.to_out
        return dropout(project(seen.contiguous())), attn.to_add_out(said.contiguous())


class _Parallel(Shared):
    """Of FLUX.2's single blocks: attention and feed-forward from one projection, into another."""

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows n c"],
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Float[Tensor, "rows n c"]:
        width = attn.inner_dim
        both = attn.to_qkv_mlp_proj(hidden_states)
        *parts, fed = both.split([width] * 3 + [both.shape[-1] - 3 * width], dim=-1)
        query, key, value = (part.unflatten(-1, (-1, attn.head_dim)) for part in parts)
        # One projection makes them all, so there is nothing to be spared.
        asking, pictured = self.exchange.parted(attn.norm_q(query))
        asked, seen = self.exchange.parted(attn.norm_k(key))
        mixed = self.mixed(
            Eyes(asking, asked),
            lambda: Eyes(pictured, seen),
            value,
            _turner(image_rotary_emb),
            attention_mask,
        )
        return cast(Tensor, attn.to_out(torch.cat([mixed, attn.mlp_act_fn(fed)], dim=-1)))


def _turner(rotary: Any) -> Callable[[Tensor], Tensor]:
    if rotary is None:
        return lambda sequence: sequence
    return lambda sequence: cast(Tensor, apply_rotary_emb(sequence, rotary, sequence_dim=1))


def anatomy_of(model: Any) -> Anatomy:
    """How a transformer is built, by its class.

    Raises:
        RecipeError: Nobody here knows it.
    """
    name = type(model).__name__
    if name == "ZImageTransformer2DModel":
        return _z_image(model)
    if name == "Flux2Transformer2DModel":
        return _flux2(model)
    raise RecipeError(
        f"{name} is a transformer whose attention injection does not know",
        fix="use --backbone z-image or flux2-klein, or a UNet",
    )


def _z_image(model: Any) -> Anatomy:
    from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF

    def tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
        rows = args[0] if args else kwargs["x"]
        patch = kwargs.get("patch_size", 2)
        height, width = rows[0].shape[-2:]
        count = (height // patch) * (width // patch)
        return len(rows), count + -count % SEQ_MULTI_OF

    blocks = [
        Block(
            number=i,
            self_attention=(f"layers.{i}.attention.processor",),
            path=f"layers.{i}",
            attend=_ZImage,
        )
        for i in range(len(model.layers))
    ]
    return Anatomy(blocks, "first", tokens)


def _flux2(model: Any) -> Anatomy:
    def tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
        states = args[0] if args else kwargs["hidden_states"]
        return len(states), states.shape[1]

    stacks = (
        ("transformer_blocks", _Double, len(model.transformer_blocks)),
        ("single_transformer_blocks", _Parallel, len(model.single_transformer_blocks)),
    )
    paths = [(f"{stack}.{i}", made) for stack, made, count in stacks for i in range(count)]
    blocks = [
        Block(
            number=number,
            self_attention=(f"{path}.attn.processor",),
            path=path,
            attend=made,
            is_double=made is _Double,
        )
        for number, (path, made) in enumerate(paths)
    ]
    return Anatomy(blocks, "last", tokens)
