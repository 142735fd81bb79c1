"""A folder as `style evaluate` leaves it, made by hand: what a page of it has to show is known."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.conftest import draw

METRICS = {
    "ssim": {"kind": "row", "group": "Content kept", "better": "higher", "definition": "alike"},
    "color_sw": {"kind": "row", "group": "Style reached", "better": "lower", "definition": "far"},
    "fid": {"kind": "set", "group": "All", "better": "lower", "definition": "Fréchet"},
}


def digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Judged:
    folder: Path
    pictures: Path
    rows: Sequence[Mapping[str, Any]]

    def record(self, **changes: object) -> None:
        """Change what `aggregate.json` says."""
        path = self.folder / "aggregate.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def judged(root: Path, numbers: Mapping[str, Sequence[float]], *, compared: bool = True) -> Judged:
    """Methods with their SSIMs, item by item; NaN is a row without a value."""
    pictures, folder = root / "pictures", root / "report"
    folder.mkdir(parents=True)
    style = draw(pictures / "ink.png", 99)
    rows = []
    for m, (method, values) in enumerate(numbers.items()):
        for n, value in enumerate(values):
            content = pictures / f"photo {n}.png"
            if not content.exists():
                draw(content, n)
            output = draw(pictures / method / f"{n}.png", 100 * (m + 1) + n)
            known = {} if math.isnan(value) else {"ssim": value, "color_sw": 10 * value}
            rows.append(
                {
                    "id": f"photo {n}__ink",
                    "method": method,
                    "output": output.name,
                    "content": content.name,
                    "style": [style.name],
                    "output_hash": digest(output),
                    "content_hash": digest(content),
                    "style_hash": [digest(style)],
                    **known,
                    "reasons": {} if known else {"ssim": "too small"},
                    "status": "done",
                }
            )
            rows.append({**rows[-1], "method": "content_copy", "output": None, "ssim": 1.0})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "per_image.jsonl").write_text(text)
    methods = [*numbers, "content_copy"]
    record = {
        "schema_version": 1,
        "metrics": {**METRICS, "lpips": {"kind": "row", "unavailable": "needs alexnet"}},
        "methods": {name: _figures(numbers.get(name, [1.0])) for name in methods},
        "compared": list(numbers)[:2] if compared else None,
        "comparisons": [_comparison("ssim", 0.2), _comparison("color_sw", 2.0)] if compared else [],
    }
    (folder / "aggregate.json").write_text(json.dumps(record))
    return Judged(folder, pictures, rows)


def _figures(values: Sequence[float]) -> dict[str, Any]:
    known = [value for value in values if not math.isnan(value)]
    mean = sum(known) / len(known)
    one = {"value": mean, "ci_low": mean - 0.1, "ci_high": mean + 0.1, "n": len(known)}
    scaled = {
        "value": 10 * mean,
        "ci_low": 10 * mean - 1,
        "ci_high": 10 * mean + 1,
        "n": len(known),
    }
    return {
        "ssim": one | {"n_missing": len(values) - len(known)},
        "color_sw": scaled,
        "fid": {"value": None, "reason": "1 outputs and 1 styles; two of each are needed"},
    }


def _comparison(metric: str, difference: float) -> dict[str, Any]:
    return {
        "metric": metric,
        "difference": {"value": difference, "low": difference / 2, "high": 1.5 * difference},
        "p_holm": 0.01,
        "effect": 1.5,
        "win_rate": 0.75,
    }
