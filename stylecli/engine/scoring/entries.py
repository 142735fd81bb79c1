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
        family: `style_family`, where the item has one.
        features: Metric -> keys in the store, of the output and of the styles; only of those that
            look at features of many rows, and that this row can count for.
        reasons: Metric -> why it has no value here.
    """

    id: str
    method: str
    content: str
    style: str
    values: Mapping[str, float]
    features: Mapping[str, tuple[str, ...]]
    reasons: Mapping[str, str]
    family: str = ""

    @classmethod
    def of(cls, scored: Scored, bench: Bench) -> Entry:
        """Of a scored case."""
        case = scored.case
        extractors = {m.name: m.fid or m.similar for m in bench.metrics if m.fid or m.similar}
        # Made once for the metrics that share them: there may be a hundred thousand rows.
        keys = {
            extractor: tuple(
                bench.feature_key(extractor, shot) for shot in (case.output, *case.styles)
            )
            for extractor in dict.fromkeys(extractors.values())
        }
        return cls(
            id=case.item.id,
            method=case.method,
            content=case.item.content_group or (case.content.key if case.content else case.item.id),
            style=case.item.style_family or digest([shot.key for shot in case.styles]),
            values=scored.values,
            features={
                name: keys[extractor]
                for name, extractor in extractors.items()
                if name not in scored.reasons
            },
            reasons=scored.reasons,
            family=case.item.style_family,
        )
