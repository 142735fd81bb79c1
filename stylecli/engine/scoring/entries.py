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
        features: Set metric -> keys in the store, of the output and of the styles; only of those
            that this row can count for.
        reasons: Metric -> why it has no value here.
    """

    id: str
    method: str
    content: str
    style: str
    values: Mapping[str, float]
    features: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]

    @classmethod
    def of(cls, scored: Scored, bench: Bench) -> Entry:
        """Of a scored case."""
        case = scored.case
        return cls(
            id=case.item.id,
            method=case.method,
            content=case.item.content_group or (case.content.key if case.content else case.item.id),
            style=case.item.style_family or digest([shot.key for shot in case.styles]),
            values=scored.values,
            features={
                metric.name: tuple(
                    bench.feature_key(metric.fid, shot) for shot in (case.output, *case.styles)
                )
                for metric in bench.metrics
                if metric.kind == "set" and metric.name not in scored.reasons
            },
            reasons=scored.reasons,
        )
