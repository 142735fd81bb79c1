"""Settings by the name of the paper, or of the code, that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stylecli.recipe.layers import Entry
from stylecli.recipe.source import Path

_AAAI: dict[str, Any] = {
    # As many as the sampler's, of which the papers have 50; thresholds are shares of them.
    "inversion.steps": None,
    "injection.feature_layers": "anchor",
    "injection.feature_tap": "residual",
    "injection.feature_steps": "60%",
    "injection.attn_layers": "from_anchor",
    "injection.attn_cross": "none",
    "injection.attn_steps": "50%",
    "injection.attn_tail": "adaptive",
    "injection.attn_mix": "probs",
    "injection.source": "replay",
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # DiffStyler, AAAI 2026, with eq. 5 counted in steps.
    "aaai26": _AAAI,
    # The same to the letter: the source denoised by its own path, eq. 5 as printed.
    "paper": _AAAI | {"injection.attn_tail": "printed", "injection.source": "denoise"},
    # DiffStyler's first arXiv version.
    "v1": _AAAI
    | {
        "inversion.steps": 999,
        "injection.feature_layers": "from_anchor",
        "injection.attn_layers": "all",
        "injection.attn_cross": "all",
        "injection.attn_tail": "hard",
    },
    # What a LoRA alone does from the content's noise.
    "plain_lora": _AAAI
    | {
        "injection.feature_layers": "none",
        "injection.feature_steps": 0,
        "injection.attn_layers": "none",
        "injection.attn_steps": 0,
        "injection.attn_tail": "hard",
    },
}
ACCELERATED: Mapping[str, Mapping[str, Any]] = {
    "base": {
        "gallery.steps": 150,
        "gallery.iterations": 1,
        "gallery.lr": 0.05,
        "gallery.content_weight": 0.26,
        "gallery.timesteps": "leading",
    },
    "lcm": {
        "gallery.steps": 28,
        "gallery.iterations": 3,
        "gallery.lr": 0.25,
        "gallery.content_weight": 0.33,
        "gallery.timesteps": "lcm",
    },
    "hyper": {
        "gallery.steps": 28,
        "gallery.iterations": 3,
        "gallery.lr": 0.15,
        "gallery.content_weight": 0.38,
        "gallery.timesteps": "trailing",
    },
}
# What their code and our defaults have in common is said too: a recipe may have it otherwise.
_PUBLISHED: dict[str, Any] = {
    **ACCELERATED["base"],
    "dfcc.steps": 15,
    "dfcc.block": 2,
    "dfcc.components": 60,
    "dfcc.k_min": 2,
    "dfcc.k_max": 10,
    "dfcc.k": None,
    "dfcc.merge_distance": 0.85,
    "dfcc.segment_distance": 0.5,
    "dfcc.depth_span": 0.75,
    "dfcc.depth_distance": 0.35,
    "dfcc.depth_gap": 0.3,
    "dfcc.segmenter": "none",
    "dfcc.min_cells": 20,
    "matching.statistics_weight": 0.25,
    "matching.semantics_weight": 1.0,
    "matching.geometry_weight": 0.125,
    "matching.diversity": 0.0,
    "gallery.style_weight": 1.0,
    "gallery.attn_scale": 1.5,
    "gallery.layers": "last_six",
    "gallery.content_attn": "full",
    "gallery.masks": True,
    "gallery.refresh": 1,
}
PROFILES: Mapping[str, Mapping[str, Any]] = {
    # What the recipe says without.
    "sound": {},
    # The equation as it is printed: each step of a sampler is corrected.
    "paper": {"gallery.mode": "guided", "gallery.steps": 50, "gallery.content_weight": 0.25},
    # What the authors' code does, switch by switch.
    "reference": _PUBLISHED
    | {
        "dfcc.pca": "random",
        "dfcc.k_means": "random",
        "dfcc.merge": "ordered",
        "dfcc.depth_resize": "nearest",
        "dfcc.sweep": "once",
        "matching.statistics": "transformer",
        "matching.features": "raw",
        "matching.semantics_view": "centre",
        "matching.circle": "centroid",
        "gallery.mode": "optimize",
        "gallery.mask_mode": "zero",
        "gallery.key_masks": "nearest",
        "gallery.init": "inv_chnorm",
        "gallery.fit": "squash",
        "gallery.alpha": "drop",
    },
}
ROUTE: Mapping[str, Mapping[str, Any]] = {
    "sound": {},
    # Where the paper's text says nothing: its code.
    "paper": {
        "route.train.times": "even",
        "route.apply.guidance": 3.5,
    },
    # Its code, less its mistakes: maps are still of a softmax over all keys, each pair is still
    # compared with its own mask, and instructions are as long in training as they are in use.
    "reference": {
        "route.train.times": "even",
        "route.train.steps": 10_000,
        "route.loss.cover_weight": 5e-5,
        "route.loss.focus": "raw",
        "route.loss.tau": 0.1,
        "route.loss.cover": "scaled",
        "route.loss.gamma": 2.0,
        "route.loss.balance": "mean",
        "route.loss.per_layer": True,
        "route.data.templates": "canonical",
        "route.apply.guidance": 3.5,
    },
}
# Keys that stand for others; what a later one says lies on top.
BUNDLES: Mapping[Path, Mapping[str, Mapping[str, Any]]] = {
    ("injection", "preset"): PRESETS,
    ("gallery", "profile"): PROFILES,
    ("gallery", "preset"): ACCELERATED,
    ("route", "profile"): ROUTE,
}
_PROFILE, _PRESET = ("gallery", "profile"), ("gallery", "preset")
_ROUTE = ("route", "profile")
_SECTIONS = {path[:1] for path in BUNDLES}


def layered(below: Iterable[Entry], above: Iterable[Entry]) -> list[Entry]:
    """A recipe's entries and what was said beside it, each over what its own presets stand for.

    A profile that is named beside a recipe takes the place of the recipe's, and lies beneath the
    preset that is in force, wherever that was named.
    """
    first = [leaf for entry in below for leaf in _leaves(entry)]
    then = [leaf for entry in above for leaf in _leaves(entry)]
    if any(entry.path == _PROFILE for entry in then):
        then = [entry for entry in first if entry.path == _PRESET] + then
        first = [entry for entry in first if entry.path != _PROFILE]
    if any(entry.path == _ROUTE for entry in then):
        first = [entry for entry in first if entry.path != _ROUTE]
    return expanded(first) + expanded(then)


def expanded(layer: Iterable[Entry]) -> list[Entry]:
    """One layer with what its presets stand for laid beneath its own values."""
    own = [leaf for entry in layer for leaf in _leaves(entry)]
    said = {entry.path: entry for entry in own if entry.path in BUNDLES}
    beneath = [
        replace(said[path], path=tuple(key.split(".")), value=value, origin=_origin(said[path]))
        for path, bundles in BUNDLES.items()
        if path in said and isinstance(said[path].value, str)
        for key, value in bundles.get(said[path].value, {}).items()
    ]
    return beneath + own


def _leaves(entry: Entry) -> list[Entry]:
    """A section given as one value, key by key, so that its presets lie beneath the others."""
    if entry.path not in _SECTIONS or not isinstance(entry.value, dict) or not entry.value:
        return [entry]
    return [
        replace(entry, path=(*entry.path, key), value=value) for key, value in entry.value.items()
    ]


def _origin(entry: Entry) -> str:
    return f"{entry.path[-1]} {entry.value} of {entry.origin}"
