"""How the transformers are built whose joint attention carries what an exchange hands over.

Each processor does what the library's does, and asks the exchange whose eyes to look with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.exchange import Eyes
from stylecli.backbone.joint import Anatomy, Block, JointExchange, Shared, middle
from stylecli.backbone.layers import select
from stylecli.errors import RecipeError
from stylecli.recipe.schema import Injection


def exchange(model: Any, injection: Injection) -> JointExchange:
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

    return JointExchange(
        anatomy,
        features=chosen("feature_layers"),
        attention=chosen("attn_layers"),
        tap=injection.feature_tap,
        mix=injection.attn_mix,
    )


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
