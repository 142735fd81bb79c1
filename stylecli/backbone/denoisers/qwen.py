"""Qwen3 as Z-Image and FLUX.2-klein use it: a chat of one message, and its hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.backbone.loading import load_part
from stylecli.errors import WeightsError
from stylecli.recipe.strict import Quantize

# Of a prompt; what is longer is cut.
MOST_TOKENS = 512


class Qwen:
    """A frozen text encoder. One prompt at a time, so neighbours never change a last bit.

    Attributes:
        thinks: Whether its chat leaves the model room to think, which changes the prompt's end.
        is_padded: Prompts are filled up to 512 tokens, and fillers have states as well.
    """

    def __init__(self, model: Any, tokenizer: Any, *, thinks: bool, is_padded: bool) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.thinks = thinks
        self.is_padded = is_padded

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        thinks: bool,
        is_padded: bool,
        quantize: Quantize = "none",
    ) -> Qwen:
        """From ``text_encoder/`` and ``tokenizer/``.

        Raises:
            UsageError: This machine cannot quantise so.
            WeightsError: Missing, damaged or of another model.
        """
        from transformers import AutoTokenizer, Qwen3Model

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise WeightsError(
                f"{folder.name}: tokenizer cannot be read", fix="copy or pull the folder again"
            ) from error
        if tokenizer.chat_template is None:
            raise WeightsError(
                f"{folder.name}: tokenizer has no chat template",
                fix="pull the folder again: tokenizer_config.json or chat_template.jinja has it",
            )
        # Files of the whole language model hold a head, which nobody reads here.
        model = load_part(
            Qwen3Model,
            folder,
            "text_encoder",
            dtype,
            ignored=("lm_head.weight",),
            quantize=quantize,
            device=device,
        )
        model.requires_grad_(False).eval().to(device)
        return cls(model, tokenizer, thinks=thinks, is_padded=is_padded)

    def length(self, prompt: str) -> int:
        """Tokens of a prompt and of the chat around it, before anything is cut."""
        return len(self.tokenizer(self._chat(prompt)).input_ids)

    def _chat(self, prompt: str) -> str:
        said: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinks,
        )
        return said

    @torch.no_grad()
    def states(self, prompt: str, layers: Sequence[int]) -> list[Float[Tensor, "tokens width"]]:
        """Hidden states of some layers; 0 is what goes into the first, negative from the end."""
        tokens = self.tokenizer(
            self._chat(prompt),
            padding="max_length" if self.is_padded else False,
            max_length=MOST_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        found = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return [found[layer][0] for layer in layers]
