"""What a scored row leaves behind once its pictures are forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stylecli.artifacts.store import digest
from stylecli.engine.scoring.rows import Bench, Scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The part of a row that statistics need.

    Attributes:
        content: What tells contents apart: `content_group`, or the picture's digest.
        style: The same for styles.
        features: Extractor of a set metric -> keys in the store: the output's, the styles'.
    """

    id: str
    method: str
    content: str
    style: str
    values: Mapping[str, float]
    features: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, scored: Scored, bench: Bench) -> Entry:
        """Of a scored case; one that failed is in no set."""
        case = scored.case
        sets = {metric.fid for metric in bench.metrics if metric.kind == "set"}
        return cls(
            id=case.item.id,
            method=case.method,
            content=case.item.content_group or (case.content.key if case.content else case.item.id),
            style=case.item.style_family or digest([shot.key for shot in case.styles]),
            values=scored.values,
            features={
                extractor: tuple(
                    bench.feature_key(extractor, shot) for shot in (case.output, *case.styles)
                )
                for extractor in sorted(sets)
                if scored.error is None
            },
        )
