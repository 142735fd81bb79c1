"""Photographs in which objects are outlined, and which object of each is to change (section 1.1).

What a source says of its photographs is read at once, pictures and masks as they are asked for:
one photograph after the other is looked at, in an order that the seed draws, until there are
enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.engine.route.data.items import TRAIN, VAL
from stylecli.engine.route.data.making import Subject, View, box_of
from stylecli.errors import ImageError, InputError
from stylecli.recipe.route import Data
from stylecli.tensors.seeds import derive, generator

Mask = Bool[Tensor, "h w"]
# Last words of phrases that name a place or a part of the picture, not a thing in it.
_NO_THINGS = """
top front back side sides piece pieces couple group bunch photo photograph picture image view middle
center centre area background foreground room street floor ground wall sky road air kitchen bathroom
field beach water grass city night day edge end bottom corner inside outside scene place way lot set
row pair body line it he she they them her him his that this what which something one two three some
"""
NO_THINGS = frozenset(_NO_THINGS.split())


@dataclass(frozen=True, slots=True)
class Outline:
    """An object in a photograph.

    Attributes:
        name: As a command says it, without an article.
        read: Its mask, of the photograph's height and width; may raise an InputError or ImageError.
        file: Of the mask, where it is not in the list.
    """

    name: str
    read: Callable[[tuple[int, int]], Mask]
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture's file and what is outlined in it.

    Attributes:
        id: Of the picture, the same in whatever list it is named.
    """

    id: str
    file: Path
    outlines: tuple[Outline, ...]


class Listing(Protocol):
    """Photographs that somebody outlined things in.

    Attributes:
        name: For messages.
        identity: Digest of what lists them.
    """

    name: str
    identity: str

    def __iter__(self) -> Iterator[Photograph]: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """A photograph, and the object of it that changes."""

    photograph: Photograph
    outline: Outline
    subject: Subject


class Photographs:
    """A choice of photographs, as a source of a set."""

    def __init__(
        self,
        listings: Sequence[Listing],
        data: Data,
        seed: int,
        excluded: Collection[str] = (),
    ) -> None:
        """Choose; of every photograph that comes into question one mask at least is read.

        Args:
            excluded: Ids of photographs that must not be used.

        Raises:
            InputError: Fewer photographs will do than are asked for.
        """
        self.left_out: Counter[str] = Counter()
        self._chosen = self._choose(listings, data, seed, frozenset(excluded))
        self.subjects = [one.subject for one in self._chosen.values()]
        self.facts: Mapping[str, Any] = {
            "source": "photographs",
            "lists": [{"name": one.name, "identity": one.identity} for one in listings],
            "images": data.images,
            "held_out": data.held_out,
            "filters": [data.min_area, data.max_area, data.min_side_px],
            "objects": list(data.objects),
            "excluded": store.digest(sorted(excluded)),
            "seed": seed,
            # A list stays the same when the masks that it names are exchanged. Pictures are told by
            # `origin`: one that was damaged, and is mended, makes no other set.
            "masks": store.digest(
                [
                    [one.photograph.id, store.file_sha256(one.outline.file)]
                    for one in self._chosen.values()
                    if one.outline.file is not None
                ]
            ),
        }

    def view(self, subject: Subject) -> View:
        """See `making.Source`."""
        one = self._chosen[subject.image_id]
        file = one.photograph.file
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ImageError(f"{file}: {error.strerror or error}", fix="copy it again") from error
        picture = images.to_float(images.read_bytes(data, file).pixels)
        mask = one.outline.read((picture.shape[1], picture.shape[2]))
        return View(data, file.suffix.lower(), picture, mask)

    def origin(self, image_id: str) -> Path | None:
        """See `making.Source`."""
        one = self._chosen.get(image_id)
        return None if one is None else one.photograph.file

    def about(self) -> Mapping[str, Any]:
        """Nothing besides the facts."""
        return {}

    def _choose(
        self, listings: Sequence[Listing], data: Data, seed: int, excluded: frozenset[str]
    ) -> dict[str, Chosen]:
        found: dict[str, Chosen] = {}
        held: set[str] = set()
        wanted = data.images + data.held_out
        for photograph, outline in candidates(listings, data, seed, excluded, self.left_out):
            # Those of validation come first, so that they stay when more are asked for.
            split = VAL if len(found) < data.held_out else TRAIN
            if data.held_out:
                # Several of VOC's objects come with one photograph, each with a copy of its own.
                shown = store.file_sha256(photograph.file)
                if split == VAL:
                    held.add(shown)
                elif shown in held:
                    self.left_out["with a picture that validation has"] += 1
                    continue
            found[photograph.id] = Chosen(
                photograph, outline, Subject(photograph.id, outline.name, split)
            )
            if len(found) == wanted:
                return found
        reasons = ", ".join(f"{count} {why}" for why, count in self.left_out.most_common())
        raise InputError(
            f"{', '.join(one.name for one in listings)}: {len(found)} photographs will do, and "
            f"{wanted} are asked for ({data.images} to learn from, {data.held_out} for "
            f"validation){f'; left out: {reasons}' if reasons else ''}",
            fix=_fewer(len(found), data),
        )


def candidates(
    listings: Sequence[Listing],
    data: Data,
    seed: int,
    excluded: Collection[str],
    left_out: Counter[str],
) -> Iterator[tuple[Photograph, Outline]]:
    """Photographs in an order that the seed draws, each with one of its objects that will do.

    Args:
        data: Says what will do.
        excluded: Ids of photographs that must not be used.
        left_out: Why how many were passed over; counted on.
    """
    for photograph in _in_turn(listings, seed, frozenset(excluded), left_out):
        outline = _outline(photograph, data, seed, left_out)
        if outline is not None:
            yield photograph, outline


def _in_turn(
    listings: Sequence[Listing], seed: int, excluded: frozenset[str], left_out: Counter[str]
) -> Iterable[Photograph]:
    every: dict[str, Photograph] = {}
    for listing in listings:
        for photograph in listing:
            if photograph.id in excluded:
                left_out["in the set that is excluded"] += 1
            elif photograph.id in every:
                left_out["named twice"] += 1
            else:
                every[photograph.id] = photograph
    return sorted(every.values(), key=lambda one: derive(seed, "route-data", one.id))


def _outline(
    photograph: Photograph, data: Data, seed: int, left_out: Counter[str]
) -> Outline | None:
    """One of its objects that will do, any as likely as another."""
    things = [one for one in photograph.outlines if _is_thing(one.name)]
    if not things:
        left_out["name no thing alone of its kind"] += 1
        return None
    things = [one for one in things if data.takes(one.name)]
    if not things:
        left_out["show none of the objects that are asked for"] += 1
        return None
    try:
        size = images.size_of(photograph.file)
    except ImageError:
        left_out["whose picture is missing or damaged"] += 1
        return None
    why = ""
    chance = generator(seed, "object", photograph.id)
    for place in torch.randperm(len(things), generator=chance).tolist():
        try:
            mask = things[place].read(size)
        except (InputError, ImageError):
            why = why or "whose mask is missing, damaged or of another size"
            continue
        if (reason := unfit(mask, data)) is None:
            found: Outline = things[place]
            return found
        why = reason
    left_out[why] += 1
    return None


def unfit(mask: Mask, data: Data) -> str | None:
    """Why an object is too small or too large to be learned from, if it is."""
    area = float(mask.float().mean())
    if not area or area < data.min_area:
        return "whose object is too small"
    if area > data.max_area:
        return "whose object is too large"
    left, top, right, bottom = box_of(mask)
    if min(right - left, bottom - top) < data.min_side_px:
        return "whose object is too narrow"
    return None


def _is_thing(name: str) -> bool:
    words = name.casefold().split()
    return bool(words) and words[-1] not in NO_THINGS


def _fewer(found: int, data: Data) -> str:
    """What could be asked for of so few; with pictures kept for validation, of both."""
    if not found:
        return "name other sources, or other objects"
    held = min(data.held_out, found // 2)
    said = f"--images {found - held}"
    return (
        f"{said} --val {held}, or name more sources"
        if held != data.held_out
        else (f"{said}, or name more sources")
    )
