"""The table of similarities as files: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts import store, tables
from stylecli.artifacts.files import to_json, write_atomic
from stylecli.engine.analysis.cases import Cell, pooled
from stylecli.engine.analysis.order import IN_WORDS, Gap, Mean, Order, orders, signed
from stylecli.errors import OutputDiffersError

TABLE, PAGE = "similarity.json", "similarity.md"
METRIC_NOTES = {
    "position": "position: the mean over positions of the cosine between the two vectors there",
    "flat": "flat: the cosine of the two maps as one long vector each",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One table for all pictures of a run.

    Attributes:
        key: Digest of everything that the whole table is made from.
        command: What makes it again; None leaves out what made it.
        seed: Of the resampling.
    """

    folder: Path
    key: str
    command: str | None
    seed: int

    @property
    def table(self) -> Path:
        return self.folder / TABLE

    @property
    def page(self) -> Path:
        return self.folder / PAGE

    def refuse_foreign(self) -> None:
        """See that nothing of others is in the way; a table of fewer pictures is replaced.

        Raises:
            OutputDiffersError: A file is there that is no table.
        """
        for file in (self.table, self.page):
            if file.exists() and not _is_table(self.table):
                raise OutputDiffersError(
                    f"{file} exists and is no table of similarities",
                    fix="use --overwrite, or another --output",
                )

    def write(self, files: Sequence[Path], asked: int) -> list[Order]:
        """Pool the files of the pictures that are done and write both files.

        Args:
            files: Of the pictures; at least one.
            asked: How many pictures there are to be.

        Raises:
            ItemError: A picture's file is not whole, or the table cannot be written.
        """
        found = orders(pooled(files), self.seed)
        first = store.read_provenance(files[0])
        sentences = [order.sentence() for order in found]
        missing = asked - len(files)
        said: dict[str, Any] = {
            "kind": "similarity",
            "pictures": {"asked": asked, "measured": len(files)},
            "sentences": sentences,
            "orders": [_row(order) for order in found],
        }
        if self.command is not None and first is not None:
            # As its pictures say, of which this is a summary.
            shared = ("schema_version", "command", "recipe", "versions", "model", "analysis")
            made_by = {name: first.get(name) for name in shared}
            said |= {store.KEY: made_by | {"key": self.key}, "command": self.command}
        pages = [_table(order) for order in found]
        texts = [
            f"{tables.markdown(page)}\n{sentence}\n"
            for page, sentence in zip(pages, sentences, strict=True)
        ]
        if missing:
            texts.append(f"{missing} of {asked} pictures are not measured.\n")
        # The table first: it says of the page beside it that it is ours.
        write_atomic(self.table, to_json(said).encode() + b"\n")
        write_atomic(self.page, "\n".join(texts).encode())
        return found


def _is_table(file: Path) -> bool:
    try:
        said = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("kind") == "similarity"


def _table(order: Order) -> tables.Table:
    layers = list(dict.fromkeys(mean.cell.layer for mean in order.means))
    rows = [
        tables.Row(label, "method", tuple(_cell(of_layer[layer]) for layer in layers))
        for label, of_layer in _by_label(order.means).items()
    ]
    if order.gaps:
        label = f"in less out{', paired' if order.gaps[0].paired else ''}"
        rows.append(tables.Row(label, "method", tuple(map(_gap, order.gaps))))
    return tables.Table(
        f"Similarity to the base model's features, {order.level}, {order.metric}",
        tuple(tables.Column(f"layer {layer}") for layer in layers),
        tuple(rows),
        (
            "mean ± standard deviation over cases [95 % interval of the mean, over pictures]",
            METRIC_NOTES[order.metric],
        ),
        corner="pictures",
    )


def _by_label(means: Sequence[Mean]) -> dict[str, dict[int, Mean]]:
    found: dict[str, dict[int, Mean]] = {}
    for mean in means:
        label = f"{IN_WORDS[mean.domain]}, {mean.lora}" if mean.lora else IN_WORDS[mean.domain]
        found.setdefault(label, {})[mean.cell.layer] = mean
    return found


def _cell(mean: Mean) -> tables.Cell:
    one = mean.mean
    text = f"{one.value:.4f}"
    if not math.isnan(one.low):
        text += f" ± {mean.std:.4f} [{one.low:.4f}, {one.high:.4f}]"
    return tables.Cell(text=text, n=mean.n)


def _gap(gap: Gap) -> tables.Cell:
    return tables.Cell(text=signed(gap.difference))


def _row(order: Order) -> dict[str, Any]:
    return {
        **asdict(order.level),
        "metric": order.metric,
        "holds": order.holds,
        "is_clear": order.is_clear,
        "means": [
            {
                "layer": one.cell.layer,
                "domain": one.domain,
                "lora": one.lora or None,
                "n": one.n,
                "mean": one.mean.value,
                "std": one.std,
                "low": one.mean.low,
                "high": one.mean.high,
            }
            for one in order.means
        ],
        "in_less_out": [
            {**_place(one.cell), "paired": one.paired, **asdict(one.difference)}
            for one in order.gaps
        ],
        "falls": [
            {
                **_place(one.cell),
                "deeper": one.deeper,
                "domain": one.domain,
                **asdict(one.difference),
            }
            for one in order.falls
        ],
    }


def _place(cell: Cell) -> Mapping[str, Any]:
    return {"layer": cell.layer}
