"""HiDream-O1-Image's network: one language model that reads the prompt and draws in pixels.

Neither diffusers nor transformers has it; the body is transformers' Qwen3-VL text model, and four
small layers make it a denoiser. A sequence is the prompt, one token for the time, and one for each
patch of 32 x 32 pixels. Words see the words before them; the time and the patches see everything.

Names of tensors are those of the released folder, found in public code that loads it: there are no
other names here, so a folder that has others is refused and never guessed at. No released file has
been seen by this project's tests. The vision tower and `lm_head` are not read: drawing from words
needs neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stylecli.errors import WeightsError

PATCH = 32
# Patches are first squeezed to so many numbers, whatever the width of the model.
SQUEEZED = 1024
FREQUENCIES = 256
# Of the image's first row and column in rotary positions, however long the prompt is.
ORIGIN = 4096


class Transformer(nn.Module):
    """`model.<part>`, as in the released files, so that a LoRA's paths are those of the weights."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build what the released folder's `config` says; its `text_config` has all sizes.

        Raises:
            WeightsError: The configuration is of another kind of model.
        """
        super().__init__()
        self.config = dict(config)
        self.model = Body(config)

    def enable_gradient_checkpointing(self) -> None:
        """Of the kind that keeps gradients of LoRAs. The library asks for training mode too."""
        for layer in self.model.language_model.layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        self.model.language_model.train()

    def disable_gradient_checkpointing(self) -> None:
        """As it was loaded."""
        for layer in self.model.language_model.layers:
            layer.gradient_checkpointing = False
        self.model.language_model.eval()

    def forward(
        self,
        noised: Float[Tensor, "b 3 height width"],
        progress: Float[Tensor, " b"],
        ids: Int[Tensor, "b words"],
        is_word: Bool[Tensor, "b words"] | None = None,
    ) -> Float[Tensor, "b 3 height width"]:
        """The picture as the model sees it behind the noise.

        Args:
            noised: In [-1, 1] where there is no noise.
            progress: 1 - sigma: 0 is all noise.
            ids: Prompts, of which the last token stands for the time.
            is_word: False for what fills up the left of shorter prompts; None is all words.
        """
        body, (_, _, height, width) = self.model, noised.shape
        rows, columns = height // PATCH, width // PATCH
        words = body.language_model.embed_tokens(ids[:, :-1])
        time = body.t_embedder1(progress)[:, None].to(words.dtype)
        patches = body.x_embedder(patched(noised).to(words.dtype))
        hidden = body.language_model(
            inputs_embeds=torch.cat([words, time, patches], dim=1),
            attention_mask=mask(ids.shape[1], rows * columns, is_word, device=ids.device),
            position_ids=positions(ids, rows, columns, is_word),
            use_cache=False,
        ).last_hidden_state
        drawn = body.final_layer2(hidden[:, ids.shape[1] :])
        return unpatched(drawn.float(), rows, columns)


class Body(nn.Module):
    """The language model, what turns patches and the time into tokens, and tokens into patches."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import Qwen3VLTextConfig, Qwen3VLTextModel

        super().__init__()
        text = config.get("text_config")
        if config.get("model_type") != "qwen3_vl" or not isinstance(text, Mapping):
            raise WeightsError(
                f"this is a model of type {config.get('model_type')!r}, not HiDream-O1's qwen3_vl",
                fix="give the folder of HiDream-ai/HiDream-O1-Image",
            )
        settings = Qwen3VLTextConfig(**{k: v for k, v in text.items() if k != "model_type"})
        # The one kernel that takes a mask of truths.
        settings._attn_implementation = "sdpa"
        # So that training mode changes no answer.
        settings.attention_dropout = 0.0
        width = settings.hidden_size
        self.language_model: Any = Qwen3VLTextModel(settings)
        self.x_embedder = PatchEmbedder(width)
        self.t_embedder1 = TimeEmbedder(width)
        self.final_layer2 = Last(width)


class PatchEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj1 = nn.Linear(3 * PATCH * PATCH, SQUEEZED, bias=False)
        self.proj2 = nn.Linear(SQUEEZED, width)

    def forward(self, patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n d"]:
        return cast(Tensor, self.proj2(self.proj1(patches)))


class TimeEmbedder(nn.Module):
    """Cosines, then sines, of a thousandth's count; two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, progress: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        half = FREQUENCIES // 2
        steps = torch.arange(half, dtype=torch.float32, device=progress.device) / half
        angles = 1000 * progress.float()[:, None] * torch.exp(-math.log(10_000) * steps)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        first = cast(nn.Linear, self.mlp[0])
        return cast(Tensor, self.mlp(waves.to(first.weight.dtype)))


class Last(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3 * PATCH * PATCH)

    def forward(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b n p"]:
        return cast(Tensor, self.linear(hidden))


def patched(pixels: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b n p"]:
    """One row a patch, from left to right and down; in it channels, then lines."""
    parts: Tensor = pixels.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatched(
    patches: Float[Tensor, "b n p"], rows: int, columns: int
) -> Float[Tensor, "b 3 height width"]:
    """What `patched` took apart."""
    parts: Tensor = patches.unflatten(2, (3, PATCH, PATCH)).unflatten(1, (rows, columns))
    return parts.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def mask(
    words: int,
    patches: int,
    is_word: Bool[Tensor, "b words"] | None = None,
    *,
    device: torch.device | None = None,
) -> Bool[Tensor, "_ 1 n n"]:
    """Who sees whom: the time and the patches everything, words the words up to themselves.

    Args:
        words: Tokens before the patches, that of the time included.
        patches: Tokens of the picture.
        is_word: False for what fills up, which nobody else sees.
        device: Of the mask.
    """
    place = torch.arange(words + patches, device=device)
    draws = place >= words - 1
    seen = (draws[:, None] | (place <= place[:, None]))[None]
    if is_word is not None:
        is_there = torch.cat([is_word, is_word.new_ones(len(is_word), patches)], dim=1)
        # Even those see themselves: an empty row of a softmax is no number.
        seen = (seen & is_there[:, None]) | (place == place[:, None])
    return seen[:, None]


def positions(
    ids: Int[Tensor, "b words"],
    rows: int,
    columns: int,
    is_word: Bool[Tensor, "b words"] | None = None,
) -> Int[Tensor, "3 b n"]:
    """Of rotary embeddings: words are counted on all three axes, patches by row and column."""
    there = torch.ones_like(ids) if is_word is None else is_word.long()
    count = (there.cumsum(1) - 1).clamp(min=0)
    grid = torch.cartesian_prod(torch.arange(1), torch.arange(rows), torch.arange(columns))
    patches = (ORIGIN + grid.T).to(ids.device)
    return torch.cat([count.expand(3, -1, -1), patches[:, None].expand(-1, len(ids), -1)], dim=2)
