"""How the suite executes annotations: beartype, with this project's few allowances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_check = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # a whole number is a float, as for every static checker
        # Only meaningful on decorated classes, and what is decorated here are functions.
        hint_overrides=FrozenDict({Self: Any}),
    )
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The type checker that jaxtyping's import hook applies to every function of the package."""
    try:
        return _check(function)
    except BeartypeDecorHintPep3119Exception:  # a protocol that is not runtime-checkable
        return function
