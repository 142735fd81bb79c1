"""Which grid a command line asks for: an ablation, or settings swept over one or two axes.

    features=0,10,..,50                              one axis is one row of cells
    features=0,25,50 injection.attn_tail=hard,full   two are rows and columns

Every cell is checked as a recipe before any work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import product

from stylecli.engine import method
from stylecli.engine.ablations import ablate
from stylecli.engine.grids import Axis, Figure, build
from stylecli.errors import RecipeError, UsageError, did_you_mean
from stylecli.recipe import words
from stylecli.recipe.layers import Entry, from_overrides
from stylecli.recipe.schema import Recipe

# More pictures than anyone compares; also what keeps 0,1,..,1000000 from being listed.
MAX_CELLS = 64
SHORT_NAMES = {
    "features": "injection.feature_steps",
    "attention": "injection.attn_steps",
    "weight": "sampling.weight",
    "guidance": "sampling.guidance",
}
CONTINUES = ".."
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d{1,2})?", re.IGNORECASE)
SHARE = "%"
# Layers may be a list in brackets, whose commas are its own.
_COMMA = re.compile(r",(?![^\[]*\])")


def chosen(
    recipe: Recipe, sweeps: Sequence[str] = (), ablation: str | None = None
) -> Figure | None:
    """The figure that a command line asks for, if any.

    Raises:
        UsageError: Both, or one that cannot be read.
        RecipeError: A cell whose settings the recipe would refuse.
    """
    if sweeps and ablation is not None:
        raise UsageError("--sweep and --ablate exclude each other", fix="make two figures")
    if ablation is not None:
        if not method.learns(recipe.sampling):
            raise UsageError(
                f"--ablate is for the method {method.LEARNS}, not {recipe.sampling.method}",
                fix="use --sweep, such as --sweep " + _example(recipe.sampling.method),
            )
        return ablate(recipe, ablation)
    return sweep(recipe, sweeps) if sweeps else None


def sweep(recipe: Recipe, texts: Sequence[str]) -> Figure:
    """A grid over one or two settings.

    Args:
        recipe: Of the run.
        texts: ``NAME=VALUES`` each, or several with spaces between.

    Raises:
        UsageError: Not of that form, or more than two axes or 64 cells.
        RecipeError: A setting that is unknown or cannot be swept, or a cell that does not fit.
    """
    pieces = [piece for text in texts for piece in re.split(r"\s+(?=[\w.]+\s*=)", text.strip())]
    if len(pieces) > 2:
        raise UsageError(f"--sweep has {len(pieces)} axes", fix="a grid has one or two")
    named = [_parsed(piece, recipe.sampling.method) for piece in pieces]
    if len({entries[0].path for _, entries in named}) < len(named):
        raise UsageError(f"--sweep {pieces[1]}: the same setting twice", fix="give it once")
    count = math.prod(len(entries) for _, entries in named)
    if count > MAX_CELLS:
        raise UsageError(f"--sweep has {count} cells", fix=f"at most {MAX_CELLS}; leave some out")
    axes = [
        Axis(
            name,
            tuple(f"{name} {_shown(entry.value)}" for entry in entries),
            numbers=_numbers([entry.value for entry in entries]),
        )
        for name, entries in named
    ]
    changes = [
        {".".join(map(str, entry.path)): entry.value for entry in entries}
        for entries in product(*(entries for _, entries in named))
    ]
    return build("sweep", recipe, axes, changes, place="--sweep")


def values(text: str) -> list[str]:
    """A list of values, ``..`` continuing the two numbers before it to the one behind it.

    Raises:
        ValueError: Not of that form.

    >>> values("0,10,..,40"), values("0%,50%,..,100%"), values("anchor,[4, 5]")
    (['0', '10', '20', '30', '40'], ['0%', '50%', '100%'], ['anchor', '[4, 5]'])
    """
    parts = [part.strip() for part in _COMMA.split(text)]
    if not all(parts):
        raise ValueError("a value is empty")
    found: list[str] = []
    for number, part in enumerate(parts):
        if part != CONTINUES:
            found.append(part)
            continue
        around = [*found[-2:], *parts[number + 1 : number + 2]]
        unit = SHARE if all(one.endswith(SHARE) for one in around) else ""
        bare = [one.removesuffix(unit) for one in around]
        if len(around) < 3 or not all(_NUMBER.fullmatch(one) for one in bare):
            raise ValueError(".. needs two numbers before it and one behind it")
        found += (number + unit for number in _between(*map(Decimal, bare)))
    return found


def _between(first: Decimal, second: Decimal, last: Decimal) -> Iterator[str]:
    """What lies strictly between the last two, in steps from the first to the second."""
    step = second - first
    count = (last - second) / step if step else Decimal(0)
    if count > MAX_CELLS:
        raise ValueError(f"{first},{second},..,{last} is more than {MAX_CELLS} values")
    if count < 1 or count != count.to_integral_value():
        raise ValueError(f"{first},{second},..,{last} does not arrive at {last}")
    for index in range(1, int(count)):
        yield f"{second + index * step:f}"


def _parsed(piece: str, of: str) -> tuple[str, list[Entry]]:
    """The name of an axis and what it sets, one entry a value."""
    name, equals, text = (part.strip() for part in piece.partition("="))
    key = SHORT_NAMES.get(name, name)
    if equals:
        _refuse_unknown(name, key, of)
    try:
        given = values(text)
    except ValueError as error:
        raise UsageError(
            f"--sweep {piece}: {error if equals else 'not NAME=VALUES'}",
            fix=f"such as {_example(of)}",
        ) from None
    entries = [
        replace(entry, place="--sweep", origin="--sweep")
        for entry in from_overrides([f"{key}={one}" for one in given])
    ]
    for number, entry in enumerate(entries):
        if any(entry.value == other.value for other in entries[:number]):
            raise UsageError(f"--sweep {piece}: {given[number]} twice", fix="give each value once")
    if len(entries) < 2:
        raise UsageError(
            f"--sweep {piece} has one value", fix=f"give two or more, or --set {key}={given[0]}"
        )
    short = {key: name for name, key in SHORT_NAMES.items()}
    return short.get(key, key.rpartition(".")[2]), entries


def sweepable(of: str = method.LEARNS) -> list[str]:
    """Full keys that a cell may change: those that leave the model, LoRAs and steps as they are.

    Args:
        of: The method.
    """
    if of != method.LEARNS:
        return [".".join(map(str, path)) for path in words.leaves((method.SECTIONS[of],))]
    injection = [f"injection.{path[1]}" for path in words.leaves(("injection",))]
    # Not one setting, but a name for many, of the inversion too.
    injection.remove("injection.preset")
    return [*injection, "sampling.weight", "sampling.guidance", "sampling.start"]


def _example(of: str) -> str:
    return {
        "styleid": "styleid.gamma=0.3,0.5,..,0.9",
        "attn-distill": "distill.content_weight=0.1,0.2,..,0.5",
    }.get(of, "features=0,10,..,50 or injection.attn_tail=hard,adaptive")


def _refuse_unknown(name: str, key: str, of: str) -> None:
    known = sweepable(of)
    if key in known:
        return
    is_key = words.schema_at(tuple(key.split("."))) is not None
    is_learned = of == method.LEARNS
    hint = "" if is_key else did_you_mean(name, [*SHORT_NAMES, *known] if is_learned else known)
    usable = f"{', '.join(SHORT_NAMES)}, sampling.start or a key of injection but preset"
    raise RecipeError(
        f"--sweep {name}: {'cannot be swept' if is_key else 'there is no such setting'}"
        + ("" if is_learned else f" with the method {of}"),
        fix=f"{hint}use {usable if is_learned else 'a key of ' + method.SECTIONS[of]}",
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(given: Sequence[object]) -> tuple[float, ...] | None:
    if all(isinstance(v, str) and _NUMBER.fullmatch(v.removesuffix(SHARE)) for v in given):
        return tuple(float(str(v).removesuffix(SHARE)) for v in given)
    numbers = [float(v) for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    return tuple(numbers) if len(numbers) == len(given) else None
