"""Settings that may be written as one line of text: schedules and regions, unfolded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stylecli.recipe import timeline
from stylecli.recipe.layers import Merged
from stylecli.recipe.source import Fault, Path, dotted

SCHEDULE: Path = ("sampling", "schedule")
REGIONS: Path = ("sampling", "regions")


def unfold(merged: Merged) -> list[Fault]:
    """Replace every such text by the keys it stands for; what cannot be read is a fault."""
    sampling = merged.values.get("sampling")
    if not isinstance(sampling, dict):
        return []
    return list(_unfolded(sampling, merged))


def _unfolded(sampling: dict[Any, Any], merged: Merged) -> Iterator[Fault]:
    yield from _replace(sampling, "schedule", timeline.parse_schedule, SCHEDULE, merged)
    regions = sampling.get("regions")
    if not isinstance(regions, list):
        return
    sampling["regions"] = regions = list(regions)
    for number in range(len(regions)):
        at: Path = (*REGIONS, number)
        yield from _replace(regions, number, timeline.parse_region, at, merged)
        if isinstance(regions[number], dict):
            regions[number] = dict(regions[number])
            path: Path = (*at, "schedule")
            yield from _replace(regions[number], "schedule", timeline.parse_schedule, path, merged)


def _replace(
    holder: Any, key: str | int, parse: Callable[[str], Any], path: Path, merged: Merged
) -> Iterator[Fault]:
    text = holder.get(key) if isinstance(holder, dict) else holder[key]
    if not isinstance(text, str):
        return
    try:
        holder[key] = parse(text)
    except ValueError as error:
        # Something that fits, so that the schema does not complain a second time.
        holder[key] = {"mask": "?", "schedule": [{}]} if parse is timeline.parse_region else [{}]
        yield Fault(merged.place(path), dotted(path), str(error))
