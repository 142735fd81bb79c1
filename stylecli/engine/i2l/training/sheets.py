"""Sheets for people: what the predictor draws by now, beside its references and what it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images, sheets, store
from stylecli.backbone.denoisers.base import Branch
from stylecli.engine.i2l.data.items import picture
from stylecli.engine.i2l.training.steps import Material, in_model, predicted
from stylecli.engine.i2l.training.validation import Question
from stylecli.methods.i2l.predictor import Predictor

# Rows: styles, and captions of each. More would be hours of a large model's time.
STYLES, CAPTIONS = 4, 2
STEPS, GUIDANCE = 25, 4.0
COLUMNS = ("references", "base", "neutral", "i2L", "i2L, neutral on the other side")
# LoRA of the wanted side and of the other, as places among (own, neutral); None is the base model.
WAYS: Sequence[tuple[int | None, int | None]] = ((None, None), (1, 1), (0, 0), (0, 1))


@torch.no_grad()
def draw(
    file: Path, predictor: Predictor, material: Material, questions: Sequence[Question], seed: int
) -> None:
    """Write a sheet: every row one caption in one style, all its pictures from the same noise.

    Raises:
        ItemError: It cannot be written.
    """
    denoiser, encoded = material.denoiser, material.encoded
    chosen = _of_different_styles(questions)
    captions = _captions(questions)
    negative = encoded.text(denoiser.negative_prompt)
    rows, labels = [], []
    for question in chosen:
        looks = (encoded.tokens, encoded.grey)
        tokens = torch.stack(
            [torch.stack([look(x) for x in question.references]) for look in looks]
        )
        packed = predicted(predictor, tokens.to(denoiser.device), denoiser)
        references = _mosaic([images.to_float(picture(x).pixels) for x in question.references])
        for caption in captions:
            drawn = [
                denoiser.sample(
                    [encoded.text(caption)],
                    [negative],
                    seeds=[seed],
                    steps=STEPS,
                    guidance=GUIDANCE,
                    applied=_sides(predictor, packed, way, material),
                )[0]
                for way in WAYS
            ]
            rows.append([references, *(one.float().cpu().clamp(0, 1) for one in drawn)])
            labels.append(caption)
    sheet = sheets.grid(rows, row_labels=labels, column_labels=COLUMNS)
    file.parent.mkdir(parents=True, exist_ok=True)
    store.save_image(file, sheet, None)


def _sides(
    predictor: Predictor,
    packed: Float[Tensor, "2 numbers"],
    way: tuple[int | None, int | None],
    material: Material,
) -> Callable[[Branch], AbstractContextManager[None]]:
    def applied(branch: Branch) -> AbstractContextManager[None]:
        slot = way[branch == "neg"]
        chosen = None if slot is None else packed[slot : slot + 1]
        return in_model(predictor, chosen, [0], material.denoiser)

    return applied


def _of_different_styles(questions: Sequence[Question]) -> list[Question]:
    found = {one.target.style_id: one for one in reversed(questions)}
    return list(reversed(found.values()))[:STYLES]


def _captions(questions: Sequence[Question]) -> list[str]:
    return list(dict.fromkeys(one.target.caption for one in questions))[:CAPTIONS]


def _mosaic(pictures: Sequence[Float[Tensor, "3 _h _w"]]) -> Float[Tensor, "3 _h _w"]:
    """Up to four references in a square."""
    side = max(max(one.shape[-2:]) for one in pictures[:4])
    cells = [images.scaled(one, (side, side)) for one in pictures[:4]]
    if len(cells) == 1:
        return cells[0]
    cells += [torch.ones_like(cells[0])] * (4 - len(cells))
    top, bottom = torch.cat(cells[:2], dim=2), torch.cat(cells[2:], dim=2)
    return images.scaled(torch.cat([top, bottom], dim=1), (side, side))
