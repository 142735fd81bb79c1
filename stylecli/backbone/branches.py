"""A LoRA for each side of guidance, inside pipelines that are not ours.

Asymmetric guidance (i2L eq. 7-9) wants the style on the prompt's side and the neutral LoRA on the
other. Pipelines of diffusers lay their two sides out in three ways, and count guidance in two:

    layout     the model is called                        pipelines        paper's s is
    neg_pos    once, the negative rows first              SD, SDXL         guidance_scale
    pos_neg    once, the positive rows first              Z-Image          guidance_scale + 1
    two_calls  within `cache_context("cond")`, "uncond"   FLUX.2-klein     guidance_scale

Only calls of the model itself are changed. A ControlNet that borrows layers of the transformer, as
Z-Image's does with the refiners, sees the base in them unless it is named too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal, cast

from torch import nn

from stylecli.backbone import row_loras
from stylecli.backbone.row_loras import Factors
from stylecli.errors import UsageError

# How a pipeline asks for its two sides: in one batch, which first, or one after the other.
Layout = Literal["neg_pos", "pos_neg", "two_calls"]
Slots = Sequence[int | None]
# As pipelines name the two calls of a step.
SIDES = ("cond", "uncond")


def guidance_scale(layout: Layout, s: float) -> float:
    """What to give a pipeline of diffusers for the paper's scale; 1 is no guidance in both.

    >>> guidance_scale("pos_neg", 4.0)
    3.0
    """
    return s - 1 if layout == "pos_neg" else s


@contextmanager
def applied(
    model: nn.Module,
    factors: Factors,
    *,
    layout: Layout,
    positive: Slots,
    negative: Slots,
    sharing: Sequence[nn.Module] = (),
) -> Iterator[None]:
    """Inside, a pipeline's calls of `model` have one LoRA a picture and side; None is the base.

    A batch of half the rows is taken for the positive side: so a pipeline without guidance calls,
    and one that ends guidance before the last step. What PEFT has in use acts beside it.

    Args:
        model: The pipeline's UNet or transformer.
        factors: The LoRAs.
        layout: Of the pipeline's two sides.
        positive: The slot of each picture where the prompt counts.
        negative: Of each picture on the other side.
        sharing: Models that borrow layers of `model`, called with the same rows: a Z-Image
            ControlNet that shall have the LoRA in the refiners it shares.

    Raises:
        UsageError: Inside, the model is called with rows that are neither one nor two a picture, or
            outside both `cache_context`s; or a layer of the factors is none of this model's.
        ValueError: There are not as many positive slots as negative ones.
    """
    if len(positive) != len(negative):
        raise ValueError(f"{len(positive)} positive slots, {len(negative)} negative ones")
    with ExitStack() as stack:
        slots: Callable[[int], Slots]
        if layout == "two_calls":
            side = stack.enter_context(_noted(model))
            known = dict(zip(SIDES, (positive, negative), strict=True))
            slots = functools.partial(_of_side, side, known)
        else:
            pair = (negative, positive) if layout == "neg_pos" else (positive, negative)
            slots = functools.partial(_of_rows, positive, [*pair[0], *pair[1]])
        for called in (model, *sharing):
            stack.enter_context(_wrapped(called, model, factors, slots))
        yield


def _of_rows(positive: Slots, both: Slots, rows: int) -> Slots:
    known = {len(positive): positive, len(both): both}
    if rows not in known:
        raise UsageError(
            f"the model is called with {rows} rows for {len(positive)} pictures",
            fix="run the pipeline with as many pictures as LoRAs were given for",
        )
    return known[rows]


def _of_side(side: list[str], known: dict[str, Slots], rows: int) -> Slots:
    if not side or side[-1] not in known:
        raise UsageError(
            f"the model is called outside cache_context({SIDES[0]!r}) and ({SIDES[1]!r})",
            fix="this pipeline does not say which side of guidance it computes; use another",
        )
    slots = known[side[-1]]
    return _of_rows(slots, slots, rows)


@contextmanager
def _noted(model: Any) -> Iterator[list[str]]:
    """The names of the `cache_context`s that are open."""
    names: list[str] = []
    original: Callable[..., AbstractContextManager[None]] = model.cache_context

    @contextmanager
    def noting(name: str, **place: object) -> Iterator[None]:
        names.append(name)
        try:
            with original(name, **place):
                yield
        finally:
            names.pop()

    with _replaced(model, "cache_context", noting):
        yield names


@contextmanager
def _wrapped(
    called: nn.Module, model: nn.Module, factors: Factors, slots: Callable[[int], Slots]
) -> Iterator[None]:
    original = called.forward
    first = next(iter(inspect.signature(original).parameters))

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        # A tensor with a batch axis, or a list of samples.
        rows = len(args[0] if args else kwargs[first])
        with row_loras.applied(model, factors, slots(rows)):
            return original(*args, **kwargs)

    with _replaced(called, "forward", forward):
        yield


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """An attribute of the instance alone, put back as it was: also where there was none."""
    own = cast(dict[str, object], vars(owner))
    before = own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before
