"""From what a model would say next to yes, no, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

# All the ways a model begins to say one of the two.
YES = ("yes", "Yes", "YES", " yes", " Yes", " YES")
NO = ("no", "No", "NO", " no", " No", " NO")
MOST_ELSEWHERE = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """How likely yes is, of yes and no together.

    Attributes:
        elsewhere: The probability of saying anything else.
    """

    yes: float
    elsewhere: float

    @property
    def is_yes(self) -> bool:
        return self.yes > 0.5

    @property
    def is_missing(self) -> bool:
        """Whether the model would rather say something else, which is not a no."""
        return not self.elsewhere <= MOST_ELSEWHERE


def answer(logits: Float[Tensor, " v"], yes: Sequence[int], no: Sequence[int]) -> Answer:
    """Read the first word of an answer.

    Args:
        logits: Of the first generated position.
        yes: Tokens that are a yes.
        no: Tokens that are a no.

    >>> import torch
    >>> found = answer(torch.tensor([2.0, 0.0, 0.0]).log_softmax(0), [0], [1])
    >>> round(found.yes, 3), round(found.elsewhere, 3)
    (0.881, 0.107)
    """
    likely = logits.double().softmax(dim=0)
    said_yes, said_no = float(likely[list(yes)].sum()), float(likely[list(no)].sum())
    both = said_yes + said_no
    return Answer(said_yes / both if both else 0.5, 1 - both)
