"""T5 and CLIP as FLUX uses them: T5's states are what attention reads, CLIP gives one vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone.editors.base import Text
from stylecli.backbone.loading import load_part
from stylecli.errors import UsageError, WeightsError

NAMED = 40


class Encoders:
    """Frozen. One prompt at a time, so neighbours never change a last bit.

    As in the stock pipeline neither gets a mask: fillers are read like words.
    """

    def __init__(self, words: Any, words_tokenizer: Any, whole: Any, whole_tokenizer: Any) -> None:
        self._words, self._words_tokenizer = words, words_tokenizer
        self._whole, self._whole_tokenizer = whole, whole_tokenizer

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device, dtype: torch.dtype, variant: str | None
    ) -> Encoders:
        """From ``text_encoder_2/``, T5, and ``text_encoder/``, CLIP, and their tokenizers.

        Raises:
            WeightsError: Missing, damaged or of another model.
        """
        from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel

        words = load_part(T5EncoderModel, folder, "text_encoder_2", dtype, variant)
        whole = load_part(CLIPTextModel, folder, "text_encoder", dtype, variant)
        for part in (words, whole):
            part.requires_grad_(False).eval().to(device)
        tokenizer = _read(CLIPTokenizer, folder, "tokenizer")
        return cls(words, t5_tokenizer(folder), whole, tokenizer)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], length: int) -> Text:
        """Padded to a length in tokens.

        CLIP reads 77 tokens of a longer prompt, as in the stock pipeline: its one vector is the
        drift of the whole, and T5 has every word.

        Raises:
            UsageError: A prompt is longer, and would lose words.
        """
        embeds, pooled = [], []
        for prompt in prompts:
            ids = self._padded(prompt, length)
            embeds.append(self._words(ids.to(self._words.device)).last_hidden_state)
            cut = self._whole_tokenizer(
                prompt,
                padding="max_length",
                max_length=min(
                    self._whole_tokenizer.model_max_length,
                    self._whole.config.max_position_embeddings,
                ),
                truncation=True,
                return_tensors="pt",
            )
            pooled.append(self._whole(cut.input_ids.to(self._whole.device)).pooler_output)
        return Text(torch.cat(embeds), torch.cat(pooled))

    def _padded(self, prompt: str, length: int) -> Tensor:
        tokens: Tensor = self._words_tokenizer(
            prompt, padding="max_length", max_length=length, return_tensors="pt", verbose=False
        ).input_ids
        if (long := tokens.shape[1]) > length:
            raise UsageError(
                f"the instruction has {long} tokens, and {length} are read: {prompt[:NAMED]}...",
                fix="say it in fewer words, or raise route.text_length (512 at most)",
            )
        return tokens


def t5_tokenizer(folder: Path) -> Any:
    """The tokenizer whose tokens attention sees; it tells where they are in the text.

    Raises:
        WeightsError: Missing or damaged.
    """
    from transformers import T5TokenizerFast

    return _read(T5TokenizerFast, folder, "tokenizer_2")


def _read(cls: Any, folder: Path, part: str) -> Any:
    try:
        return cls.from_pretrained(folder / part, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{folder.name}: {part} cannot be read", fix="copy or pull the folder again"
        ) from error
