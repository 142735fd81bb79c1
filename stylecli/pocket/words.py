"""Pocket's tokenizer: byte-level BPE in CLIP's manner, learnt from the captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from stylecli.pocket import data
from stylecli.tensors import grounds

VOCABULARY = 4000
MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_PIECES = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""

# Words people try that no icon is named after.
COMMON = (
    "a an the of in on at with and or for to from by near under over between behind beside "
    "painting drawing sketch watercolour watercolor oil ink pencil charcoal pastel acrylic poster "
    "illustration picture image photo photograph portrait landscape scene style artwork art "
    "abstract realistic impressionist cubist minimal vintage retro modern colourful colorful "
    "monochrome dark light bright pale warm cold soft sharp blurry detailed simple flat shiny "
    "glossy matte rough smooth old young big small tall short long wide narrow round square "
    "red orange yellow green cyan blue purple violet pink brown black white grey gray gold silver "
    "man woman child boy girl people person face hand eye hair cat dog horse cow sheep pig goat "
    "bird fish lion tiger bear wolf fox rabbit mouse elephant giraffe monkey snake frog turtle "
    "house home castle tower bridge church city street road village garden park forest mountain "
    "river lake sea ocean beach island desert sky cloud rain snow sun moon star night day morning "
    "evening winter spring summer autumn tree flower leaf grass rose tulip apple pear banana "
    "cherry lemon grape bread cheese cake coffee tea cup bottle glass bowl plate knife spoon fork "
    "car bus train bicycle boat ship plane rocket robot computer phone camera clock lamp chair "
    "table bed window door book pen paper box bag hat shirt dress shoe ring crown ball toy guitar "
    "piano drum violin music king queen knight dragon ghost angel devil fire water earth wind "
    "background ground texture pattern gradient close up view front side top masterpiece low high "
    "quality ugly blurred worst best van gogh monet picasso mosaic stained comic cartoon anime "
    "three two one four five many sunset sunrise storm field farm market museum temple ruin"
)


def corpus(captions: Iterable[str]) -> list[str]:
    """The icons' captions, and the words of photographs and grounds."""
    photos = [f"photo, {words}" for words in {**data.WALLPAPERS, **data.BUNDLED}.values()]
    hues = (*grounds.HUES, "black", "white", "grey")
    places = [
        f"on {shade}{hue}, close up, on a gradient, on a photo"
        for shade in ("", "dark ", "pale ")
        for hue in hues
    ]
    return [*captions, *photos * 3, *places]


def train(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learn merges, write `vocab.json` and `merges.txt`, and load them as `CLIPTokenizer`.

    Every byte is in the vocabulary twice, inside a word and at its end, so unknown words are
    spelt out rather than lost.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix=_WORD_END))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator([*captions, *[COMMON] * 3], trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(byte + _WORD_END for byte in alphabet)]
    pieces += [left + right for left, right in merges]
    pieces += [START, END]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return load(folder)


def load(folder: Path) -> CLIPTokenizer:
    made: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    return made
