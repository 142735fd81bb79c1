"""What the words say."""

from __future__ import annotations

from stylecli.evaluation.catalogue.asking import text_cosine
from stylecli.evaluation.metric import Row, of_style


def clip_text(row: Row) -> float:
    return text_cosine(row, "clip-l14", "output", "prompt")


def clip_t_style(row: Row) -> float:
    return text_cosine(row, "clip-l14", "output", "style_text")


def pocket_clip_text(row: Row) -> float:
    return text_cosine(row, "pocket-clip", "output", "prompt")


ROWS = (
    of_style(
        "clip_text",
        "higher",
        "CLIP ViT-L/14 cosine to the prompt",
        low=-1,
        high=1,
        columns=("prompt",),
        uses=("clip-l14",),
        compute=clip_text,
    ),
    of_style(
        "clip_t_style",
        "higher",
        "CLIP ViT-L/14 cosine to the words for the style",
        low=-1,
        high=1,
        columns=("style_text",),
        uses=("clip-l14",),
        compute=clip_t_style,
    ),
    of_style(
        "pocket-clip-text",
        "higher",
        "pocket-clip cosine to the prompt",
        low=-1,
        high=1,
        columns=("prompt",),
        uses=("pocket-clip",),
        compute=pocket_clip_text,
    ),
)
