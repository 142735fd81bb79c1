"""Settings of injection by the name of the paper they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stylecli.recipe.layers import Entry

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
KEY = ("injection", "preset")


def expanded(layer: Iterable[Entry]) -> list[Entry]:
    """One layer with what its preset stands for laid beneath its own values."""
    own = [leaf for entry in layer for leaf in _leaves(entry)]
    beneath = [
        replace(entry, path=tuple(key.split(".")), value=value, origin=_origin(entry))
        for entry in own
        if entry.path == KEY and isinstance(entry.value, str)
        for key, value in PRESETS.get(entry.value, {}).items()
    ]
    return beneath + own


def _leaves(entry: Entry) -> list[Entry]:
    """A section given as one value, key by key, so that its preset lies beneath the others."""
    if entry.path != KEY[:1] or not isinstance(entry.value, dict) or not entry.value:
        return [entry]
    return [
        replace(entry, path=(*entry.path, key), value=value) for key, value in entry.value.items()
    ]


def _origin(entry: Entry) -> str:
    return f"preset {entry.value} of {entry.origin}"
