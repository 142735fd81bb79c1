"""Numbers that papers printed, with what one must know before looking at them.

They stand beside our own for orientation and are marked "reported" wherever they are printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from stylecli.errors import UsageError, did_you_mean

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "baselines"
PREFIX = "paper:"


@dataclass(frozen=True, slots=True)
class Published:
    """What a paper calls one of our metrics.

    Attributes:
        scale_known: False where the paper does not say enough to compute the same quantity:
            orders may be compared, sizes may not.
    """

    published_as: str
    better: Literal["higher", "lower"]
    scale_known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """One line of a paper's table; not every row has every metric.

    Attributes:
        std: Over pictures, where the paper prints it; no interval of the mean.
        digits: After the point, as printed.
        dataset: Empty where the paper has only one.
    """

    method: str
    values: Mapping[str, float]
    std: Mapping[str, float]
    digits: Mapping[str, int]
    dataset: str = ""
    is_ablation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The tables of one paper.

    Attributes:
        name: For `load`.
        metrics: By our names, in the paper's order.
    """

    name: str
    paper: str
    title: str
    venue: str
    protocol: str
    caveats: tuple[str, ...]
    metrics: Mapping[str, Published]
    rows: tuple[BaselineRow, ...]


def names() -> tuple[str, ...]:
    """All that `load` knows, without the prefix."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load(name: str) -> Baseline:
    """The tables of a paper, as ``diffstyler`` or ``paper:diffstyler``.

    Raises:
        UsageError: No such paper; the nearest is suggested and all are named.
    """
    wanted, known = name.removeprefix(PREFIX), names()
    if wanted not in known:
        hint = did_you_mean(wanted, known)
        raise UsageError(
            f"no published numbers are called {name!r}", fix=f"{hint}there are {', '.join(known)}"
        )
    # Decimals keep the digits that were printed: 0.20 is not 0.2.
    text = (FOLDER / f"{wanted}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return Baseline(
        name=wanted,
        paper=found["paper"],
        title=found["title"],
        venue=found["venue"],
        protocol=found["protocol"],
        caveats=tuple(found["caveats"]),
        metrics=MappingProxyType({k: Published(**v) for k, v in found["metrics"].items()}),
        rows=tuple(_row(row) for row in found["rows"]),
    )


def _row(found: Mapping[str, Any]) -> BaselineRow:
    return BaselineRow(
        method=found["method"],
        values=_floats(found["values"]),
        std=_floats(found.get("std", {})),
        digits=MappingProxyType({k: _digits(v) for k, v in found["values"].items()}),
        dataset=found.get("dataset", ""),
        is_ablation=found.get("is_ablation", False),
    )


def _floats(found: Mapping[str, Decimal | int]) -> Mapping[str, float]:
    return MappingProxyType({metric: float(value) for metric, value in found.items()})


def _digits(value: Decimal | int) -> int:
    return -int(Decimal(value).as_tuple().exponent)
