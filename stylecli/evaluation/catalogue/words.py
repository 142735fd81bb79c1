"""What the words say.

The name of a metric says its network: cosines of two CLIPs are not on one scale, so a setting that
swapped them would put two scales under one name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stylecli.evaluation.catalogue.asking import cosine_to
from stylecli.evaluation.metric import Metric, Row, of_style


def _prompt(row: Row) -> str:
    return row.words("prompt")


def _style_text(row: Row) -> str:
    return row.words("style_text")


def _cosine(reads: Callable[[Row], str], extractor: str, row: Row) -> float:
    return cosine_to(row, extractor, "output", reads(row))


clip_text = partial(_cosine, _prompt, "clip-h14")
clip_style = partial(_cosine, _style_text, "clip-h14")
clip_t_style = partial(_cosine, _style_text, "clip-l14")


def _of(name: str, network: str, extractor: str, column: str, *, version: int = 1) -> Metric:
    reads = {"prompt": _prompt, "style_text": _style_text}[column]
    words = {"prompt": "the prompt", "style_text": "the words for the style"}[column]
    return of_style(
        name,
        "higher",
        f"{network} cosine to {words}",
        version=version,
        low=-1,
        high=1,
        columns=(column,),
        uses=(extractor,),
        reads=reads,
        compute=partial(_cosine, reads, extractor),
    )


ROWS = (
    # Version 1 was of ViT-L/14.
    _of("clip_text", "CLIP ViT-H/14", "clip-h14", "prompt", version=2),
    _of("clip_text_l14", "CLIP ViT-L/14", "clip-l14", "prompt"),
    _of("clip_text_b32", "CLIP ViT-B/32", "clip-b32", "prompt"),
    _of("clip_style", "CLIP ViT-H/14", "clip-h14", "style_text"),
    _of("clip_t_style", "CLIP ViT-L/14", "clip-l14", "style_text"),
    _of("pocket-clip-text", "pocket-clip", "pocket-clip", "prompt"),
)
