"""What was measured, as a file that others can read, and as a table."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from stylecli import __version__
from stylecli.engine.bench.timing import Spread

CPU_INFO = Path("/proc/cpuinfo")


class Section(BaseModel):
    """Unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Machine(Section):
    """What it was measured on; no name of a host or of a person.

    Attributes:
        threads: That torch computes with.
    """

    system: str
    processor: str
    cores: int
    threads: int
    memory_gib: float | None
    device: str
    dtype: str

    @classmethod
    def here(cls, device: torch.device, dtype: torch.dtype) -> Machine:
        """This one."""
        return cls(
            system=f"{platform.system()} {platform.machine()}",
            processor=_processor(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            memory_gib=_memory_gib(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            dtype=str(dtype).removeprefix("torch."),
        )


class Versions(Section):
    """Of what computed."""

    stylecli: str
    python: str
    torch: str
    diffusers: str
    peft: str

    @classmethod
    def here(cls) -> Versions:
        """Of this installation."""
        import diffusers
        import peft

        return cls(
            stylecli=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            diffusers=diffusers.__version__,
            peft=peft.__version__,
        )


class Setting(Section):
    """What was measured with.

    Attributes:
        recipe_steps: Of the recipe; `steps` of them were walked, of every kind its share.
        authors_steps: Of the authors' 999, each way.
    """

    effort: Literal["quick", "default", "full"]
    backbone: str
    fingerprint: str
    recipe: str
    width_px: int
    height_px: int
    steps: int
    recipe_steps: int
    feature_steps: int
    attn_steps: int
    attn_tail: str
    guidance: float
    lora_rank: int
    rounds: int
    authors_steps: int


class Figure(Section):
    """One figure over the rounds: the median, the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, spread: Spread) -> Figure:
        return cls(median=spread.median, low=spread.low, high=spread.high)

    def __str__(self) -> str:
        if self.low == self.high:  # of one round
            return f"{self.median:.4g}"
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Ceiling(Section):
    """Operations a second that this device reaches with nothing else to do.

    Attributes:
        flops_per_second: By the clock; on a busy machine its highest is nearest to the truth.
        per_cpu_second: Of this process, the most that was seen.
    """

    row: Literal["ceiling"] = "ceiling"
    name: Literal["matmul", "convolution"]
    flops_per_second: Figure
    per_cpu_second: float

    def __str__(self) -> str:
        rate = self.flops_per_second
        return f"ceiling   {self.name:<28} {rate.high / 1e9:10.1f} GFLOP/s"


class Side(Section):
    """One thing that was run.

    Attributes:
        seconds: By the clock, of the whole run.
        cpu_seconds: Of the process; on a busy machine the better of the two.
        parts: Seconds of each part, medians.
        rows: Sample-forwards of a UNet, counted by a hook.
        flops: Of its UNet passes.
        utilisation: Operations a second as a share of the matmul ceiling; on a CPU a second of the
            process, so that others on the machine do not count.
        peak_bytes: Above the loaded model; null where it was not measured or did not fit.
    """

    row: Literal["side"] = "side"
    case: str
    name: str
    seconds: Figure | None = None
    cpu_seconds: Figure | None = None
    parts: dict[str, float] = {}
    rows: int | None = None
    flops: float | None = None
    utilisation: float | None = None
    peak_bytes: int | None = None
    how: str

    def __str__(self) -> str:
        cells = [
            f"{self.seconds.median:10.4g} s" if self.seconds else " " * 12,
            f"{self.rows:6d} rows" if self.rows is not None else " " * 11,
            f"{self.flops / 1e9:9.1f} GFLOP" if self.flops is not None else "",
            f"{self.utilisation:5.0%} of matmul" if self.utilisation is not None else "",
            f"{self.peak_bytes / 1e6:9.1f} MB" if self.peak_bytes is not None else "",
        ]
        return f"{self.case:<9} {self.name:<28} {' '.join(cells)}".rstrip()


class Ratio(Section):
    """Two things that were measured side by side.

    Attributes:
        cpu: The same of seconds of the process, in which others on the machine have no part.
        at_least: What the project aims at, where it aims at so much or more.
        at_most: Where it aims at so much or less.
    """

    row: Literal["ratio"] = "ratio"
    name: str
    value: Figure
    cpu: Figure | None = None
    at_least: float | None = None
    at_most: float | None = None
    how: str

    @property
    def is_met(self) -> bool | None:
        """None where nothing is aimed at."""
        if self.at_least is not None:
            return self.value.median >= self.at_least
        return None if self.at_most is None else self.value.median <= self.at_most

    def __str__(self) -> str:
        bound = f">= {self.at_least:g}" if self.at_least is not None else ""
        if self.at_most is not None:
            bound = f"<= {self.at_most:g}"
        mark = {True: "met", False: "MISSED", None: ""}[self.is_met]
        aim = f"   aim {bound}: {mark}" if bound else ""
        cpu = f"CPU {self.cpu.median:.4g}" if self.cpu else ""
        return f"ratio     {self.name:<38} {self.value!s:<26} {cpu:<10}{aim}".rstrip()


class Count(Section):
    """Rows of one setting, counted by a hook, and what the method's cost model says."""

    row: Literal["count"] = "count"
    name: str
    rows: int
    expected: int

    @property
    def is_met(self) -> bool:
        """The method does what it is said to."""
        return self.rows == self.expected

    def __str__(self) -> str:
        mark = "met" if self.is_met else "MISSED"
        return f"rows      {self.name:<38} {self.rows:6d}   aim = {self.expected}: {mark}"


Row = Ceiling | Side | Ratio | Count


class Report(Section):
    """A file of `docs/bench`."""

    schema_version: Literal[1] = 1
    versions: Versions
    machine: Machine
    setting: Setting
    ceilings: list[Ceiling]
    sides: list[Side]
    ratios: list[Ratio]
    counts: list[Count]

    @classmethod
    def of(cls, versions: Versions, machine: Machine, setting: Setting, rows: list[Row]) -> Report:
        """Rows by their kinds, in the order they came."""
        return cls(
            versions=versions,
            machine=machine,
            setting=setting,
            ceilings=[row for row in rows if isinstance(row, Ceiling)],
            sides=[row for row in rows if isinstance(row, Side)],
            ratios=[row for row in rows if isinstance(row, Ratio)],
            counts=[row for row in rows if isinstance(row, Count)],
        )


def _processor() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(found / 2**30, 1)
