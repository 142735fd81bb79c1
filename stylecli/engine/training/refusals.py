"""What no training through a frozen model can be asked."""

from __future__ import annotations

import torch

from stylecli.engine.request import Destination
from stylecli.engine.session import Session
from stylecli.errors import UsageError


def refuse_engine(destination: Destination, made: str) -> None:
    """See that the work is not shared out as items are.

    Args:
        made: What is trained, in words.

    Raises:
        UsageError: It is to be.
    """
    if destination.engine != "local":
        raise UsageError(
            f"--engine {destination.engine} shares out items, and this makes {made}",
            fix="start several processes with accelerate launch or torchrun",
        )


def refuse_float16(session: Session, made: str) -> None:
    """See that gradients can pass the whole model: in float16 the smallest would be none.

    Raises:
        UsageError: They cannot.
    """
    if session.context.dtype == torch.float16:
        raise UsageError(
            f"{made} cannot be trained through a model in float16, whose gradients vanish",
            fix="--dtype bfloat16, or float32",
        )
