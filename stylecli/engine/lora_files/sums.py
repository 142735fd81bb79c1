"""What the header of a sum of LoRAs keeps of theirs."""

from __future__ import annotations

from collections.abc import Sequence

from stylecli.backbone import lora_algebra
from stylecli.backbone.lora_layouts import Lora
from stylecli.backbone.row_loras import Pairs
from stylecli.engine.i2l.header import Header

TRIGGER = "modelspec.trigger_phrase"
# What sums keep where all have the same, and what is of one file alone.
SHARED = ("modelspec.architecture", "modelspec.sai_model_spec", "ss_base_model_version", "ss_v2")


def entries(
    loras: Sequence[Lora],
    predictions: Sequence[Header | None],
    weights: Sequence[float],
    pairs: Pairs,
) -> dict[str, str]:
    """What a sum says for those who load it."""
    kept = {}
    for key in SHARED:
        said = {one.header.get(key) for one in loras}
        if len(said) == 1 and (value := said.pop()):
            kept[key] = value
    captions = dict.fromkeys(one.header.get(TRIGGER) for one in loras)
    if caption := ", ".join(filter(None, captions)):
        kept[TRIGGER] = caption
    return kept | _of_prediction(predictions, weights, pairs)


def _of_prediction(
    predictions: Sequence[Header | None], weights: Sequence[float], pairs: Pairs
) -> dict[str, str]:
    """What a sum of predictions says of their predictor, if it is one."""
    known = [one for one in predictions if one is not None]
    if len(known) < len(predictions) or len({one.predictor_sha256 for one in known}) > 1:
        return {}
    most = max(known, key=lambda one: one.n_refs)
    scale = sum(weight * one.scale_folded for weight, one in zip(weights, known, strict=True))
    return Header(
        kind="mix",
        predictor_sha256=most.predictor_sha256,
        backbone=most.backbone,
        backbone_revision=most.backbone_revision,
        rank=max(len(a) for a, _ in pairs.values()),
        scale_folded=scale,
        n_refs=most.n_refs,
        refs=tuple(dict.fromkeys(ref for one in known for ref in one.refs)),
        sizes=most.sizes,
        exclude_refiners=all(one.exclude_refiners for one in known),
        norms={path: float(f"{norm:.4g}") for path, norm in lora_algebra.norms(pairs).items()},
    ).entries()
