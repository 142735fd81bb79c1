"""Stable Diffusion XL: two text encoders, and a UNet that is told the size of the picture too.

What a UNet of this kind is told of words comes in two pieces, a state for every token and one for
the whole prompt. Painting hands a prompt around as one tensor, so the second piece travels as a row
behind the tokens, filled up with zeros; `SdxlBackbone.call` takes it off again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from stylecli.backbone.model import Backbone, tokenized

# What the words of the whole prompt leave room for beside six sizes, each as many numbers.
SIZES = 6


@dataclass(eq=False)
class SdxlBackbone(Backbone):
    """`Backbone` with the second text encoder, whose prompts are a row longer than its tokens.

    The UNet is told that the picture has the size of the latents and was cut nowhere, as SDXL's
    paper does for sampling; in training, too, where pictures are cut before they are seen.

    Attributes:
        is_silence_zero: An empty prompt is zeros, as the model learned it, and not what the text
            encoders make of no words.
    """

    text_encoder_2: Any = field(kw_only=True)
    tokenizer_2: Any = field(kw_only=True)
    is_silence_zero: bool = field(kw_only=True)

    @property
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        return {**super().parts, "second text encoder": [self.text_encoder_2]}

    @property
    def words_shape(self) -> tuple[int, int]:
        tokens, width = super().words_shape
        return tokens + 1, width

    @torch.inference_mode()
    def encode_prompt(self, prompts: list[str]) -> Float[Tensor, "b tokens width"]:
        """Prompt embeddings, and behind them what stands for each whole prompt."""
        states, pooled = [], torch.empty(0)
        for encoder, tokenizer in (
            (self.text_encoder, self.tokenizer),
            (self.text_encoder_2, self.tokenizer_2),
        ):
            tokens = tokenized(tokenizer, prompts).input_ids.to(self.device)
            found = encoder(tokens, output_hidden_states=True)
            pooled = found[0]  # of the second, the projection of the last token
            states.append(found.hidden_states[-2])
        embeds = torch.cat(states, dim=-1)
        row = F.pad(pooled, (0, embeds.shape[-1] - pooled.shape[-1]))
        both = torch.cat([embeds, row[:, None]], dim=1)
        if self.is_silence_zero:
            both[[i for i, prompt in enumerate(prompts) if not prompt]] = 0
        return both.to(self.dtype)

    def call(
        self,
        latents: Float[Tensor, "b _seen h w"],
        timesteps: int | Int[Tensor, " b"],
        prompt_embeds: Float[Tensor, "b tokens width"],
    ) -> Float[Tensor, "b c h w"]:
        sides = [side * self.latent_px for side in latents.shape[-2:]]
        told = torch.tensor([*sides, 0, 0, *sides], dtype=latents.dtype, device=latents.device)
        pooled = prompt_embeds[:, -1, : self._pooled_width]
        output = self.unet(
            latents,
            timesteps,
            encoder_hidden_states=prompt_embeds[:, :-1],
            added_cond_kwargs={"text_embeds": pooled, "time_ids": told.expand(len(latents), -1)},
            return_dict=False,
        )[0]
        return cast(Tensor, output)

    @property
    def _pooled_width(self) -> int:
        said = self.unet.config
        total, each = said.projection_class_embeddings_input_dim, said.addition_time_embed_dim
        return int(total - SIZES * each)
