"""Which regions of a content people mean by a colour of its mask, or by words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images
from stylecli.engine.finder import CachedFinder
from stylecli.engine.gallery.analyst import Analysis, Sitter
from stylecli.engine.gallery.wishes import Wishes
from stylecli.engine.session import Session
from stylecli.errors import ItemError

# So much of a region has to lie in what words name.
MOST = 0.5


class Names:
    """Looks names up in one content after another."""

    def __init__(self, session: Session, *, allow_download: bool) -> None:
        self._finder = CachedFinder(session, allow_download=allow_download)
        self._note = session.context.reporter.note

    def of(
        self, sitter: Sitter, analysis: Analysis, wishes: Wishes
    ) -> Callable[[str], Sequence[int]]:
        """What looks a name up in a content; empty where it has no such region.

        It raises ItemError where words fit no region, or nothing that is there.

        Args:
            sitter: Opened whole if there are words.
            analysis: Of the content.
            wishes: Tell colours and words apart.
        """

        def number_of(name: str) -> Sequence[int]:
            if name in wishes.words:
                return self._in_words(sitter, analysis, name)
            paint = sitter.paint
            number = None if paint is None else paint.number_of(name)
            region = None if number is None else analysis.regions.of_paint.get(number)
            return () if region is None else (region,)

        return number_of

    def _in_words(self, sitter: Sitter, analysis: Analysis, words: str) -> Sequence[int]:
        picture = sitter.canvas.picture
        assert picture is not None, "opened whole, because there are words"  # noqa: S101
        mask, details = self._finder.find(picture, words)
        if details["score"] is None:
            return ()
        geometry = sitter.canvas.geometry
        shares = covered(mask, analysis, geometry)
        found = [number for number, share in enumerate(shares.tolist(), start=1) if share > MOST]
        if not found:
            best = int(shares.argmax()) + 1
            raise ItemError(
                f"{analysis.name}: no region is mostly {words!r}; of region {best} it covers "
                f"{float(shares.max()):.0%}",
                fix="name the region by its number, or paint it: --set gallery.mask=FILE",
            )
        told = ", ".join(f"region {number} ({float(shares[number - 1]):.0%})" for number in found)
        self._note(f"{analysis.name}: {words!r} covers {told}")
        return found


def covered(
    mask: Float[Tensor, "hf wf"], analysis: Analysis, geometry: images.Geometry
) -> Float[Tensor, " r"]:
    """The share of every region that a mask of the picture's own size covers."""
    labels = analysis.regions.labels
    scaled = F.interpolate(mask[None, None], geometry.resized, mode="bilinear", antialias=True)
    padded = images.pad(scaled, *geometry.padded)
    size = (labels.shape[0], labels.shape[1])
    cells = F.adaptive_avg_pool2d(padded, size)[0, 0].flatten()
    numbers = labels.flatten() - 1
    sums = torch.zeros(int(numbers.max()) + 1).index_add_(0, numbers, cells.float())
    return sums / torch.bincount(numbers)
