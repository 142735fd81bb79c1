"""Fixed ranges of metrics, which make an overall score comparable between runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

from stylecli.errors import InputError

EXAMPLE = 'such as {"clip_text": [0.1, 0.4], "aesthetic": [4, 7]}'


def load(path: Path) -> dict[str, tuple[float, float]]:
    """Metric -> lowest and highest value.

    Raises:
        InputError: It cannot be read, or says something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or f"no JSON: {error}"
        raise InputError(f"evaluate.overall_ref {path}: {reason}", fix=EXAMPLE) from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"evaluate.overall_ref {path}: no table of ranges", fix=EXAMPLE)
    return {name: _range(path, name, limits) for name, limits in found.items()}


def _range(path: Path, name: str, limits: object) -> tuple[float, float]:
    pair = limits if isinstance(limits, list) else []
    # True is an int to Python, and no limit.
    if len(pair) == 2 and all(type(limit) in (int, float) for limit in pair):
        low, high = float(pair[0]), float(pair[1])
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise InputError(
        f"evaluate.overall_ref {path}: {name} is {json.dumps(limits)}, not [LOW, HIGH]", fix=EXAMPLE
    )
