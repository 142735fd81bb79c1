"""Is this installation well? Every finding is given, whether it passes or not."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from stylecli import __version__
from stylecli.artifacts import cache
from stylecli.backbone import registry
from stylecli.backbone.loading import see_whole
from stylecli.backbone.registry import Source
from stylecli.errors import StyleError, WeightsError
from stylecli.tensors.compat import ensure_torchvision

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "lpips",
    "open-clip-torch",
    "typer",
)
MIN_FREE_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        is_ok: None for a plain fact.
        figure: What was measured or found; measurements are numbers.
        unit: Of a number.
        bound: What a number must be to be well, in words.
        fix: What to do when it is not well.
    """

    name: str
    is_ok: bool | None
    figure: str | float
    unit: str = ""
    bound: str = ""
    fix: str = ""

    def row(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "check": self.name,
            "ok": self.is_ok,
            "figure": self.figure,
            "unit": self.unit,
            "bound": self.bound,
            "fix": "" if self.is_ok else self.fix,
        }

    def __str__(self) -> str:
        mark = {True: "pass", False: "FAIL", None: "    "}[self.is_ok]
        shown = f"{self.figure:.4g}" if isinstance(self.figure, float) else str(self.figure)
        words = [
            f"{shown} {self.unit}".rstrip(),
            f"(must be {self.bound})" if self.bound else "",
            f"-> {self.fix}" if self.fix and not self.is_ok else "",
        ]
        return f"{mark}  {self.name:<34}  {' '.join(filter(None, words))}"


def installation() -> Iterator[Check]:
    """Versions, devices, caches and weights: nothing is loaded."""
    yield Check("style", None, __version__)
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check("python", supported, platform.python_version(), fix="use Python 3.11 to 3.13")
    yield Check("system", None, f"{platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            yield Check(package, True, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Check(package, package == "torchvision", "absent", fix=f"pip install {package}")
    state = ensure_torchvision()
    yield Check(
        "torchvision operators",
        True,
        {
            "native": "its own",
            "shimmed": "stand-ins: its binary does not fit this torch build",
            "absent": "not installed",
        }[state],
        fix="install torch and torchvision from one index for the real ones",
    )
    yield Check("cpu threads", None, torch.get_num_threads())
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        yield Check(
            f"cuda:{i}", None, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        )
    folder = cache.cache_dir()
    free = shutil.disk_usage(_existing(folder)).free
    yield Check(
        "cache",
        free > MIN_FREE_BYTES,
        f"{folder}, {free / 2**30:.0f} GiB free",
        fix="free some disk, or point STYLE_CACHE_DIR elsewhere",
    )
    yield from map(_weights, registry.SOURCES.values())


def _weights(source: Source) -> Check:
    name = f"weights {source.name}"
    try:
        folder = registry.snapshot(source)
    except StyleError as error:
        return Check(name, None, "not here", fix=error.fix)
    again = "reinstall the package, or pull the model again"
    empty = [part for part in source.weighed if not any((folder / part).glob("*.safetensors"))]
    if empty:
        return Check(name, False, f"{empty[0]} has no weights", fix=again)
    try:
        see_whole(folder, source.weighed)
    except WeightsError as error:
        return Check(name, False, error.what, fix=again)
    return Check(name, None, f"present, {source.licence}")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
