"""Settings that count steps of the sampler: written as shares of them, or left to follow them.

    injection.attn_steps: 50%     half of the steps, half of one rounded up
    inversion.steps: null         as many as the sampler has
    sampling.timesteps: [999, …]  as many steps as it lists, where nobody said later how many

A `Recipe` holds plain numbers, so these alone decide a result and are recorded with it. It also
remembers what was written, because a row of a manifest may change the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stylecli.recipe.layers import Merged
from stylecli.recipe.schema import Recipe, Sampling
from stylecli.recipe.source import Fault, Path, dotted
from stylecli.recipe.strict import MAX_LEVELS
from stylecli.recipe.timeline import PERCENT, in_steps
from stylecli.recipe.words import shown

STEPS: Path = ("sampling", "steps")
TIMESTEPS: Path = ("sampling", "timesteps")
# No share, but the sampler's number where it is null.
INVERSION_STEPS = ("inversion", "steps")
# What may be a share, and what stands where nobody said anything.
KEYS: Mapping[tuple[str, str], str | None] = {
    ("injection", "feature_steps"): "60%",
    ("injection", "attn_steps"): "50%",
    INVERSION_STEPS: None,
    ("sampling", "pin_until"): None,
}
# From the lowest to the highest, by the first word of an origin.
LAYERS = ("model", "recipe", "environment", "--set", "flag")


def count(merged: Merged) -> tuple[dict[str, str | None], list[Fault]]:
    """Put numbers of steps where shares are written or nothing is.

    Returns:
        What was written, by dotted key; and shares beyond the whole, as faults.
    """
    sampling = merged.values.setdefault("sampling", {})
    if not isinstance(sampling, dict):
        return {}, []
    faults = list(_listed(sampling, merged))
    steps = sampling.get("steps", Sampling().steps)
    is_sound = isinstance(steps, int) and not isinstance(steps, bool) and 1 <= steps <= MAX_LEVELS
    written: dict[str, str | None] = {}
    for path, default in KEYS.items():
        name, key = path
        section = merged.values.setdefault(name, {})
        if not isinstance(section, dict):
            continue
        said = section.get(key, default)
        if not (said is None if path == INVERSION_STEPS else _is_share(said)):
            continue
        found = in_steps(said or "100%", steps) if is_sound else 1
        if is_sound and found > steps:
            message = f"is {said}, beyond sampling.steps; allowed 0% to 100%"
            faults.append(Fault(merged.place(path), dotted(path), message))
            found = steps
        section[key] = found
        written[dotted(path)] = said
    return written, faults


def as_written(recipe: Recipe) -> dict[str, Any]:
    """Its values as JSON has them, shares as they were written.

    One that a copy of the recipe replaced by another number of steps stays that number.
    """
    values = recipe.model_dump(mode="json")
    put_back(values, recipe.shares)
    return values


def put_back(values: dict[str, Any], shares: Mapping[str, str | None]) -> None:
    """Shares in place of the numbers of steps that they came to."""
    for key, said in shares.items():
        section, name = key.split(".")
        if values[section][name] == in_steps(said or "100%", values["sampling"]["steps"]):
            values[section][name] = said


def _is_share(value: object) -> bool:
    return isinstance(value, str) and PERCENT.fullmatch(value.strip()) is not None


def _listed(sampling: dict[Any, Any], merged: Merged) -> list[Fault]:
    """Timesteps that are listed: from the noisiest, and as many steps as they are."""
    listed = sampling.get("timesteps")
    if not isinstance(listed, list) or not listed or not all(type(t) is int for t in listed):
        return []
    falling = sorted(set(listed), reverse=True)
    if listed not in (falling, falling[::-1]):
        message = f"must fall or rise and name each timestep once, not {shown(listed)}"
        sampling["timesteps"] = None
        return [Fault(merged.place(TIMESTEPS), dotted(TIMESTEPS), message)]
    sampling["timesteps"] = falling
    if "steps" not in sampling or _layer(TIMESTEPS, merged) > _layer(STEPS, merged):
        sampling["steps"] = len(falling)
        if TIMESTEPS in merged.entries:
            merged.entries[STEPS] = replace(merged.entries[TIMESTEPS], path=STEPS)
    return []


def _layer(path: Path, merged: Merged) -> int:
    entry = merged.entries.get(path)
    if entry is None:
        return -1
    kind = entry.origin.partition(" ")[0]
    return LAYERS.index(kind) if kind in LAYERS else len(LAYERS)
