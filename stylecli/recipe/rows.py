"""Settings of one row of a manifest, laid on the recipe of the run."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from functools import lru_cache

from stylecli.errors import RecipeError
from stylecli.recipe.faults import validate
from stylecli.recipe.layers import Entry, Merged, typed
from stylecli.recipe.presets import expanded
from stylecli.recipe.schema import Recipe
from stylecli.recipe.shorthand import unfold
from stylecli.recipe.source import Fault

# What counts for the whole run: it decides which LoRAs are learned, and every item's own seed.
OF_THE_RUN = ("sampling.seed",)


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
    found, faults = _changed(recipe.model_dump_json(), tuple(changes))
    if found is None:
        raise RecipeError(
            "\n".join(f"{place}  {fault.key} {fault.message}" for fault in faults),
            fix="`style recipes show pocket-cpu --resolved` lists every key",
        )
    # With the sections that did not change in common: there may be 100,000 of these.
    own = {name: getattr(found, name) for name in {key.split(".")[0] for key, _ in changes}}
    return recipe.model_copy(update=own)


# A list of 100,000 rows has a handful of different changes.
@lru_cache(maxsize=1024)
def _changed(
    recipe: str, changes: tuple[tuple[str, str], ...]
) -> tuple[Recipe | None, tuple[Fault, ...]]:
    merged = Merged()
    for section, value in json.loads(recipe).items():
        merged.put(Entry((section,), value, "", "recipe"))
    for entry in expanded([typed(tuple(key.split(".")), text, "") for key, text in changes]):
        merged.put(entry)
    unread = unfold(merged)
    found, faults = validate(merged)
    return (None if unread or faults else found), (*unread, *faults)


def _is_known(key: str) -> bool:
    from stylecli.recipe import words

    return words.schema_at(tuple(key.split("."))) is not None
