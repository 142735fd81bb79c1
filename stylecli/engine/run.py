"""Carry out a plan: one job after another, each finished file followed by its journal row."""

from __future__ import annotations

import gc
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from stylecli import __version__
from stylecli.artifacts import store
from stylecli.artifacts.journal import Journal, rows
from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.backbone.model import Backbone
from stylecli.engine.context import Reporter
from stylecli.engine.plan import Input, Job
from stylecli.errors import ItemError, MemoryExhaustedError, OutputDiffersError, StyleError
from stylecli.masks.hub import shown
from stylecli.recipe import timeline

SCHEMA_VERSION = 1
# The folders of an absolute path; not of a URL, and not of one that is relative.
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s:'\"/\\]+[/\\])+")
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
        """The same for whoever runs it now: files as they were named."""
        return {
            "schema_version": SCHEMA_VERSION,
            "key": self.job.key,
            "command": self.job.command,
            "status": self.status,
            "output": str(self.job.output),
            "seconds": round(self.seconds, 3),
            "seed": self.job.seed,
            "inputs": [_named(item) for item in self.job.inputs],
            "error": self.error.as_row() if self.error else None,
            "details": dict(self.details),
        }

    def journal_row(self) -> dict[str, Any]:
        """The same for whoever reads it later, perhaps elsewhere: names of files, no folders."""
        row = self.row() | {"output": self.job.output.name}
        if row["error"]:
            files = [self.job.output, *(item.path for item in self.job.inputs)]
            for key in ("what", "fix"):
                row["error"][key] = without_folders(row["error"][key], files)
        return row


def without_folders(text: str, files: Iterable[Path] = ()) -> str:
    """A message with no folder of this machine in it.

    Args:
        text: What was said.
        files: Known to be named in it, perhaps relative or with spaces.

    >>> without_folders("/home/me/a.png and my dir/b.png: damaged", [Path("my dir/b.png")])
    'a.png and b.png: damaged'
    """
    for file in sorted(files, key=lambda file: len(str(file)), reverse=True):
        text = text.replace(str(file), file.name)
    return _FOLDERS.sub("", text)


def pending(jobs: Sequence[Job], *, overwrite: bool) -> tuple[list[Job], list[Result]]:
    """Split jobs into what is left to do, and what needs no model: done already, or in the way."""
    todo: list[Job] = []
    settled: list[Result] = []
    for job in jobs:
        if overwrite or not job.output.exists():
            todo.append(job)
        elif (store.read_provenance(_carrier(job.output)) or {}).get("key") == job.key:
            # Made before without the sheet that is asked for now: make both again, the same.
            if job.sheet is None or job.sheet.exists():
                settled.append(Result(job, "skipped"))
            else:
                todo.append(job)
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
        MemoryExhaustedError: Once all is done that could be, when something did not fit.
    """
    todo, settled = pending(jobs, overwrite=overwrite)
    noted = _noted(journal) if settled else set()
    for result in settled:
        if result.status == "failed":
            journal.append(result.journal_row())
        elif result.job.key not in noted:
            # Its run was killed between the file and the row.
            journal.append(result.journal_row() | {"status": "done", "seconds": None})
        yield result
    if not todo:
        return
    make = start()
    exhausted: MemoryExhaustedError | None = None
    with reporter.task("items", len(todo)) as task:
        for job in todo:
            started = time.monotonic()
            try:
                details = _with_memory(make, job, reporter)
                result = Result(job, "done", time.monotonic() - started, details=details)
            except (ItemError, MemoryExhaustedError) as error:
                result = Result(job, "failed", time.monotonic() - started, error)
                if isinstance(error, MemoryExhaustedError):
                    exhausted = error
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
            journal.append(result.journal_row())
            task.advance()
            yield result
    if exhausted is not None:
        raise exhausted


def _noted(journal: Journal) -> set[str]:
    """Keys of all that the folder's journals say is done."""
    return {row["key"] for row in rows(journal.path.parent) if row.get("status") == "done"}


def _with_memory(make: Maker, job: Job, reporter: Reporter) -> Mapping[str, Any]:
    """Make a job's files; out of memory, once more with all that can be freed freed.

    Raises:
        MemoryExhaustedError: It does not fit even so.
    """
    name = job.inputs[0].path.name
    try:
        return make(job)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
    # Outside the handler, whose traceback keeps every tensor of the failed attempt alive.
    reporter.warn(f"{name}: out of memory; once more, with nothing else held")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return make(job)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"{name}: out of memory", fix="lower sampling.size, or use a recipe for less memory"
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def provenance(job: Job, recipe: Mapping[str, Any], backbone: Backbone) -> dict[str, Any]:
    """What a file says about itself. No folder, no user name, no time: equal runs, equal bytes."""
    backbone_id = Path(backbone.name).name
    sections = dict(recipe)
    if "backbone" in sections:
        sections["backbone"] = {**sections["backbone"], "id": backbone_id}
    if "sampling" in sections:
        sections["sampling"] = _without_places(sections["sampling"])
    if "masks" in sections:
        models = {key: sections["masks"][key] for key in ("model", "segmenter")}
        named = {key: name and shown(name) for key, name in models.items()}
        sections["masks"] = {**sections["masks"], **named}
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


def _without_places(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The section with the files of schedules and regions by their names alone."""

    def entries(schedule: Any) -> Any:
        return schedule and [
            {
                **entry,
                "loras": [part | {"lora": Path(part["lora"]).name} for part in entry["loras"]],
            }
            for entry in schedule
        ]

    return {
        **sampling,
        "schedule": entries(sampling["schedule"]),
        "regions": [
            region | {"mask": _mask_name(region["mask"]), "schedule": entries(region["schedule"])}
            for region in sampling["regions"]
        ],
    }


def _mask_name(mask: str) -> str:
    return mask if mask.startswith(timeline.WORDS) else Path(mask).name


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
