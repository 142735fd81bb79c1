"""HPSv2 (Wu et al. 2023): ViT-H/14, tuned on which of two pictures people preferred for a prompt.

The score is the plain cosine; its authors print it times a hundred. Pictures are shown whole, with
black bands (``PREPROCESS["letter224"]``): ports that crop the middle differ wherever a picture is
not square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stylecli.evaluation.clip import Clip, clip_network

SCALE = 100


def hpsv2(
    tensors: Mapping[str, Tensor], *, file: str, config: Mapping[str, Any] | None = None
) -> Clip:
    """The network from the tensors of its file, whose keys are open_clip's.

    Args:
        tensors: Of the table ``state_dict`` in the published file.
        file: For messages.
        config: Another architecture in open_clip's words, for tests.

    Raises:
        WeightsError: The file is of another network, or would be run with another activation.
    """
    return clip_network("hpsv2", tensors, file=file, config=config)
