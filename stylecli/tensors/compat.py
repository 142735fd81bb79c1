"""torchvision's operator schemas, for torch builds its binary does not fit.

A CUDA build of torchvision beside a CPU build of torch cannot load its compiled operators; its
Python side then registers fake kernels for operators that do not exist, and every later ``import
diffusers`` ends in "operator torchvision::nms does not exist". Nothing here uses those operators,
so their schemas are enough. A pair that fits never sees this module do anything.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The definitions live as long as this object does.
_library: list[torch.library.Library] = []


@cache
def ensure_torchvision() -> Literal["native", "shimmed", "absent"]:
    """Make ``import torchvision`` safe; call it before anything else imports it.

    Returns:
        ``native`` when its own binary loads, ``shimmed`` when the schemas were defined here,
        ``absent`` when torchvision is not installed.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return "absent"
    if _has_operator("nms"):
        return "native"
    folder = Path(spec.origin).parent
    for binary in sorted((*folder.glob("_C*.so"), *folder.glob("_C*.pyd"))):
        try:
            torch.ops.load_library(str(binary))
        except OSError:
            continue
        if _has_operator("nms"):
            return "native"
    # A fragment adds to what may be there; only one owner could define the whole.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        if not _has_operator(schema.partition("(")[0]):
            library.define(schema)
    _library.append(library)
    return "shimmed"


def _has_operator(name: str) -> bool:
    return hasattr(torch.ops.torchvision, name)
