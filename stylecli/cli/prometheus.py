"""``--prometheus``: figures of a run as a file for node_exporter's textfile collector."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stylecli.artifacts.files import write_atomic
from stylecli.errors import ItemError, LockedError, UsageError

SECONDS_BETWEEN_WRITES = 15.0
SETTLED = ("done", "skipped", "failed")
# Of runs that ended; while one is at work they are those of the one before.
EXIT_STATUS = "style_exit_status"
LAST_SUCCESS = "style_last_success_timestamp_seconds"
HELP = {
    "style_items": "Items of the latest run; pending is what it has not reached.",
    "style_run_seconds": "How long the latest run has taken so far, or took.",
    "style_items_per_minute": "Items made a minute by the latest run.",
    "style_last_run_timestamp_seconds": "When the latest run was last seen at work.",
    EXIT_STATUS: "Exit status of the latest run that ended.",
    LAST_SUCCESS: "When a run last ended with exit status 0.",
}


class Textfile:
    """A file that is replaced now and then while a run goes on, and once at its end.

    Until its first item nobody knows whether this is the run that works, or one that is refused
    because another does. A `stylecli.cli.console.Listener`.
    """

    def __init__(self, path: Path, labels: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """Keep what the file says of earlier runs.

        Args:
            path: Replaced as a whole: runs at the same time need a file each.
            labels: Of every figure.
            warn: Told of the first write that fails.

        Raises:
            UsageError: It cannot be written.
        """
        self._path, self._labels, self._warn = path, dict(labels), warn
        self._began = self._began_items = time.monotonic()
        self._planned: int | None = None
        self._wrote = -math.inf
        self._counts: Counter[str] = Counter()
        self._kept = _former(path, self._labels)
        self._has_warned = False
        if path.suffix != ".prom":
            raise UsageError(
                f"--prometheus: {path} would not be read by a collector",
                fix=f"such as {path.with_suffix('.prom')}",
            )
        # Made on the way it would be a folder that no collector reads.
        if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"--prometheus: {path} cannot be written", fix="name a file in a folder that exists"
            )

    def hear(self, event: str, said: Mapping[str, Any]) -> None:
        """Count, and write where it is time to."""
        if event == "plan":
            self._planned = said["items"]
            self._began_items = time.monotonic()
        elif event == "item":
            self._counts[str(said.get("status", ""))] += 1
            if time.monotonic() - self._wrote >= SECONDS_BETWEEN_WRITES:
                self._write_or_warn()
        elif event == "summary":
            self._kept[EXIT_STATUS] = said["exit_status"]
            if said["exit_status"] == 0:
                self._kept[LAST_SUCCESS] = time.time()

    def close(self) -> None:
        """Write the end of a run; of one that was refused for another at work, nothing."""
        status = self._kept.get(EXIT_STATUS)
        is_help = status == 0 and self._planned is None
        if status != LockedError.exit_status and not is_help:
            self._write_or_warn()

    def _write_or_warn(self) -> None:
        try:
            self._write()
        except ItemError as error:
            if not self._has_warned:
                self._has_warned = True
                self._warn(f"--prometheus: {error.what}")

    def _write(self) -> None:
        self._wrote = time.monotonic()
        minutes = (self._wrote - self._began_items) / 60
        registry = CollectorRegistry()
        names = [*self._labels, "status"]
        items = Gauge("style_items", HELP["style_items"], names, registry=registry)
        counts = {status: self._counts[status] for status in SETTLED}
        counts["pending"] = max((self._planned or 0) - sum(counts.values()), 0)
        for status, count in counts.items():
            items.labels(**self._labels, status=status).set(count)
        figures = {
            "style_run_seconds": self._wrote - self._began,
            "style_items_per_minute": self._counts["done"] / minutes if minutes > 0 else 0.0,
            "style_last_run_timestamp_seconds": time.time(),
            **self._kept,
        }
        for name, value in figures.items():
            gauge = Gauge(name, HELP[name], list(self._labels), registry=registry)
            gauge.labels(**self._labels).set(value)
        write_atomic(self._path, generate_latest(registry))


def _former(path: Path, labels: Mapping[str, str]) -> dict[str, float]:
    """What the file says of runs that ended; a file of something else says nothing."""
    try:
        text = path.read_text(encoding="utf-8")
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in (EXIT_STATUS, LAST_SUCCESS) and sample.labels == labels
        }
    except (OSError, ValueError, KeyError, IndexError):
        return {}
