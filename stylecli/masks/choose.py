"""Which of several finds is the region that words meant, or that none of them is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stylecli.errors import ItemError
from stylecli.masks.base import MaskResult
from stylecli.recipe.finding import Masks


def choose(results: Sequence[MaskResult], settings: Masks) -> MaskResult | None:
    """The region of one prompt, or None where nothing matches it.

    `masks.select` *best* wants a find that scores enough and leads the next by enough; *union* puts
    all that score enough together, pixel by pixel the greatest; a number counts from the best, from
    0, among those that score enough.
    """
    found = matching(results, settings)
    if not found:
        return None
    match settings.select:
        case "best":
            is_clear = len(found) == 1 or _lead(found) >= settings.min_margin
            return found[0] if is_clear else None
        case "union":
            return _union(found)
        case number:
            return found[number] if number < len(found) else None


def matching(results: Sequence[MaskResult], settings: Masks) -> list[MaskResult]:
    """Those that score enough, the best first."""
    enough = [one for one in results if one.score >= settings.min_score]
    return sorted(enough, key=lambda one: -one.score)


def nothing_matches(
    picture: str, prompt: str, results: Sequence[MaskResult], settings: Masks
) -> ItemError:
    """Why `choose` chose none, and what to do about it.

    Args:
        picture: Its name.
        results: What was chosen from.
    """
    found = matching(results, settings)
    every = sorted((one.score for one in results), reverse=True)
    if not results:
        why, lower = "nothing was found", "masks.threshold"
    elif not found:
        why = f"the best find scores {every[0]:.3g}, below masks.min_score {settings.min_score:g}"
        lower = "masks.min_score"
    elif isinstance(settings.select, int):
        why = f"find number {settings.select} is asked for, counting from 0, of {len(found)}"
        lower = "masks.select"
    else:
        why = (
            f"the best find scores {every[0]:.3g} and leads the next by only {_lead(found):.3g}, "
            f"with masks.min_margin at {settings.min_margin:g}"
        )
        lower = "masks.min_margin"
    return ItemError(
        f"{picture}: nothing matches {prompt!r}: {why}",
        fix=f"try other words, a lower {lower}, `style masks` with --point or --box, or "
        "--set masks.on_empty=skip or full",
    )


def _lead(found: Sequence[MaskResult]) -> float:
    return found[0].score - found[1].score


def _union(found: Sequence[MaskResult]) -> MaskResult:
    if len(found) == 1:
        return found[0]
    return MaskResult(
        mask=torch.stack([one.mask for one in found]).amax(dim=0),
        score=found[0].score,
        prompt=found[0].prompt,
        boxes=tuple(box for one in found for box in one.boxes),
        detail={"finds": float(len(found))},
    )
