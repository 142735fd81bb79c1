"""What steps of an optimiser have in common, whatever learns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylecli.engine.runs.processes import Team
from stylecli.errors import ItemError

# Numbers that processes add up in one message.
TOGETHER = 2**26


class Paced(Protocol):
    """Settings of a learning rate, of i2L or of RegionRoute."""

    @property
    def lr(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def schedule(self) -> str: ...
    @property
    def lr_end(self) -> float: ...
    @property
    def steps(self) -> int: ...


def learning_rate(settings: Paced, step: int) -> float:
    """Rises in a line, then stays or falls along half a cosine.

    >>> from stylecli.recipe.i2l import Train
    >>> one = Train(lr=0.1, warmup=2, steps=12, schedule="cosine")
    >>> [round(learning_rate(one, step), 3) for step in (0, 1, 2, 7, 12)]
    [0.05, 0.1, 0.1, 0.05, 0.0]
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    left = max(1, settings.steps - settings.warmup)
    share = min(1.0, (step - settings.warmup) / left)
    return settings.lr_end + (settings.lr - settings.lr_end) * (1 + math.cos(math.pi * share)) / 2


def middles(drawn: Float[Tensor, " n"], count: int) -> list[float]:
    """Values in the middles of equally likely parts of what was drawn.

    >>> middles(torch.arange(8.0), 2)
    [2.0, 6.0]
    """
    ordered = drawn.cpu().float().sort().values
    return [float(ordered[int((part + 0.5) * len(ordered) / count)]) for part in range(count)]


def prepare(
    optimiser: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    *,
    loss: float,
    rate: float,
    clip: float,
    step: int,
    section: str,
) -> float:
    """Cut gradients off at a norm and set the rate; the norm before.

    Args:
        clip: The norm.
        section: Of the recipe, for what is said.

    Raises:
        ItemError: The loss or the gradient is no number; nothing was changed that is kept.
    """
    norm = float(nn.utils.clip_grad_norm_(parameters, clip))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise ItemError(
            f"the loss is {loss} and its gradient {norm} at step {step}",
            fix=f"lower {section}.train.lr, or use --dtype float32",
        )
    for group in optimiser.param_groups:
        group["lr"] = rate
    return norm


def add_up(team: Team, parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over all processes; who has none gets zeros."""
    for part in _parts([_gradient(parameter) for parameter in parameters]):
        team.add_up(part)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _parts(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in order, as many at a time as a message holds."""
    part: list[Tensor] = []
    for tensor in tensors:
        if part and sum(one.numel() for one in part) + tensor.numel() > TOGETHER:
            yield part
            part = []
        part.append(tensor)
    yield part
