"""What a predicted LoRA says of itself: enough to make the neutral LoRA that goes with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from stylecli.artifacts import files
from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.methods.i2l.files import Config

KEY = "style.i2l"
Kind = Literal["style", "neutral", "mix"]
# What sd-scripts, ComfyUI and model hubs call them.
_ARCHITECTURES = {"sd15": "stable-diffusion-v1", "sd21-base": "stable-diffusion-v2-512"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The entry `KEY` of a LoRA's header.

    Attributes:
        kind: From references, from grey pictures, or a sum of several LoRAs.
        scale_folded: What it was multiplied by.
        n_refs: How many references it is of; a mix, as many as the part with most of them.
        refs: SHA-256 of the references; empty where the file is not to say.
        sizes: Heights and widths of the references, where their shapes change what is seen of them.
        exclude_refiners: Layers that ControlNets of Z-Image borrow were left out.
        norms: Of ``B A``, by layer.
    """

    kind: Kind
    predictor_sha256: str
    backbone: str
    backbone_revision: str | None
    rank: int
    scale_folded: float
    n_refs: int
    refs: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    exclude_refiners: bool = False
    norms: Mapping[str, float] = field(default_factory=dict)

    def entries(self) -> dict[str, str]:
        """For the header of a safetensors file."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        architecture = _ARCHITECTURES.get(self.backbone, self.backbone)
        return {KEY: files.to_json(said), "modelspec.architecture": f"{architecture}/lora"}


def read(path: Path) -> Header | None:
    """What a LoRA, perhaps a PEFT folder, says of its prediction; None where no predictor made it.

    A header that somebody damaged says nothing either.
    """
    file = path / PEFT_WEIGHTS if path.is_dir() else path
    try:
        status = file.stat()
    except OSError:
        return None
    return _read(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _read(file: Path, _mtime_ns: int, _size: int) -> Header | None:
    try:
        with safe_open(file, framework="pt") as stream:
            said: dict[str, Any] = json.loads((stream.metadata() or {})[KEY])
        if said["n_refs"] < 1 or not math.isfinite(said["scale_folded"]):
            return None
        sizes = tuple((int(height), int(width)) for height, width in said.pop("sizes", ()))
        return Header(**{**said, "refs": tuple(said.get("refs", ())), "sizes": sizes})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        return None


def sizes_that_count(config: Config, sizes: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Of references, where a grey one would not look the same whatever its shape.

    Only margins have another colour than grey.
    """
    return tuple(sorted(sizes)) if config.encoder.fit == "pad" else ()
