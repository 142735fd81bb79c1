"""All metrics by name, and the presets that papers report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stylecli.errors import UsageError, did_you_mean
from stylecli.evaluation.catalogue import (
    content,
    judging,
    leaks,
    overall,
    regions,
    sets,
    style,
    targets,
    taste,
    words,
)
from stylecli.evaluation.metric import Metric

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for module in (content, style, words, taste, regions, judging, leaks, targets, sets, overall)
    for metric in module.ROWS
}

_FREE = ("ssim", "psnr", "edge_correlation", "delta_e", "color_hist", "color_sw")
_POCKET = (
    "pocket-lpips",
    "pocket-gram",
    "pocket-clip-style",
    "pocket-clip-text",
    "pocket-fid",
    "pocket-kid",
    "pocket-artfid",
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    "core": ("lpips", *_FREE, "fid", "kid", "clip_i_style", *_POCKET),
    "pocket": (*_FREE, *_POCKET),
    # What the papers print, and behind it what says more: see `docs/evaluation.md`.
    "diffstyler": (
        *("artfid", "fid_art", "fid", "kid", "lpips", "clip_i_style", "clip_t_style"),
        *("csd_csls", "gram_rel", "cmmd"),
    ),
    "stylegallery": (
        *("style_match", "gram", "gram_rel", "fid_art", "fid", "kid", "lpips", "artfid"),
        *("csd_csls", "cmmd"),
    ),
    "features": (
        *("csd_csls", "gram_rel", "kid", "csd", "csd_max", "clip_i_style", "dinov2_gram"),
        *("dino_structure", "dinov2_content", "cas", "cmmd", "cmmd_u", "fd_dinov2"),
    ),
    "regionroute": (
        *("rsm", "rsm_contrast", "rsm_gain", "lpips_bg", "lpips_bg_strict", "lpips_bg_band"),
        *("mse_bg", "mse_bg_pm1", "mse_bg_sum", "psnr_bg", "bg_shift"),
        *("vlm_q1", "vlm_q2", "vlm_q3", "vlm_q4", "vlm_loc"),
        *("pocket-rsm", "pocket-lpips-bg"),
    ),
    "i2l": (
        *("clip_text", "clip_style", "aesthetic", "pickscore", "imagereward", "hpsv2"),
        "hpsv3",
        "overall",
    ),
    "leakage": ("style_content_leak", "prompt_leak", "palette_leak", "region_leak", "pocket-leak"),
    "paired": tuple(name for name in METRICS if name.startswith(("t_", "t-"))),
    "all": tuple(METRICS),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Metrics to compute, in order; those asked for by name must be computable."""

    metrics: tuple[Metric, ...]
    named: frozenset[str] = field(default_factory=frozenset)


def choose(preset: str, words: Sequence[str] = ()) -> Chosen:
    """A preset with metrics added (``name``) or left out (``-name``); names alone replace it.

    Raises:
        UsageError: An unknown name.

    >>> [metric.name for metric in choose("core", ["ssim", "fid"]).metrics]
    ['ssim', 'fid']
    >>> "lpips" in [metric.name for metric in choose("core", ["-lpips"]).metrics]
    False
    """
    for word in words:
        lookup(word.lstrip("+-"))
    plain = [word for word in words if word[0] not in "+-"]
    dropped = {word[1:] for word in words if word[0] == "-"}
    added = [word[1:] for word in words if word[0] == "+"]
    names = dict.fromkeys([*(plain or PRESETS[preset]), *added])
    kept = tuple(METRICS[name] for name in names if name not in dropped)
    if not kept:
        raise UsageError("no metric is left", fix="`style evaluate --metrics list` shows them")
    return Chosen(kept, frozenset([*plain, *added]) - dropped)


def lookup(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UsageError: There is none; the nearest is suggested.
    """
    if name in METRICS:
        return METRICS[name]
    hint = did_you_mean(name, METRICS)
    raise UsageError(
        f"no metric is called {name!r}", fix=f"{hint}`style evaluate --metrics list` shows them"
    )
