"""The references of a run, each looked at once, and what is held of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stylecli.artifacts import store
from stylecli.engine.contents import Inverter
from stylecli.engine.context import RunContext
from stylecli.engine.gallery import paint
from stylecli.engine.gallery.analyst import Analysis, Analyst, Sitter
from stylecli.engine.gallery.wishes import Listed
from stylecli.engine.plan import Input
from stylecli.recipe.schema import Recipe

# Of how many recipes the references are held: rows of a manifest may have their own.
MOST_HELD = 4


class References:
    """Analyses of references by the settings they depend on."""

    def __init__(self, inverter: Inverter, analyst: Analyst, context: RunContext) -> None:
        self._inverter = inverter
        self._analyst = analyst
        self._context = context
        self._held: dict[str, list[Analysis]] = {}

    def of(
        self, references: Sequence[Listed], recipe: Recipe, networks: dict[str, object]
    ) -> list[Analysis]:
        """What is known of each, in order.

        They pass the model one at a time, whatever the batch of the contents is: another batch
        would have to look at all of them again.

        Args:
            references: All there are.
            recipe: Of the contents that ask.
            networks: Identity of those beside the model.

        Raises:
            ItemError: One cannot be read any more.
        """
        key = store.digest(
            [
                [[one.picture.sha256, one.mask and one.mask.sha256] for one in references],
                recipe.model_dump(mode="json", include=_ANALYSED),
                networks,
            ]
        )
        if key not in self._held:
            while len(self._held) >= MOST_HELD:
                del self._held[next(iter(self._held))]
            self._held[key] = self._looked_at(references, recipe, networks)
        return self._held[key]

    def _looked_at(
        self, references: Sequence[Listed], recipe: Recipe, networks: dict[str, object]
    ) -> list[Analysis]:
        found = []
        with self._context.reporter.task("references", len(references)) as task:
            for one in references:
                sitter = sit(self._inverter, one.picture, one.mask, recipe)
                found += self._analyst.analyse([sitter], recipe, networks)
                task.advance(1)
        return found


# What of a recipe decides analyses; of the rest nothing does.
_ANALYSED: dict[str, Any] = {
    "dfcc": True,
    "matching": {"statistics", "features", "semantics", "semantics_view", "circle"},
    "gallery": {"fit", "alpha"},
    "sampling": {"size", "seed"},
}


def sit(
    inverter: Inverter,
    picture: Input,
    mask: Input | None,
    recipe: Recipe,
    *,
    whole: bool = False,
) -> Sitter:
    """A picture as the model is to see it, with its painted regions.

    Args:
        whole: Keep it as its file has it, too; done anyway where networks look at its middle.

    Raises:
        ItemError: One of the two files cannot be used.
    """
    whole = whole or recipe.matching.semantics_view == "centre"
    canvas = inverter.open(
        picture, recipe, fit=recipe.gallery.fit, alpha=recipe.gallery.alpha, whole=whole
    )
    painted = None if mask is None else paint.read(mask, canvas.geometry.original)
    return Sitter(canvas, painted)
