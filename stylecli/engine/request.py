"""What the user asked for, as data, and a command that was checked and not yet carried out."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from stylecli.artifacts import journal, store
from stylecli.artifacts.journal import Journal
from stylecli.engine import inputs, plan
from stylecli.engine.plan import Plan
from stylecli.engine.planner import Choice, Cost, planning
from stylecli.engine.runs import local, shards
from stylecli.engine.runs.known import Known, pending
from stylecli.engine.runs.making import Maker, Result, Work
from stylecli.engine.runs.run import Handling, execute
from stylecli.engine.session import Session
from stylecli.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where results go, and how to treat what is there.

    Attributes:
        output: As it was typed: a slash at the end makes it a folder.
        name: Template of file names in a folder.
        shard: ``i/n``, or ``auto``.
        wait: Queue behind another run.
        limit: At most so many items of work.
        retry_failed: Only what failed last.
        max_failures: End the run when so many have failed.
        strip: Leave out of the files what made them.
        engine: ``local`` or ``ray``.
    """

    output: str
    name: str | None = None
    shard: str | None = None
    overwrite: bool = False
    wait: bool = False
    limit: int | None = None
    retry_failed: bool = False
    max_failures: int | None = None
    strip: bool = False
    engine: str = "local"

    @cached_property
    def path(self) -> Path:
        return Path(self.output).expanduser()

    @property
    def part(self) -> tuple[int, int] | None:
        """``i/n`` as numbers.

        Raises:
            UsageError: Not of that form, or ``auto`` where nothing says which part this is.
        """
        return shards.parse(self.shard, os.environ) if self.shard is not None else None

    @property
    def handling(self) -> Handling:
        return Handling(
            overwrite=self.overwrite,
            retry_failed=self.retry_failed,
            limit=self.limit,
            max_failures=self.max_failures,
        )

    @property
    def work(self) -> Work:
        """What carries out the jobs.

        Raises:
            UsageError: An engine that is not installed.
        """
        if self.engine == "ray":
            from stylecli.engine.runs import ray_engine  # an extra

            return ray_engine.work
        return local.work

    def is_file(self, jobs: int, *, from_manifest: bool) -> bool:
        """Whether it names the one file there is to make, rather than a folder.

        Raises:
            UsageError: It names a file, and there are several results or other names for them.
        """
        is_folder = self.output.endswith(("/", os.sep)) or self.path.is_dir()
        if is_folder or not self.path.suffix:
            return False
        if jobs > 1 or self.name or from_manifest:
            because = (
                f"there are {jobs} results"
                if jobs > 1
                else "--name is for folders"
                if self.name
                else "a manifest fills a folder"
            )
            raise UsageError(
                f"--output {self.output} is a file, but {because}",
                fix=f"a slash makes it a folder: -o {self.output}/",
            )
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the user named as contents."""

    arguments: Sequence[str] = ()
    manifest: Path | None = None
    stdin: Callable[[], str] | None = None
    nul: bool = False

    def rows(self, output: Path) -> list[inputs.Row]:
        """One row per content; an output that a manifest names is a place in `output`.

        Args:
            output: Results of earlier runs in this folder are not contents of this one, even when
                it lies inside a folder that is.

        Raises:
            InputError: Nothing was named, or something that does not exist.
            UsageError: A manifest's output leaves the folder.
        """
        rows = inputs.contents(
            self.arguments, stdin=self.stdin, nul=self.nul, leave_out=Results(output)
        )
        if self.manifest is not None:
            for row in inputs.manifest(self.manifest):
                with inputs.at(row.place):
                    own = plan.inside(output, row.output) if row.output else None
                rows.append(replace(row, output=own))
        if not rows:
            raise InputError(
                "no content was named", fix="give pictures, folders, globs, - or --manifest"
            )
        return rows

    def plain_rows(self, output: Path) -> list[inputs.Row]:
        """The same for a command that takes styles and settings from elsewhere.

        Raises:
            UsageError: A manifest has columns for them; else as `rows`.
        """
        rows = self.rows(output)
        for row in rows:
            if row.style or row.lora or row.changes:
                named = row.changes[0][0] if row.changes else "style" if row.style else "lora"
                raise UsageError(
                    f"{row.place}  {named} is a column that this command has no use for",
                    fix="keep the columns content and output",
                )
        return rows


class Results:
    """Tells results in an output folder from pictures that lie there too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._known: set[str] | None = None
        self._resolved: dict[Path, Path] = {}

    def __call__(self, path: Path) -> bool:
        # Of 100,000 names, most are settled without asking the disk.
        if path.parent not in self._resolved:
            self._resolved[path.parent] = path.parent.resolve()
        full = self._resolved[path.parent] / path.name
        if not full.is_relative_to(self._folder):
            return False
        if self._known is None:
            self._known = journal.outputs(self._folder)
        name = full.relative_to(self._folder).as_posix()
        return name in self._known or store.read_provenance(path) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A command that was checked and not yet carried out.

    Attributes:
        rows: UNet rows per item, by name: the cost, before anything is cached.
        notes: What was understood, for people to check before the work.
        size_px: Side of the pictures; None is the recipe's.
        start: Loads what it takes and returns what makes one item.
    """

    plan: Plan
    session: Session
    destination: Destination
    rows: Mapping[str, int]
    start: Callable[[], Maker]
    notes: Sequence[str] = ()
    size_px: int | None = None

    def todo(self) -> int:
        """How many jobs are left to do."""
        known = Known.of(self.plan.folder)
        return len(pending(self.plan.jobs, known, overwrite=self.destination.overwrite)[0])

    def estimate(self) -> Cost:
        """Time and memory if nothing were cached; operations are timed for a few seconds."""
        recipe = self.session.recipe
        planner = planning.planner(
            self.session, self.plan.jobs, self.rows, items=self.todo(), size_px=self.size_px
        )
        checkpointing = planner.work.is_saving(recipe)
        planner.measure(recipe.device, checkpointing=checkpointing)
        return planner.cost(recipe.device, checkpointing=checkpointing)

    def fitting(self, gigabytes: float, kept: Collection[str]) -> Choice:
        """The fastest settings whose estimated peak fits.

        Args:
            gigabytes: Of a GPU, or of the process on a CPU.
            kept: Dotted keys that the user decided.

        Raises:
            UsageError: Nothing fits.
        """
        return planning.fitting(
            self.session,
            self.plan.jobs,
            self.rows,
            items=self.todo(),
            size_px=self.size_px,
            gigabytes=gigabytes,
            kept=kept,
        )

    def run(self) -> Generator[Result, None, None]:
        """Do the work, yielding a result per job.

        Raises:
            LockedError: Another run holds the folder.
            UsageError: The folder cannot be written, or a LoRA does not fit the model.
            WeightsError: The model cannot be loaded.
            MemoryExhaustedError: Some items did not fit; the others are done.
        """
        destination = self.destination
        jobs = self.plan.jobs
        file = jobs[0].output if self.plan.is_file and jobs else None
        with Journal(
            self.plan.folder, destination.part, wait=destination.wait, file=file
        ) as opened:
            yield from execute(
                jobs,
                self.start,
                opened,
                self.session.context.reporter,
                destination.work,
                destination.handling,
                destination.part,
            )
