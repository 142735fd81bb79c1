"""Which regions there are and where each took its style from: as JSON, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from stylecli.artifacts import files
from stylecli.artifacts.atlas import PER_ROW, Colour, Entry, Panel, atlas, colour, tinted
from stylecli.engine.gallery.analyst import Analysis
from stylecli.methods.stylegallery.match import TERMS, Match, Table, ref

VERSION = 1
# References that nobody took anything from are shown where a row has room for them.
SHOWN_UNUSED = 2
DIGITS, SCORE_DIGITS = 6, 4
SCORED = (*TERMS, "total", "score", "margin")
# Settings that may name files.
NAMING = ("mask", "ref_masks", "accelerator", "match", "exclude")

# A reference from 0, and a region of it.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Explained:
    """All that is known of one result.

    Attributes:
        image: The content as the model saw it, without its margin.
        seconds: What each stage took, of this content's share.
    """

    content: Analysis
    image: Float[Tensor, "3 h w"]
    styles: Sequence[Analysis]
    table: Table
    matches: Sequence[Match]
    seconds: Mapping[str, float]

    def labels(self) -> dict[str, Int[Tensor, "_h _w"]]:
        """Of all pictures, by the names that people know them by."""
        names = ["content", *(ref(at) for at in range(len(self.styles)))]
        pictures = [self.content, *self.styles]
        return {name: one.regions.labels for name, one in zip(names, pictures, strict=True)}

    def used(self) -> list[int]:
        """References that something was taken from, ascending."""
        return sorted({one.style for one in self.matches if one.style is not None})

    def figures(self) -> dict[str, Any]:
        """For the journal."""
        return {
            "regions": len(self.matches),
            "references": [self.styles[at].name for at in self.used()],
            "kept": sum(one.style is None for one in self.matches),
            "low_confidence": sum(one.low_confidence for one in self.matches),
            "moved": round(self.content.regions.moved, DIGITS),
        }


def report(
    explained: Explained,
    config: Mapping[str, Any],
    networks: Mapping[str, str],
    *,
    is_named: bool = True,
) -> dict[str, Any]:
    """All of it as JSON; its ``matches`` can be edited and given back as ``gallery.match``.

    Places are shares of the picture, from the upper left; areas too.

    Args:
        explained: A result.
        config: The settings it was made with.
        networks: Those beside the diffusion model, by name.
        is_named: Pictures are told by their names and digests, and settings that may name files
            are there.
    """
    used = explained.used()
    return {
        "version": VERSION,
        "content": _picture(explained.content, is_named=is_named),
        "styles": [
            {"style": ref(at), "used": at in used, **_picture(one, is_named=is_named)}
            for at, one in enumerate(explained.styles)
        ],
        "k_scores": {str(k): round(s, DIGITS) for k, s in explained.content.regions.scores.items()},
        "scores": [_shortened(row) for row in explained.table.as_rows()],
        "matches": [_shortened(one.as_row()) for one in explained.matches],
        "networks": dict(networks),
        "config": dict(config) if is_named else _without_names(config),
        "timing": {name: round(seconds, 3) for name, seconds in explained.seconds.items()},
    }


def shown(explained: Explained) -> list[int]:
    """References in the picture: all that were used, and some of the others."""
    used = explained.used()
    free = -(1 + len(used)) % PER_ROW
    rest = [at for at in range(len(explained.styles)) if at not in used]
    return [*used, *rest[: min(free, SHOWN_UNUSED)]]


def drawn(
    explained: Explained,
    pictures: Mapping[int, Float[Tensor, "3 _h _w"]],
    *,
    is_named: bool = True,
) -> UInt8[Tensor, "h w 3"]:
    """The content and references side by side, a region and its match in one colour.

    Args:
        explained: A result.
        pictures: Of the references to show, without their margins.
        is_named: Captions have the names of files.
    """
    return atlas(
        panels(explained, pictures, is_named=is_named), _legend(explained, _colours(explained))
    )


def panels(
    explained: Explained,
    pictures: Mapping[int, Float[Tensor, "3 _h _w"]],
    *,
    is_named: bool = True,
) -> list[Panel]:
    """The pictures of `drawn`, each of the size it was given in."""
    groups, used = groups_of(explained), explained.used()
    own = tinted(explained.image, _inside(explained.content), _colours(explained))
    found = [Panel(own, "content" + f": {explained.content.name}" * is_named)]
    for at, picture in pictures.items():
        style = explained.styles[at]
        count = int(style.regions.labels.max())
        places = [groups.get((at, region)) for region in range(1, count + 1)]
        theirs = [None if group is None else colour(group) for group in places]
        is_used = at in used
        caption = ref(at) + f": {style.name}" * is_named + " (not used)" * (not is_used)
        found.append(Panel(tinted(picture, _inside(style), theirs), caption, not is_used))
    return found


def _colours(explained: Explained) -> list[Colour | None]:
    """Of the content's regions; None for what is kept."""
    groups = groups_of(explained)
    places = [_places(match, explained) for match in explained.matches]
    return [colour(groups[some[0]]) if some else None for some in places]


def groups_of(explained: Explained) -> dict[Place, int]:
    """What is drawn in one colour: regions that some content region takes its style from.

    Regions that one content region takes together are of one group, and so is what they share
    with another's.
    """
    groups: dict[Place, int] = {}
    for number, match in enumerate(explained.matches):
        places = _places(match, explained)
        joined = {groups[place] for place in places if place in groups}
        own = min(joined, default=number)
        groups = {place: own if group in joined else group for place, group in groups.items()}
        groups |= dict.fromkeys(places, own)
    numbers = {group: number for number, group in enumerate(sorted(set(groups.values())))}
    return {place: numbers[group] for place, group in groups.items()}


def _places(match: Match, explained: Explained) -> list[Place]:
    """What a region takes its style from; nothing for one that is kept."""
    if match.style is None:
        return []
    count = int(explained.styles[match.style].regions.labels.max())
    return [(match.style, region) for region in match.regions or range(1, count + 1)]


def _legend(explained: Explained, colours: Sequence[Colour | None]) -> list[Entry]:
    entries = []
    for match, own in zip(explained.matches, colours, strict=True):
        if match.style is None:
            entries.append(Entry(None, f"{match.content} is kept"))
            continue
        regions = "+".join(map(str, match.regions))
        place = ref(match.style) + (f":{regions}" if regions else "")
        notes = [f"{match.score:.2f}"]
        notes += [f"x {match.strength:g}"] * (match.strength != 1)
        notes += ["by hand"] * (match.source == "user") + ["unsure"] * match.low_confidence
        said = f"{match.content} > {place} ({', '.join(notes)})"
        entries.append(Entry(own, said))
    return entries


def as_text(listing: Mapping[str, Any]) -> str:
    """JSON for people to edit: what they may change first, and a line for each entry of a list."""
    order = {name: at for at, name in enumerate(("version", "matches", "content", "styles"))}
    lines = []
    for name in sorted(listing, key=lambda name: (order.get(name, len(order)), name)):
        value = listing[name]
        text = files.to_json(value)
        if isinstance(value, list) and value:
            entries = ",\n".join(f"  {files.to_json(one)}" for one in value)
            text = f"[\n{entries}\n ]"
        lines.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _inside(analysis: Analysis) -> Int[Tensor, "h w"]:
    rows, columns = analysis.cells
    return analysis.regions.labels[:rows, :columns]


def _picture(analysis: Analysis, *, is_named: bool) -> dict[str, Any]:
    labels = _inside(analysis)
    count = int(analysis.regions.labels.max())
    named = {"name": analysis.name, "hash": analysis.sha256} if is_named else {}
    return {
        **named,
        "size": list(analysis.geometry.original),
        "cells": list(labels.shape),
        "moved": round(analysis.regions.moved, DIGITS),
        "regions": [_region(analysis, labels, number) for number in range(1, count + 1)],
    }


def _region(analysis: Analysis, labels: Int[Tensor, "h w"], number: int) -> dict[str, Any]:
    height, width = labels.shape
    mask = labels == number
    rows, columns = (mask.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
    depth = analysis.regions.depth
    # A region that lies in the margin alone has no place in the picture.
    is_seen = bool(mask.any())
    y, x = mask.nonzero().float().add(0.5).mean(dim=0).tolist() if is_seen else (0.0, 0.0)
    circle = analysis.described.circles[number - 1].tolist()
    whole = analysis.regions.labels == number
    return {
        "id": number,
        "area": _rounded(float(mask.sum()) / mask.numel()),
        "bbox": _rounded(
            [
                float(columns[0]) / width,
                float(rows[0]) / height,
                float(columns[-1] + 1) / width,
                float(rows[-1] + 1) / height,
            ]
        )
        if is_seen
        else None,
        "centroid": _rounded([x / width, y / height]) if is_seen else None,
        "circle": _rounded(circle),
        "mean_rgb": [round(255 * value) for value in analysis.colours[number - 1].tolist()],
        "mean_depth": None if depth is None else _rounded(float(depth[whole].mean())),
        "painted": number in analysis.regions.painted,
    }


def _shortened(row: Mapping[str, Any]) -> dict[str, Any]:
    """With scores of as many digits as tell pairs apart."""
    return {
        name: round(value, SCORE_DIGITS) if name in SCORED else value for name, value in row.items()
    }


def _without_names(config: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in config["gallery"].items() if name not in NAMING}
    return {**config, "gallery": own}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [round(one, DIGITS) for one in value]
    return round(value, DIGITS)
