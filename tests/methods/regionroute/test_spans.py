from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

import stylecli
from stylecli.errors import UsageError
from stylecli.methods.regionroute.spans import locate
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, instruct

POCKET = Path(stylecli.__file__).parent / "assets" / "pocket" / "tokenizer"
LENGTH = 32
PIECES = "▁pixel ▁make ▁the ▁cat ▁in ▁style - art ▁art , ▁ ▁cyber punk ▁line ▁dog ▁dogs ▁and"


def t5(*, splits_first: bool) -> PreTrainedTokenizerFast:
    """T5's layout: pieces with their space in front, or with words split off before."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789é'"
    pieces = [*PIECES.split(" "), *letters, *(f"▁{letter}" for letter in letters)]
    scores = [(piece, -8.0 + len(piece)) for piece in dict.fromkeys(pieces)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *scores]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    meta = pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta]) if splits_first else meta
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = {
    "clip": CLIPTokenizer.from_pretrained(POCKET, model_max_length=LENGTH),
    "t5": t5(splits_first=False),
    "t5 of today": t5(splits_first=True),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]


def span_of(prompt: str, words: str, occurrence: int = 0) -> tuple[int, int]:
    start = -1
    for _ in range(occurrence + 1):
        start = prompt.index(words, start + 1)
    return start, start + len(words)


def said_by(tokenizer: PreTrainedTokenizerFast, prompt: str, places: tuple[int, ...]) -> str:
    ids = tokenizer(prompt, padding="max_length", max_length=LENGTH).input_ids
    pieces = tokenizer.convert_ids_to_tokens([ids[place] for place in places])
    return "".join(pieces).replace("▁", "").replace("</w>", "")


@pytest.mark.mostly_slow
@pytest.mark.parametrize(
    ("prompt", "words", "occurrence"),
    [
        ("make the cat in pixel-art style", "pixel-art", 0),
        ("make  the   cat in  pixel-art  style", "pixel-art", 0),
        ("make the cat pixel art", "pixel art", 0),
        ("pixel-art style", "pixel-art", 0),
        ("the cat and the dogs in line-art", "line-art", 0),
        ("line-art and line-art", "line-art", 0),
        ("line-art and line-art", "line-art", 1),
        ("cat", "cat", 0),
    ],
)
def test_the_tokens_found_spell_the_phrase(
    tokenizer: PreTrainedTokenizerFast, prompt: str, words: str, occurrence: int
) -> None:
    found = locate(tokenizer, prompt, span_of(prompt, words, occurrence), LENGTH)
    assert said_by(tokenizer, prompt, found) == words.replace(" ", "")
    assert found == tuple(range(found[0], found[-1] + 1))


def test_occurrences_of_a_phrase_have_tokens_of_their_own(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = "line-art and line-art"
    first, second = (locate(tokenizer, prompt, span_of(prompt, "line-art", k), 32) for k in (0, 1))
    assert max(first) < min(second)


@pytest.mark.mostly_slow
def test_every_template_gives_tokens_that_no_other_word_shares(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for template in TEMPLATES:
        for style in PAPER:
            made = instruct("two dogs", style, template)
            phrase = locate(tokenizer, made.prompt, made.style_span, 77)
            thing = locate(tokenizer, made.prompt, made.object_span, 77)
            assert phrase
            assert not set(phrase) & set(thing)


def test_the_space_before_a_word_is_in_its_token_in_one_layout_only() -> None:
    prompt = "make the cat pixel-art"
    old, new = (
        TOKENIZERS[name](prompt, return_offsets_mapping=True).offset_mapping
        for name in ("t5", "t5 of today")
    )
    assert (12, 18) in old
    assert (13, 18) in new
    # So a span of the word before it must not reach into it.
    span = span_of(prompt, "cat")
    assert locate(TOKENIZERS["t5"], prompt, span, 32) == locate(
        TOKENIZERS["t5 of today"], prompt, span, 32
    )


def test_a_span_with_a_space_at_its_end_takes_no_token_more(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = "make the cat pixel-art"
    start, stop = span_of(prompt, "cat")
    assert locate(tokenizer, prompt, (start, stop + 1), 32) == locate(
        tokenizer, prompt, (start, stop), 32
    )


def test_upper_case_and_composed_letters_are_found(tokenizer: PreTrainedTokenizerFast) -> None:
    for words in ("PIXEL-Art", "é", "e\u0301"):
        prompt = f"make the cat in {words} style"
        found = locate(tokenizer, prompt, span_of(prompt, words), 32)
        after = locate(tokenizer, prompt, span_of(prompt, "style"), 32)
        before = locate(tokenizer, prompt, span_of(prompt, "in"), 32)
        assert found == tuple(range(before[-1] + 1, after[0]))


def test_a_part_of_a_word_is_the_tokens_that_it_touches(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = "make the cyberpunk cat"
    whole = locate(tokenizer, prompt, span_of(prompt, "cyberpunk"), 32)
    assert set(locate(tokenizer, prompt, span_of(prompt, "punk"), 32)) <= set(whole)


def test_padding_and_special_tokens_are_never_found(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = "cat"
    found = locate(tokenizer, prompt, (0, 3), LENGTH)
    ids = tokenizer(prompt, padding="max_length", max_length=LENGTH).input_ids
    assert not {ids[place] for place in found} & set(tokenizer.all_special_ids)


def test_a_prompt_that_does_not_fit_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = "make the cat and the dog and the cat and the dog in pixel-art style"
    for words in ("pixel-art", "cat"):
        with pytest.raises(UsageError, match="the model reads 8"):
            locate(tokenizer, prompt, span_of(prompt, words), 8)


def test_a_prompt_that_just_fits_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = "make the cat in pixel-art"
    length = len(tokenizer(prompt).input_ids)
    found = locate(tokenizer, prompt, span_of(prompt, "pixel-art"), length)
    assert found[-1] == length - 2
    with pytest.raises(UsageError):
        locate(tokenizer, prompt, span_of(prompt, "pixel-art"), length - 1)


def test_a_letter_that_the_tokenizer_drops_is_an_error() -> None:
    tokenizer = t5(splits_first=True)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("-", "")
    with pytest.raises(UsageError, match="'-' of 'pixel-art' is in no token") as caught:
        locate(tokenizer, "the pixel-art cat", (4, 13), 32)
    assert "▁pixel" in caught.value.what


@pytest.mark.parametrize("span", [(-1, 3), (3, 3), (0, 99), (3, 4)])
def test_a_span_outside_the_prompt_or_of_blanks_is_a_fault(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no part"):
        locate(TOKENIZERS["clip"], "the cat", span, 32)


def test_a_tokenizer_without_places_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UsageError, match="does not tell"):
        locate(Slow(), "the cat", (0, 3), 32)
