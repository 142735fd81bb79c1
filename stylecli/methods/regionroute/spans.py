"""Which tokens of an instruction are the words of a phrase.

By characters, never by comparing token texts: "pixel-art" is several pieces, tokenizers differ in
whether a piece owns the space before it, and a word of two bytes a letter may be cut anywhere.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from stylecli.errors import UsageError

NAMED = 40


def locate(tokenizer: Any, prompt: str, span: tuple[int, int], max_length: int) -> tuple[int, ...]:
    """Places, in the padded tokens of a prompt, of all tokens that touch a span.

    Args:
        tokenizer: A fast one, of the encoder whose tokens attention sees.
        prompt: As the encoder gets it.
        span: First character and one past the last.
        max_length: Tokens of every prompt, padding included.

    Raises:
        UsageError: The prompt is longer than `max_length`, the tokenizer tells no places, or some
            letter of the span is in no token.
        ValueError: The span holds no letter of this prompt.
    """
    first, last = span
    if not (0 <= first < last <= len(prompt)) or not prompt[first:last].strip():
        raise ValueError(f"{span} is no part of a prompt of {len(prompt)} characters")
    if not tokenizer.is_fast:
        raise UsageError(
            "this model's tokenizer does not tell where its tokens are in the text",
            fix="use a folder of the model that has tokenizer.json",
        )
    if (length := len(tokenizer(prompt, verbose=False).input_ids)) > max_length:
        raise UsageError(
            f"the instruction has {length} tokens, and the model reads {max_length}: "
            f"{prompt[:NAMED]}...",
            fix="say it in fewer words",
        )
    encoded = tokenizer(
        prompt,
        padding="max_length",
        max_length=max_length,
        truncation=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    letters = {place for place in range(first, last) if _is_letter(prompt[place])}
    found, covered = [], set()
    for index, ((start, stop), is_special) in enumerate(
        zip(encoded.offset_mapping, encoded.special_tokens_mask, strict=True)
    ):
        touched = letters.intersection(range(start, stop))
        if touched and not is_special:
            found.append(index)
            covered |= touched
    if missing := sorted(letters - covered):
        pieces = tokenizer.convert_ids_to_tokens(encoded.input_ids[: found[-1] + 2 if found else 9])
        raise UsageError(
            f"{prompt[missing[0]]!r} of {prompt[first:last]!r} is in no token of this model: "
            + " ".join(pieces),
            fix="write the phrase in plain letters",
        )
    return tuple(found)


def _is_letter(character: str) -> bool:
    """Not blank, and no accent or invisible sign that tokenizers fold into the letter before."""
    folded = unicodedata.category(character) in {"Mn", "Me", "Cf"}
    return not (character.isspace() or folded)
