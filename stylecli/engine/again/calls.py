"""Commands called again as a file says they were."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stylecli.artifacts import files, store
from stylecli.engine import commands, figures, generate, masks, restyle
from stylecli.engine.again.facts import Facts, Staged, link
from stylecli.engine.context import Reporter
from stylecli.engine.gallery.maker import DUMP_SUFFIX
from stylecli.engine.gallery.prepare import gallery
from stylecli.engine.grids import Figure
from stylecli.engine.i2l.predict import predict
from stylecli.engine.i2l.references import References
from stylecli.engine.plan import Input, Role
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.engine.route.applying.prepare import route_apply
from stylecli.engine.route.experts import Expert, Experts
from stylecli.errors import InputError
from stylecli.recipe.schema import Recipe

# Commands that read a whole set of pictures, and take hours: what they made is not made again.
NOT_AGAIN = frozenset({"i2l-data", "i2l-train", "route-data", "route-train"})
# Pictures of the same words that one command line may ask for.
MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """All it takes to prepare the command again.

    Attributes:
        output: Where the new file goes, in a folder of its own.
        sheet: `output` is the picture for people beside the command's own output.
    """

    facts: Facts
    recipe: Recipe
    staged: Sequence[Staged]
    output: Path
    sheet: bool
    reporter: Reporter

    def paths(self, *roles: Role) -> list[Path]:
        return [item.path for item in self.staged if item.role in roles]

    @property
    def contents(self) -> Contents:
        return Contents(arguments=[str(path) for path in self.paths("content")])

    @property
    def destination(self) -> Destination:
        return Destination(output=str(self.output))


def _transfer(again: Call) -> Iterator[Prepared]:
    yield restyle.transfer(
        again.recipe,
        again.contents,
        again.destination,
        again.reporter,
        styles=[str(path) for path in again.paths("style")],
        loras=again.paths("lora"),
        compare=again.sheet,
        figure=_figure(again) if again.facts.figure else None,
    )


def _figure(again: Call) -> Figure:
    """The grid that the file holds.

    Raises:
        InputError: Its cells come out otherwise in this version.
    """
    recorded = again.facts.figure or {}
    name = str(recorded.get("name"))
    try:
        found = (
            figures.chosen(again.recipe, _swept(recorded["cells"]))
            if name == "sweep"
            else figures.chosen(again.recipe, ablation=name)
        )
    except (LookupError, TypeError, ValueError):
        found = None  # cells that nobody of ours wrote
    if found is None or store.digest(found.settings()) != store.digest(recorded):
        raise InputError(
            f"{again.output.name}: its figure has other cells in this version",
            fix="use the version of stylecli that `style show` names",
        )
    return found


def _swept(cells: Sequence[Sequence[Any]]) -> list[str]:
    """``KEY=A,B`` of every axis, rows first: the key of columns changes from cell to cell."""
    changes = [change for _, change in cells]
    keys = sorted(changes[0], key=lambda key: changes[0][key] != changes[1][key])
    values = {key: dict.fromkeys(files.to_json(change[key]) for change in changes) for key in keys}
    return [f"{key}={','.join(values[key])}" for key in keys]


def _mask_transfer(again: Call) -> Iterator[Prepared]:
    yield restyle.mask_transfer(
        again.recipe, again.contents, again.destination, again.reporter, compare=again.sheet
    )


def _switch(again: Call) -> Iterator[Prepared]:
    yield restyle.switch(
        again.recipe, again.contents, again.destination, again.reporter, compare=again.sheet
    )


def _generate(again: Call) -> Iterator[Prepared]:
    """With no LoRA for the whole picture, then with the first: a region may have the same."""
    number = _number(again)
    words = generate.Words((again.facts.prompt,), 1 if number is None else max(number, 2))
    looks: list[Staged | None] = [None]
    looks += [item for item in again.staged if item.role in ("style", "lora")][:1]
    if again.recipe.sampling.schedule is not None:
        looks = [None]
    elif not again.recipe.sampling.regions:
        looks = looks[-1:]
    for look in looks:
        # A folder, because the words may have been drawn more than once.
        name = again.output.name.replace("{", "{{").replace("}", "}}")
        for_many = Destination(output=f"{again.output.parent}/", name=f"{{prompt}}-{name}")
        prepared = generate.generate(
            again.recipe,
            words,
            again.destination if words.count == 1 else for_many,
            again.reporter,
            styles=[str(look.path)] if look and look.role == "style" else [],
            loras=[look.path] if look and look.role == "lora" else [],
        )
        jobs = prepared.plan.jobs[-1:] if number is None else prepared.plan.jobs[number - 1 :][:1]
        yield replace(prepared, plan=replace(prepared.plan, jobs=jobs))


def _number(again: Call) -> int | None:
    """Which of several pictures of the same words it is; None where there was one.

    Raises:
        InputError: It does not say.
    """
    name = next((item.name for item in again.facts.inputs if item.role == "prompt"), None)
    if name is None or not again.facts.prompt:
        raise InputError(
            f"{again.output.name} says no words that it was drawn from",
            fix="`style show` prints what it says",
        )
    if name == Input.of_prompt(again.facts.prompt).path.name:
        return None
    last = name.rpartition("-")[2]
    if not last.isdecimal() or not 1 <= int(last) <= MAX_COUNT:
        raise InputError(
            f"{again.output.name} says that it is picture {last} of its words",
            fix=f"use a file `style` made; 1 to {MAX_COUNT} of them are drawn",
        )
    return int(last)


def _gallery(again: Call) -> Iterator[Prepared]:
    """The picture, also where one of the files beside it is to be made again."""
    output = again.output
    is_dump = output.suffix.lower() == DUMP_SUFFIX
    if output.suffix.lower() not in store.PICTURE_SUFFIXES:
        output = output.with_suffix(".png")
    yield gallery(
        again.recipe,
        again.contents,
        replace(again.destination, output=str(output)),
        again.reporter,
        refs=[str(path) for path in again.paths("style")],
        explain=again.sheet,
        dump=str(again.output) if is_dump else None,
    )


def _route_apply(again: Call) -> Iterator[Prepared]:
    """The picture, also where one of the files beside it is to be made again."""
    output = again.output
    if output.suffix.lower() not in store.PICTURE_SUFFIXES:
        output = output.with_suffix(".png")
    # Their files lie in folders of their own, under names that the index of one folder has.
    folder = again.output.parent.parent / "experts"
    folder.mkdir(exist_ok=True)
    for lora in again.paths("lora"):
        link(folder / lora.name, lora)
    try:
        entries = tuple(map(Expert.from_json, again.facts.experts))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{again.output.name}: its experts are none of this version: {error}",
            fix="use the version of stylecli that `style show` names",
        ) from error
    yield route_apply(
        again.recipe,
        again.contents,
        replace(again.destination, output=str(output)),
        again.reporter,
        experts=Experts(folder, entries),
        explain=again.sheet,
    )


def _invert(again: Call) -> Iterator[Prepared]:
    output = again.output.with_suffix(".safetensors") if again.sheet else again.output
    yield commands.invert(
        again.recipe,
        again.contents,
        replace(again.destination, output=str(output)),
        again.reporter,
        verify=again.sheet,
    )


def _train_lora(again: Call) -> Iterator[Prepared]:
    styles = [str(path) for path in again.paths("style")]
    yield commands.train_lora(again.recipe, styles, again.destination, again.reporter)


def _i2l_predict(again: Call) -> Iterator[Prepared]:
    """The LoRA, also where it is the neutral one beside it that is to be made again."""
    facts, pictures = again.facts, [str(path) for path in again.paths("style")]
    places = iter(pictures)
    styles = [[*itertools.islice(places, count)] for count in facts.groups] or [pictures]
    output = again.output
    if facts.neutral:
        output = output.with_name(f"of-{output.name}")
    yield predict(
        again.recipe,
        References(styles=styles, fuse=facts.fuse),
        replace(again.destination, output=str(output)),
        again.reporter,
        predictor=again.paths("predictor")[0],
        neutral_out=again.output if facts.neutral else None,
        accept_unverified=True,
    )


def _masks(again: Call) -> Iterator[Prepared]:
    """One mask as the one file, all else as the folder of files that it is one of."""
    asked, facts = again.facts.asked, again.facts
    alone = len(asked.texts) + bool(asked.points) + len(asked.boxes) == 1 and not facts.every
    destination = again.destination
    if facts.region is None or not alone:
        stem = again.output.stem.rpartition("__")[0] if facts.region else again.output.stem
        name = (stem or "mask").replace("{", "{{").replace("}", "}}")
        destination = Destination(output=f"{again.output.parent}/", name=f"{name}.json")
    yield masks.masks(
        again.recipe,
        again.contents,
        destination,
        again.reporter,
        asked=asked,
        every=facts.every,
    )


COMMANDS: Mapping[str, Callable[[Call], Iterator[Prepared]]] = {
    "transfer": _transfer,
    "mask-transfer": _mask_transfer,
    "switch": _switch,
    "generate": _generate,
    "invert": _invert,
    "train-lora": _train_lora,
    "masks": _masks,
    "i2l-predict": _i2l_predict,
    "gallery": _gallery,
    "route-apply": _route_apply,
}
