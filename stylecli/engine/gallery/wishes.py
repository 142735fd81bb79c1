"""What a gallery is to make of one content: its files, and what the user wants matched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylecli.engine.gallery.paint import as_hex
from stylecli.engine.plan import Input
from stylecli.errors import InputError, ItemError, UsageError
from stylecli.methods.stylegallery import overrides
from stylecli.methods.stylegallery.match import Exclude, Override, Take, ref
from stylecli.methods.stylegallery.names import Known
from stylecli.recipe.gallery import Gallery
from stylecli.recipe.schema import Recipe

# No picture falls into more regions than this; what it has is known once it was cut.
MOST_REGIONS = 999


@dataclass(frozen=True, slots=True)
class Listed:
    """A reference as it was named, and its painted regions where there are some."""

    picture: Input
    mask: Input | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a recipe says of matches, as far as it can be read without a picture.

    Attributes:
        reports: Files of overrides, by the entries of `gallery.match` that name them.
        data: What is in them.
        words: Names of regions that have to be found in the content.
        decisive: All of it for keys: files by their digests, and which references names mean.
    """

    reports: Mapping[str, Input]
    data: Mapping[str, Any]
    words: frozenset[str]
    decisive: Mapping[str, Any]

    def refuse_strangers(self, pictures: Sequence[tuple[str, str]]) -> None:
        """See that reports are of these pictures; other overrides say nothing of any.

        Args:
            pictures: Names and digests of the content and its references.

        Raises:
            ItemError: One tells of others, whose regions have other numbers.
        """
        reports = ((name, one) for name, one in self.data.items() if isinstance(one, dict))
        for name, data in reports:
            listed = [data.get("content"), *(data.get("styles") or ())]
            for said, (own, digest) in zip(listed, pictures, strict=False):
                if isinstance(said, dict) and said.get("hash") not in (None, digest):
                    raise ItemError(
                        f"{pictures[0][0]}: {Path(name).name} tells of {said.get('name')} where "
                        f"{own} is",
                        fix="give the report of this content and these references",
                    )


@dataclass(frozen=True, slots=True)
class Task:
    """One content and what becomes of it.

    Attributes:
        mask: Its painted regions.
        references: The same object for all tasks that share them.
        accelerator: A LoRA at work while latents are led.
        networks: Identity of those beside the diffusion model.
        folder: Of the content, below the one that was named.
    """

    content: Input
    mask: Input | None
    references: tuple[Listed, ...]
    wishes: Wishes
    recipe: Recipe
    networks: dict[str, object]
    accelerator: Input | None = None
    output: Path | None = None
    folder: str = ""

    def inputs(self) -> list[Input]:
        """The files it takes: the content, then the references in order, each before its mask."""
        pictures = [Listed(self.content, self.mask), *self.references]
        found = [item for one in pictures for item in (one.picture, one.mask)]
        reports = dict.fromkeys(self.wishes.reports.values())
        return [one for one in (*found, self.accelerator, *reports) if one is not None]


@dataclass(frozen=True, slots=True)
class _Asked(Known):
    """Remembers which reference each name meant: of other files it means another."""

    meant: dict[str, int] = field(default_factory=dict)

    def find(self, word: str, where: str) -> int | None:
        # A class with slots is not the one that a bare super() knows.
        style = Known.find(self, word, where)
        if style is not None and word != ref(style):
            self.meant[word] = style
        return style


def read(settings: Gallery, references: Sequence[Listed]) -> Wishes:
    """Check the overrides of a recipe before any picture is looked at.

    Raises:
        UsageError: An entry says nothing, names a reference that there is not, or leaves nothing
            to choose from.
        InputError: A file of overrides cannot be read, or is none.
    """
    reports: dict[str, Input] = {}
    data: dict[str, Any] = {}
    for entry in filter(overrides.names_file, settings.match):
        reports[entry] = Input.of("report", Path(entry).expanduser())
        data[entry] = _parsed(reports[entry].path)
    asked: dict[str, None] = {}

    def number_of(name: str) -> Sequence[int]:
        asked[name] = None
        return (1,)

    known = _Asked(
        areas=[1.0] * MOST_REGIONS,
        references=[one.picture.path.name for one in references],
        counts=None,
        number_of=number_of,
    )
    overrides.read(settings, known, files=data)
    # Without what is kept because nobody named it: what was named has to be served.
    named = settings.model_copy(update={"only": []})
    _refuse_nothing_left(overrides.read(named, known, files=data), len(references))
    is_painted = settings.mask is not None
    words = frozenset(name for name in asked if not is_painted or as_hex(name) is None)
    match = [reports[entry].sha256 if entry in reports else entry for entry in settings.match]
    decisive = {
        "match": match,
        "only": list(settings.only),
        "exclude": list(settings.exclude),
        "strength": list(settings.strength),
        "meant": dict(sorted(known.meant.items())),
    }
    return Wishes(reports, data, words, decisive)


def _refuse_nothing_left(said: Sequence[Override], references: int) -> None:
    excluded = {one.style for one in said if isinstance(one, Exclude) and one.region is None}
    if len(excluded) == references and not any(isinstance(one, Take) for one in said):
        raise UsageError(
            "gallery.exclude leaves no reference to choose from",
            fix="exclude less, or say where regions take their style from: gallery.match 1=ref1",
        )


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"gallery.match {path}: not JSON: {str(error).partition(':')[0]}",
            fix="give a report that --explain wrote, or a list of overrides",
        ) from error
    except OSError as error:
        raise InputError(
            f"gallery.match {path} cannot be read: {error.strerror}", fix="check the name"
        ) from error
