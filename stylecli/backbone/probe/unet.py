"""Attention of a UNet's picture to the words of its instruction, cell by cell (RegionRoute eq. 1).

Keys are the tokens of the text alone, so all their probabilities are small enough to be formed, and
are let go of at once: of each layer a map for each phrase is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.backbone.attention import projected, refuse_unsupported, split_heads
from stylecli.backbone.probe.base import Kept, Phrases
from stylecli.errors import RecipeError, did_you_mean

CROSS = ".attn2"
# Where layouts are settled, the encoder half only looking at what is there: the middle, and of the
# decoder what is not finer than this at the model's own size (16 and 32 of Stable Diffusion's).
MIDDLE, DECODER = "mid_block", "up_blocks"
FINEST = 32


class UnetProbe:
    """`base.Probe` of a UNet's cross-attention layers.

    A pass may have more rows than were asked about (those of guidance): the first ones count. Rows
    may also come in several passes, if `first` is set to the place of each one's first row.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self.enabled = True
        self.first = 0
        self.layers = tuple(layers)
        self._processors = {name: _Recording(self) for name in self.layers}
        self._grid: tuple[int, int] | None = None
        self._indicator: Tensor | None = None
        self._phrases: Phrases = ()
        self._latent: tuple[int, int] = (0, 0)

    def watch(self, phrases: Phrases, grid: tuple[int, int]) -> None:
        """As `base.Probe` says."""
        self.clear()
        self._phrases, self._grid, self._indicator = phrases, grid, None

    def maps(self) -> Float[Tensor, "b n e"]:
        """As `base.Probe` says."""
        return torch.stack(self.per_layer()).mean(0)

    def per_layer(self) -> list[Float[Tensor, "b n e"]]:
        """As `base.Probe` says; coarser layers are interpolated, finer ones averaged."""
        return [self._on_grid(self._processors[name]) for name in self.layers]

    def clear(self) -> None:
        """As `base.Probe` says."""
        for processor in self._processors.values():
            processor.pieces = {}

    def kept(self) -> Kept:
        """As `base.Probe` says."""
        return Kept(list(self._processors.values()), "pieces")

    @contextmanager
    def installed(self, unet: Any) -> Iterator[None]:
        """Let the layers record inside the block.

        Raises:
            RecipeError: A layer uses something that is not supported; nothing was changed.
        """
        before = unet.attn_processors
        for name in self.layers:
            refuse_unsupported(name, unet.get_submodule(name))
        mine = {f"{name}.processor": one for name, one in self._processors.items()}
        counting = unet.register_forward_pre_hook(self._note_size)
        try:
            # set_attn_processor() empties the dict it is given, so give it a fresh one.
            unet.set_attn_processor({**before, **mine})
            yield
        finally:
            counting.remove()
            unet.set_attn_processor(dict(before))
            self.clear()

    def _note_size(self, _unet: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._latent = (inputs[0].shape[-2], inputs[0].shape[-1])

    def record(self, processor: _Recording, query: Tensor, key: Tensor, scale: float) -> None:
        """Keep what a layer's heads make of the phrases, on the mean.

        Args:
            processor: Of the layer.
            query: (rows, heads, cells, d).
            key: (rows, heads, tokens, d).
            scale: Of their products.
        """
        if not self.enabled or self._grid is None:
            return
        asked = self._asked(key)[self.first : self.first + len(query)]
        if not len(asked):
            return
        rows = len(asked)
        with torch.autocast(query.device.type, enabled=False):
            scores = query[:rows].float() @ key[:rows].float().transpose(-1, -2) * scale
            found = torch.einsum("bhnt,bte->bne", scores.softmax(-1), asked)
        earlier = processor.pieces if self.first else {}
        processor.pieces = {**earlier, self.first: found / query.shape[1]}
        processor.cells = _cells(found.shape[1], self._latent)

    def _asked(self, key: Tensor) -> Float[Tensor, "b tokens e"]:
        """Each phrase as a mean over its tokens."""
        if self._indicator is None:
            tokens = key.shape[-2]
            most = max((len(row) for row in self._phrases), default=0)
            made = torch.zeros(len(self._phrases), tokens, most)
            for at, row in enumerate(self._phrases):
                for place, phrase in enumerate(map(set, row)):
                    made[at, list(phrase), place] = 1 / max(1, len(phrase))
            # Of use in training too, whichever pass it was made in.
            with torch.inference_mode(mode=False):
                self._indicator = made.clone().to(key.device)
        return self._indicator

    def _on_grid(self, processor: _Recording) -> Float[Tensor, "b n e"]:
        if self._grid is None or not processor.pieces:
            raise RuntimeError("no pass was recorded since watch()")
        found = torch.cat([piece for _, piece in sorted(processor.pieces.items())])
        if len(found) != len(self._phrases):
            raise RuntimeError(
                f"{len(found)} rows passed, and {len(self._phrases)} were asked about"
            )
        if processor.cells == self._grid:
            return found
        maps = found.transpose(1, 2).unflatten(-1, processor.cells)
        if processor.cells[0] > self._grid[0]:
            maps = F.adaptive_avg_pool2d(maps, self._grid)
        else:
            maps = F.interpolate(maps, self._grid, mode="bilinear", align_corners=False)
        return maps.flatten(2).transpose(1, 2)


class _Recording:
    """An attention processor that also tells a probe what its layer looks at."""

    def __init__(self, probe: UnetProbe) -> None:
        self._probe = probe
        # First row of a pass -> maps, never changed in place; rows and columns of them.
        self.pieces: dict[int, Tensor] = {}
        self.cells: tuple[int, int] = (0, 0)

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows n c"],
        encoder_hidden_states: Float[Tensor, "rows m e"],
        attention_mask: None = None,
        temb: None = None,
    ) -> Float[Tensor, "rows n c"]:
        query = split_heads(attn, attn.to_q(hidden_states))
        key = split_heads(attn, attn.to_k(encoder_hidden_states))
        value = split_heads(attn, attn.to_v(encoder_hidden_states))
        self._probe.record(self, query, key, attn.scale)
        return projected(attn, F.scaled_dot_product_attention(query, key, value))


def cross_attention(unet: nn.Module) -> tuple[str, ...]:
    """All layers that look at the text, from the entry to the end of the model."""
    names = [name for name, _ in unet.named_modules() if name.endswith(CROSS)]
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    return tuple(sorted(names, key=lambda name: order[name.partition(".")[0]]))


def chosen(unet: nn.Module, layers: str) -> tuple[str, ...]:
    """Names of layers by what a recipe says: auto, all, every:K, or names or blocks.

    Raises:
        RecipeError: There are none such.
    """
    every = cross_attention(unet)
    if layers == "all":
        return every
    if layers == "auto":
        return _usual(unet, every)
    if layers in ("double", "single"):
        raise RecipeError(
            f"layers {layers}: a UNet has no blocks of two kinds",
            fix="auto, all, every:K, or names with commas between",
        )
    if step := re.fullmatch(r"every:([1-9]\d*)", layers):
        return every[:: int(step[1])]
    wanted = layers.split(",")
    found = []
    for part in wanted:
        fitting = [name for name in every if name == part or name.startswith(f"{part}.")]
        if not fitting:
            hint = did_you_mean(part, every)
            raise RecipeError(
                f"layers: this model has no attention layer called {part!r}",
                fix=f"{hint}it has {every[0]} to {every[-1]}; a block's name means all in it",
            )
        found += fitting
    return tuple(name for name in every if name in found)


def finest(unet: Any, latents: Float[Tensor, "b c lh lw"]) -> tuple[int, int]:
    """Rows and columns of the finest layer that records unless told otherwise."""
    coarsest = len(unet.config.block_out_channels) - 1
    usual = (name for name in chosen(unet, "auto") if name.startswith(DECODER))
    halvings = min((_halvings(unet, name) for name in usual), default=coarsest)
    return latents.shape[-2] >> halvings, latents.shape[-1] >> halvings


def _usual(unet: Any, every: Sequence[str]) -> tuple[str, ...]:
    size = unet.config.sample_size
    side = min(size) if isinstance(size, list | tuple) else size or FINEST
    return tuple(
        name
        for name in every
        if name.startswith(MIDDLE)
        or (name.startswith(DECODER) and side >> _halvings(unet, name) <= FINEST)
    )


def _halvings(unet: Any, name: str) -> int:
    """How much coarser than the latents a decoder's layer is; blocks count from the coarsest."""
    return len(unet.config.block_out_channels) - 1 - int(name.split(".")[1])


def _cells(count: int, latent: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a layer, by how often the latents were halved."""
    height, width = latent
    while height * width > count:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width
