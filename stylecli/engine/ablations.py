"""The ablations of both versions of DiffStyler, with the trends their figures are there to show.

Thresholds are the papers' shares of ``sampling.steps``, layers are the papers'; what the recipe
itself sets about injection plays no part. Strength, guidance, start and inversion are the recipe's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stylecli.engine.grids import Axis, Changes, Claim, Figure, build
from stylecli.errors import UsageError, did_you_mean
from stylecli.recipe.presets import PRESETS
from stylecli.recipe.schema import Recipe
from stylecli.recipe.timeline import in_steps

# Of the papers' sampler, in which their thresholds are counted.
STEPS = 50
NO_FEATURES: dict[str, Any] = {"injection.feature_layers": "none", "injection.feature_steps": 0}
NO_CROSS: dict[str, Any] = {"injection.attn_cross": "none"}
NO_ATTENTION: dict[str, Any] = {
    "injection.attn_layers": "none",
    "injection.attn_cross": "none",
    "injection.attn_steps": 0,
    "injection.attn_tail": "hard",
}
# A LoRA of no strength is the base model, whose words may still be the LoRA's.
NO_LORA: dict[str, Any] = {"sampling.weight": 0.0}
NO_PROMPT: dict[str, Any] = {"sampling.prompt": "", "sampling.prompt_from_style": False}
Parts = tuple[Sequence[Axis], Sequence[Changes], Sequence[Claim]]


def ablate(recipe: Recipe, name: str) -> Figure:
    """The figure of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in ABLATIONS:
        raise UsageError(
            f"--ablate {name}: there is no such figure",
            fix=f"{did_you_mean(name, ABLATIONS)}known: {', '.join(ABLATIONS)}",
        )
    axes, changes, claims = ABLATIONS[name](recipe.sampling.steps)
    return build(name, recipe, axes, changes, place=f"--ablate {name}", claims=claims)


def scaled(of_fifty: int, steps: int) -> int:
    """A threshold of the papers on another grid, half a step rounded up.

    >>> scaled(25, 50), scaled(30, 7), scaled(50, 7)
    (25, 4, 7)
    """
    return math.floor(of_fifty * steps / STEPS + 0.5)


def _preset(name: str, steps: int) -> dict[str, Any]:
    """The settings of injection of a preset."""
    return {
        key: in_steps(value, steps) if key.endswith("_steps") else value
        for key, value in PRESETS[name].items()
        if key.startswith("injection.")
    }


def _components(steps: int) -> Parts:
    """Figure 7 of the AAAI paper; which columns it has exactly is our reading of it."""
    both, plain = _preset("aaai26", steps), _preset("plain_lora", steps)
    columns = {
        "LoRA only": plain,
        "+ features": both | NO_ATTENTION,
        "+ attention": both | NO_FEATURES,
        "PartialAttn": both | {"injection.attn_tail": "hard"},
        "FullAttn": both | {"injection.attn_tail": "full"},
        "adaptive": both,
    }
    at = {label: (number,) for number, label in enumerate(columns)}

    def keeps(more: str, less: str) -> Claim:
        says = f"{more} keeps more content than {less}"
        return Claim(says, "content_kept", (at[less], at[more]), rises=True)

    claims = [
        keeps("+ features", "LoRA only"),
        keeps("+ attention", "LoRA only"),
        keeps("adaptive", "+ features"),
        keeps("adaptive", "+ attention"),
        keeps("adaptive", "PartialAttn"),
        _nearer(at, "adaptive", "FullAttn"),
    ]
    return [Axis("component", tuple(columns))], list(columns.values()), claims


def _first_version(steps: int) -> Parts:
    """Figure 6 of the first version: what is injected, by what brings the style.

    F are features, SA and CA self- and cross-attention, in that version's layers and with its hard
    end. SD is the base model under the empty prompt; a prompt is ``sampling.prompt``, or else the
    LoRA's own.
    """
    v1 = _preset("v1", steps)
    rows = {
        "none": _preset("plain_lora", steps),
        "F": v1 | NO_ATTENTION,
        "F+SA": v1 | NO_CROSS,
        "F+SA+CA": v1,
    }
    columns: dict[str, dict[str, Any]] = {
        "SD": NO_LORA | NO_PROMPT,
        "+LoRA": NO_PROMPT,
        "+prompt": NO_LORA,
        "+both": {},
    }
    width = len(columns)
    of_rows = tuple(tuple(range(row * width, (row + 1) * width)) for row in range(len(rows)))
    first, *_, last = (tuple(range(n, width * len(rows), width)) for n in range(width))
    claims = [
        Claim(
            f"{' < '.join(rows)} in content kept, mean of each row",
            "content_kept",
            of_rows,
            rises=True,
        ),
        Claim(
            "+both is nearer to the style than SD, mean of each column",
            "from_style",
            (first, last),
            rises=False,
        ),
    ]
    axes = [Axis("injection", tuple(rows)), Axis("model", tuple(columns))]
    return axes, [row | column for row in rows.values() for column in columns.values()], claims


def _fading(steps: int) -> Parts:
    """Figure 8 of the AAAI paper: attention that stops, that never stops, and that fades."""
    settings = _preset("aaai26", steps)

    def attention(of_fifty: int, tail: str) -> dict[str, Any]:
        return settings | {
            "injection.attn_steps": scaled(of_fifty, steps),
            "injection.attn_tail": tail,
        }

    stopped, whole = (f"attention {scaled(n, steps)}/{steps}" for n in (30, 50))
    columns = {
        stopped: attention(30, "hard"),
        whole: attention(50, "full"),
        "adaptive": settings,
    }
    at = {label: (number,) for number, label in enumerate(columns)}
    keeps = Claim(
        f"adaptive keeps more content than {stopped}",
        "content_kept",
        (at[stopped], at["adaptive"]),
        rises=True,
    )
    return (
        [Axis("attention", tuple(columns))],
        list(columns.values()),
        [keeps, _nearer(at, "adaptive", whole)],
    )


def _nearer(at: Mapping[str, tuple[int]], near: str, far: str) -> Claim:
    says = f"{near} is nearer to the style than {far}"
    return Claim(says, "from_style", (at[far], at[near]), rises=False)


ABLATIONS: Mapping[str, Callable[[int], Parts]] = {
    "aaai": _components,
    "v1": _first_version,
    "adaptive": _fading,
}
