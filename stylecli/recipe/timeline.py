"""Which LoRAs act when (DiffStyler eq. 9) and where (eq. 8), as people write it.

    schedule   a.safetensors:0-30,b.safetensors:30-50      steps, half-open, or shares of them:
               a.safetensors*0.8:0%-40%,base:40%-60%,b.safetensors:60%-
    sum        a.safetensors*0.7+b.safetensors*0.3:0-50    both at once
    region     deer.png=a.safetensors@a deer in oil        MASK=LORA[@PROMPT]
               text:sky=a.safetensors:0-30,b.safetensors:30-50

An entry splits at the colon before its range, so Windows paths work; ``base`` is no LoRA. The
prompt of a region begins at the first @ after what ends as a LoRA does (a suffix, a slash, a
weight, a range, ``base``), so a folder's name may hold one too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

BASE = "base"
# What a mask begins with that is to be found from words.
WORDS = "text:"
MAX_WEIGHT = 1000
_EDGE = r"\d+(?:\.\d+)?%?"
_ENTRY = re.compile(rf"\s*(?P<names>[^,].*?):(?P<start>{_EDGE})-(?P<end>{_EDGE})?\s*(?:,|\Z)")
# What looks like a range and is none: a colon with signs of one, before a comma or at the end.
_TORN = re.compile(r":\s*[-\d.%]*\s*(?:,|\Z)")
_RANGE = re.compile(rf":\s*(?:{_EDGE})?\s*-\s*(?:{_EDGE})?\s*(?:,|\Z)")
# How the name of a LoRA ends: a suffix, a folder's slash, a weight, a range, or nothing but base.
_ENDS = re.compile(rf"(?:\.\w+|[/\\]|\*\s*[-+]?[\d.]+(?:e[-+]?\d+)?|:{_EDGE}-(?:{_EDGE})?|\bbase)$")
PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True, slots=True)
class Interval:
    """Steps ``start <= i < stop`` of one entry of a schedule.

    Attributes:
        entry: Its place in the schedule.
    """

    start: int
    stop: int
    entry: int


def parse_schedule(text: str) -> list[dict[str, Any]]:
    """The entries of a schedule; one without a range lasts from first to last step.

    Raises:
        ValueError: Not of that form.

    >>> parse_schedule("a.safetensors*0.8:0-20,base:20-50")[1]
    {'loras': [], 'start': 20, 'end': 50}
    """
    entries: list[dict[str, Any]] = []
    at = 0
    while at < len(text.rstrip()):
        found = _ENTRY.match(text, at)
        if found is None or _TORN.search(found["names"]):
            rest = text[at:].strip()
            if entries or found or _TORN.search(rest) or not rest.strip(", "):
                raise ValueError(f"{rest!r} is not NAME:START-END, such as a.safetensors:0-30")
            return [{"loras": _parse_sum(rest)}]
        entry: dict[str, Any] = {
            "loras": _parse_sum(found["names"]),
            "start": _edge(found["start"]),
        }
        if found["end"]:
            entry["end"] = _edge(found["end"])
        entries.append(entry)
        at = found.end()
    if not entries:
        raise ValueError("a schedule needs at least one entry, such as a.safetensors:0-30")
    return entries


def parse_region(text: str) -> dict[str, Any]:
    """``MASK=LORA[@PROMPT]`` or ``MASK=SCHEDULE[@PROMPT]``.

    Raises:
        ValueError: Not of that form.

    >>> parse_region("deer.png=oil.safetensors@a deer in oil")["prompt"]
    'a deer in oil'
    """
    mask, equals, rest = text.partition("=")
    mask = mask.strip()
    if not equals or not mask or not rest.strip():
        raise ValueError(f"{text!r} is not MASK=LORA, such as deer.png=oil.safetensors")
    region: dict[str, Any] = {"mask": mask}
    places = [found.start() for found in re.finditer("@", rest)]
    if places:
        at = next((at for at in places if _ENDS.search(rest[:at].rstrip())), places[0])
        region["prompt"], rest = rest[at + 1 :].strip(), rest[:at]
        if _RANGE.search(region["prompt"]):
            raise ValueError(f"{text!r}: a prompt comes last, after the whole schedule")
    return region | {"schedule": parse_schedule(rest)}


def resolve(entries: Sequence[tuple[int | str, int | str | None]], steps: int) -> list[Interval]:
    """The steps of every entry, in order of time.

    Args:
        entries: Start and end of each, in steps or as ``"60%"``; an end of None is the last step.
        steps: Of the sampler.

    Raises:
        ValueError: An entry without steps or beyond the last one, two that overlap, steps that no
            entry covers.

    >>> [(i.start, i.stop) for i in resolve([(0, "60%"), ("60%", None)], 50)]
    [(0, 30), (30, 50)]
    """
    intervals = []
    for number, (first, last) in enumerate(entries):
        start, stop = in_steps(first, steps), steps if last is None else in_steps(last, steps)
        if stop > steps:
            raise ValueError(f"entry {number + 1} ends at step {stop}; allowed 0 to {steps}")
        if start >= stop:
            raise ValueError(f"entry {number + 1} has no steps: {start} to {stop} of {steps}")
        intervals.append(Interval(start, stop, number))
    intervals.sort(key=lambda interval: interval.start)
    covered = 0
    for before, interval in zip([None, *intervals], intervals, strict=False):
        if before is not None and interval.start < covered:
            raise ValueError(
                f"entries {before.entry + 1} and {interval.entry + 1} both have step "
                f"{interval.start}; write a+b for both at once"
            )
        if interval.start > covered:
            raise ValueError(_uncovered(covered, interval.start))
        covered = interval.stop
    if covered < steps:
        raise ValueError(_uncovered(covered, steps))
    return intervals


def _uncovered(start: int, stop: int) -> str:
    return f"no entry covers steps {start} to {stop - 1}; write base:{start}-{stop} for no LoRA"


def in_steps(edge: int | str, steps: int) -> int:
    """A number of steps as it is; a percentage of all steps, half of one rounded up.

    Raises:
        ValueError: Neither.

    >>> in_steps("60%", 50), in_steps("50%", 1), in_steps(7, 50)
    (30, 1, 7)
    """
    if isinstance(edge, int):
        return edge
    found = PERCENT.fullmatch(edge.strip())
    if found is None:
        raise ValueError(f"{edge!r} is neither a step nor a percentage such as 60%")
    return math.floor(float(found[1]) * steps / 100 + 0.5)


def _edge(text: str) -> int | str:
    if text.endswith("%"):
        return text
    if "." in text:
        raise ValueError(f"{text!r} is neither a whole step nor a percentage such as 60%")
    return int(text)


def _parse_sum(text: str) -> list[dict[str, Any]]:
    """The LoRAs of one entry; none for ``base``."""
    pieces, rest = [], ""
    for piece in re.split(r"(\+)", text.strip()):
        if piece == "+" and _ENDS.search(rest.rstrip()):
            pieces.append(rest)
            rest = ""
        else:
            rest += piece
    parts = [_parse_part(piece.strip()) for piece in (*pieces, rest)]
    return [part for part in parts if part["lora"] != BASE]


def _parse_part(text: str) -> dict[str, Any]:
    name, star, factor = text.rpartition("*")
    part: dict[str, Any] = {"lora": text}
    if star:
        # A star may also be part of a name.
        with suppress(ValueError):
            part = {"lora": name.strip(), "weight": float(factor)}
        if not abs(part.get("weight", 0)) <= MAX_WEIGHT:
            raise ValueError(
                f"weight {factor} of {part['lora']}; allowed -{MAX_WEIGHT} to {MAX_WEIGHT}"
            )
    if not part["lora"]:
        raise ValueError(f"{text!r} names no LoRA")
    return part
