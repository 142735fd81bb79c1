"""Samples of one picture: their files in a set's folder, and their lines of its list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from stylecli.engine.route.data.items import Box
from stylecli.engine.route.data.making import (
    Hands,
    Source,
    Styled,
    Subject,
    box_of,
    keep,
    mask_image,
    png,
    sample_id,
    slug,
    target_of,
    told,
)
from stylecli.errors import DiskFullError, InputError, ItemError
from stylecli.methods.regionroute.styles import Style
from stylecli.recipe.route import Data

IMAGES, MASKS, TARGETS = "images", "masks", "targets"
# A name below the folder, and a digest.
_File = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """A sample that could not be made."""

    key: str
    error: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Covered:
    """A mask's file, and what it covers."""

    name: str
    sha256: str
    area: float
    box: Box


def made(
    folder: Path, source: Source, subject: Subject, hands: Hands, data: Data
) -> Iterator[dict[str, Any] | Failed]:
    """A picture in some styles; the picture itself is brought in once.

    Args:
        folder: Of the set.
        hands: Of the styles that are wanted, in their order.

    Yields:
        Of each style a line of the list, whose files are there, or why there is none.

    Raises:
        DiskFullError: No other picture would fit either.
    """
    if not hands:
        return
    stem = f"{subject.image_id}_{slug(subject.object)}"
    try:
        view = source.view(subject)
        name = f"{IMAGES}/{subject.image_id}{view.suffix}"
        original = (name, keep(folder / name, view.data))
        shared = _covered(folder, f"{MASKS}/{stem}.png", view.mask)
    except DiskFullError:
        raise
    # Lists and masks may have changed since they were read to choose.
    except (ItemError, InputError) as error:
        yield from (Failed(sample_id(subject, style), error.as_row()) for style in hands)
        return
    for style, hand in hands.items():
        try:
            styled = hand.styled(subject, view, style)
            covered = shared
            if styled.mask is not view.mask:
                covered = _covered(folder, f"{MASKS}/{style.id}/{stem}.png", styled.mask)
            target = f"{TARGETS}/{style.id}/{stem}.png"
            digest = keep(folder / target, png(target_of(view, styled, data.feather_px)))
        except DiskFullError:
            raise
        except ItemError as error:
            yield Failed(sample_id(subject, style), error.as_row())
        else:
            yield _row(subject, style, styled, original, covered, (target, digest), data)


def _covered(folder: Path, name: str, mask: Bool[Tensor, "h w"]) -> _Covered:
    """Write a mask, and say what it covers.

    Raises:
        ItemError: It covers nothing, or cannot be written.
    """
    if not mask.any():
        raise ItemError(f"{name}: nothing of the object is seen", fix="mend its mask")
    digest = keep(folder / name, png(mask_image(mask)))
    return _Covered(name, digest, round(float(mask.float().mean()), 6), box_of(mask))


def _row(
    subject: Subject,
    style: Style,
    styled: Styled,
    source: _File,
    covered: _Covered,
    target: _File,
    data: Data,
) -> dict[str, Any]:
    """A sample's line of the list."""
    command = told(
        subject,
        style,
        varies=data.templates == "mixed",
        include_style_word=data.include_style_word,
    )
    return {
        "id": sample_id(subject, style),
        "image_id": subject.image_id,
        "source": source[0],
        "target": target[0],
        "size": list(styled.mask.shape),
        "style_id": style.id,
        "prompt": command.prompt,
        "edits": [
            {
                "object": subject.object,
                "style_id": style.id,
                "object_span": command.object_span,
                "style_span": command.style_span,
                "mask": covered.name,
                "area": covered.area,
                "bbox": covered.box,
            }
        ],
        "split": subject.split,
        "seed": styled.seed,
        "sha256": {"source": source[1], "target": target[1], "mask": covered.sha256},
        "quality": styled.quality,
    }
