"""Carry out a plan: one job after another, each finished file followed by its journal row."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from stylecli import __version__
from stylecli.artifacts import store
from stylecli.artifacts.journal import Journal
from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.backbone.model import Backbone
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Input, Job
from stylecli.errors import ItemError, MemoryExhaustedError, OutputDiffersError, StyleError

SCHEMA_VERSION = 1
# Makes one job's files and returns figures worth keeping.
Maker = Callable[[Job], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one job.

    Attributes:
        error: Why it failed, when it did.
        details: Figures of this item: losses, PSNR.
    """

    job: Job
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    error: StyleError | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The same as a journal row: names of files, never folders."""
        return {
            "schema_version": SCHEMA_VERSION,
            "key": self.job.key,
            "command": self.job.command,
            "status": self.status,
            "output": self.job.output.name,
            "seconds": round(self.seconds, 3),
            "seed": self.job.seed,
            "inputs": [_named(item) for item in self.job.inputs],
            "error": None
            if self.error is None
            else {"code": self.error.code, "what": self.error.what, "fix": self.error.fix},
            "details": dict(self.details),
        }


def pending(jobs: Sequence[Job], *, overwrite: bool) -> tuple[list[Job], list[Result]]:
    """Split jobs into what is left to do, and what needs no model: done already, or in the way."""
    todo: list[Job] = []
    settled: list[Result] = []
    for job in jobs:
        if overwrite or not job.output.exists():
            todo.append(job)
        elif (store.read_provenance(_carrier(job.output)) or {}).get("key") == job.key:
            settled.append(Result(job, "skipped"))
        else:
            error = OutputDiffersError(
                f"{job.output} exists and was made from something else",
                fix="use --overwrite, or another --output",
            )
            settled.append(Result(job, "failed", error=error))
    return todo, settled


def execute(
    jobs: Sequence[Job],
    start: Callable[[], Maker],
    journal: Journal,
    reporter: Reporter,
    *,
    overwrite: bool = False,
) -> Iterator[Result]:
    """Yield a result for every job, as each is finished and written down.

    Args:
        jobs: From a plan.
        start: Loads what the jobs need and returns what makes one; called only if there is work.
        journal: Open; gets a row for each job that was done or failed.
        reporter: Told of progress.
        overwrite: Make again what exists.

    Raises:
        StyleError: Anything that would fail every job, such as missing weights.
    """
    todo, settled = pending(jobs, overwrite=overwrite)
    for result in settled:
        if result.status == "failed":
            journal.append(result.row())
        yield result
    if not todo:
        return
    make = start()
    with reporter.task("items", len(todo)) as task:
        for job in todo:
            started = time.monotonic()
            try:
                details = make(job)
                result = Result(job, "done", time.monotonic() - started, details=details)
            except torch.OutOfMemoryError as error:
                raise MemoryExhaustedError(
                    f"{job.inputs[0].path.name}: out of memory",
                    fix="lower sampling.size, or use a recipe for less memory",
                ) from error
            except ItemError as error:
                result = Result(job, "failed", time.monotonic() - started, error)
            except StyleError:
                raise
            except Exception as error:
                # A fault of ours in one item must not cost a night's run the others.
                reporter.warn(f"{job.inputs[0].path.name}: {traceback.format_exc(limit=-2)}")
                known = StyleError(
                    f"unexpected {type(error).__name__}: {str(error).partition(chr(10))[0]}",
                    fix="report it, with the lines above",
                )
                result = Result(job, "failed", time.monotonic() - started, known)
            journal.append(result.row())
            task.advance()
            yield result


def provenance(job: Job, recipe: Mapping[str, Any], backbone: Backbone) -> dict[str, Any]:
    """What a file says about itself. No folder, no user name, no time: equal runs, equal bytes."""
    backbone_id = Path(backbone.name).name
    sections = dict(recipe)
    if "backbone" in sections:
        sections["backbone"] = {**sections["backbone"], "id": backbone_id}
    return {
        "schema_version": SCHEMA_VERSION,
        "command": job.command,
        "key": job.key,
        "recipe": sections,
        "seed": job.seed,
        "versions": _versions(),
        "model": {"id": backbone_id, "fingerprint": backbone.fingerprint},
        "inputs": [_named(item) for item in job.inputs],
    }


def _versions() -> dict[str, str]:
    import diffusers
    import peft
    import transformers

    return {
        "stylecli": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def _named(item: Input) -> dict[str, str]:
    return {"role": item.role, "name": item.path.name, "sha256": item.sha256}


def _carrier(output: Path) -> Path:
    """The file of an output that holds its provenance: a PEFT LoRA is a folder."""
    return output / PEFT_WEIGHTS if output.is_dir() else output
