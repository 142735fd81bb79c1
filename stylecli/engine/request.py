"""What the user asked for, as data, and a command that was checked and not yet carried out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from stylecli.artifacts import store
from stylecli.artifacts.journal import Journal
from stylecli.engine import inputs, plan
from stylecli.engine.estimate import Cost, estimate
from stylecli.engine.plan import Plan
from stylecli.engine.run import Maker, Result, execute, pending
from stylecli.engine.session import Session
from stylecli.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where results go, and how to treat what is there.

    Attributes:
        output: As it was typed: a slash at the end makes it a folder.
        name: Template of file names in a folder.
        shard: ``i/n``.
    """

    output: str
    name: str | None = None
    shard: str | None = None
    overwrite: bool = False
    wait: bool = False

    @cached_property
    def path(self) -> Path:
        return Path(self.output).expanduser()

    @property
    def part(self) -> tuple[int, int] | None:
        """``i/n`` as numbers.

        Raises:
            UsageError: Not of that form.
        """
        return plan.parse_shard(self.shard) if self.shard is not None else None

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
        own = output.resolve()

        def is_result(path: Path) -> bool:
            return path.resolve().is_relative_to(own) and store.read_provenance(path) is not None

        rows = [
            inputs.Row(path)
            for path in inputs.expand(
                self.arguments, stdin=self.stdin, nul=self.nul, leave_out=is_result
            )
        ]
        if self.manifest is not None:
            rows += [
                replace(row, output=plan.inside(output, row.output)) if row.output else row
                for row in inputs.manifest(self.manifest)
            ]
        if not rows:
            raise InputError(
                "no content was named", fix="give pictures, folders, globs, - or --manifest"
            )
        return rows


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
        return len(pending(self.plan.jobs, overwrite=self.destination.overwrite)[0])

    def estimate(self) -> Cost:
        """Time and memory if nothing were cached."""
        recipe = self.session.recipe
        crop = recipe.lora.crop_px if recipe.lora.crop == "random" else recipe.lora.resolution
        return estimate(
            self.session.folder,
            self.session.context.device,
            self.session.context.dtype,
            self.rows,
            items=self.todo(),
            size_px=self.size_px or recipe.sampling.size,
            train_px=crop,
        )

    def run(self) -> Iterator[Result]:
        """Do the work, yielding a result per job.

        Raises:
            LockedError: Another run holds the folder.
            UsageError: The folder cannot be written, or a LoRA does not fit the model.
            WeightsError: The model cannot be loaded.
            MemoryExhaustedError: Some items did not fit; the others are done.
        """
        with Journal(
            self.plan.folder, self.destination.part, wait=self.destination.wait
        ) as journal:
            yield from execute(
                self.plan.jobs,
                self.start,
                journal,
                self.session.context.reporter,
                overwrite=self.destination.overwrite,
            )
