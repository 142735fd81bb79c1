"""Settings of one row of a manifest, laid on the recipe of the run."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from stylecli.errors import RecipeError
from stylecli.recipe.faults import validate
from stylecli.recipe.layers import Entry, Merged, typed
from stylecli.recipe.presets import expanded
from stylecli.recipe.schema import Recipe
from stylecli.recipe.shares import put_back
from stylecli.recipe.shorthand import unfold
from stylecli.recipe.source import Fault

# What counts for the whole run: it decides which LoRAs are learned, and every item's own seed.
OF_THE_RUN = ("sampling.seed", "sampling.method")


def changed(
    recipe: Recipe, changes: Sequence[tuple[str, str]], place: str, sections: Collection[str]
) -> Recipe:
    """The recipe with some keys changed.

    Args:
        recipe: Of the run.
        changes: Dotted keys and their values in YAML.
        place: Where they stand, such as ``jobs.jsonl:3``.
        sections: Those that a row may change.

    Raises:
        RecipeError: A key that is unknown or counts for the whole run, or a value that does not
            fit.
    """
    if not changes:
        return recipe
    for key, _ in changes:
        if key.split(".")[0] not in sections or key in OF_THE_RUN:
            known = ", ".join(f"{name}.*" for name in sections)
            raise RecipeError(
                f"{place}  {key} counts for the whole run"
                if _is_known(key)
                else f"{place}  unknown column {key!r}",
                fix=f"a row may change {known}; --set changes all rows",
            )
    shares = tuple(recipe.shares.items())
    own, faults = _changed(recipe.model_dump_json(), shares, tuple(changes))
    if own is None:
        raise RecipeError(
            "\n".join(f"{place}  {fault.key} {fault.message}" for fault in faults),
            fix="`style recipes show pocket-cpu --resolved` lists every key",
        )
    # With the sections that did not change in common: there may be 100,000 of these.
    return recipe.model_copy(update=own)


# A list of 100,000 rows has a handful of different changes.
@lru_cache(maxsize=1024)
def _changed(
    recipe: str,
    shares: tuple[tuple[str, str | None], ...],
    changes: tuple[tuple[str, str], ...],
) -> tuple[dict[str, Any] | None, tuple[Fault, ...]]:
    """The sections that are others then: shares follow the steps into sections of their own."""
    before, merged = json.loads(recipe), Merged()
    written = json.loads(recipe)
    put_back(written, dict(shares))
    for section, value in written.items():
        merged.put(Entry((section,), value, "", "recipe"))
    for entry in expanded([typed(tuple(key.split(".")), text, "") for key, text in changes]):
        merged.put(entry)
    unread = unfold(merged)
    found, faults = validate(merged)
    if found is None or unread:
        return None, (*unread, *faults)
    after = found.model_dump(mode="json")
    return {name: own for name, own in found if after[name] != before[name]}, ()


def _is_known(key: str) -> bool:
    from stylecli.recipe import words

    return words.schema_at(tuple(key.split("."))) is not None
