"""What `style i2l-predict` is asked for: a LoRA of all references, of each, or of each row."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylecli.engine import inputs, plan
from stylecli.engine.i2l.maker import Fuse
from stylecli.engine.plan import UNREADABLE, Input
from stylecli.engine.request import Destination, Results
from stylecli.errors import InputError, UsageError

COLUMNS = ("id", "refs", "output")
FOR_SEVERAL = "name several: each REF, a file, folder or glob, is one style"


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What the user named as references.

    Attributes:
        styles: Each is one style: files, folders and globs.
        fuse: What becomes of several: all references in one pass, or the mean of their LoRAs.
        each: Every picture is a style of its own, and gets a LoRA of its own.
        manifest: Rows of id, refs and output, a LoRA each.
    """

    styles: Sequence[Sequence[str]] = ()
    fuse: Fuse = "tokens"
    each: bool = False
    manifest: Path | None = None
    stdin: Callable[[], str] | None = None

    @classmethod
    def of(
        cls,
        refs: Sequence[str],
        *,
        fuse: Fuse = "tokens",
        each: bool = False,
        manifest: Path | None = None,
        stdin: Callable[[], str] | None = None,
    ) -> References:
        """What was typed: with `fuse`, every argument is a style.

        Raises:
            UsageError: A style alone cannot be fused, or options exclude each other.
        """
        is_fused = fuse != "tokens"
        if each and is_fused:
            raise UsageError(
                f"--each keeps styles apart, --fuse {fuse} joins them", fix="leave one of them out"
            )
        if is_fused and manifest is None and len(refs) < 2:
            raise UsageError(f"--fuse {fuse} takes several styles", fix=FOR_SEVERAL)
        styles = [[ref] for ref in refs] if is_fused else [list(refs)] if refs else []
        return cls(styles=styles, fuse=fuse, each=each, manifest=manifest, stdin=stdin)

    @property
    def is_many(self) -> bool:
        return self.each or self.manifest is not None

    def asked(self, destination: Destination, ending: str) -> Iterator[Asked]:
        """What is wanted, one for every LoRA.

        Args:
            destination: Where they go.
            ending: Of the name of a LoRA that a manifest does not name.

        Raises:
            InputError: Nothing was named, something that does not exist, or a row that is none.
            UsageError: References beside a manifest, or an output that leaves the folder.
        """
        if self.manifest is not None and self.styles and not self.each:
            raise UsageError(
                "references beside --manifest may be one style or many",
                fix="add --each for a LoRA of each, or make them a row of the manifest",
            )
        if self.manifest is None and not self.styles:
            raise InputError("no reference was named", fix="give pictures, folders or --manifest")
        if self.manifest is not None:
            yield from self._of_rows(self.manifest, destination, ending)
        results = Results(destination.path)

        def rows(names: Sequence[str]) -> list[inputs.Row]:
            return inputs.contents(names, stdin=self.stdin, leave_out=results)

        if self.each:
            for row in rows([name for style in self.styles for name in style]):
                yield Asked(((_read(row.content),),), folder=row.folder)
        elif self.styles:
            yield Asked(
                tuple(tuple(_read(row.content) for row in rows(style)) for style in self.styles)
            )

    def _of_rows(self, manifest: Path, destination: Destination, ending: str) -> Iterator[Asked]:
        for number, entry in inputs.table(manifest, COLUMNS):
            place = f"{manifest}:{number}"
            named = entry.get("refs")
            refs = named if isinstance(named, list) else [named]
            if not refs or not all(isinstance(ref, str) and ref for ref in refs):
                raise InputError(
                    f"{place}  refs is not a file, a folder, a glob or a list of them",
                    fix=f"columns: {', '.join(COLUMNS)}",
                )
            name = entry.get("output") or (entry.get("id") and f"{entry['id']}{ending}")
            if not isinstance(name, str) or not name:
                raise InputError(f"{place}  no 'id'", fix=f"columns: {', '.join(COLUMNS)}")
            if self.fuse != "tokens" and len(refs) < 2:
                raise InputError(
                    f"{place}  --fuse {self.fuse} takes several styles", fix="list them in refs"
                )
            with inputs.at(place):
                found = [_listed(manifest.parent / str(ref)) for ref in refs]
                output = plan.inside(destination.path, Path(name))
            if self.fuse == "tokens":
                found = [[item for style in found for item in style]]
            yield Asked(tuple(map(tuple, found)), output, place=place)


@dataclass(frozen=True, slots=True)
class Asked:
    """The references of one LoRA to be.

    Attributes:
        output: Where a manifest wants it.
        folder: Of its picture, below the folder that was named.
        place: Where it was said, for messages.
    """

    groups: tuple[tuple[Input, ...], ...]
    output: Path | None = None
    folder: str = ""
    place: str = ""


def _read(path: Path) -> Input:
    """A reference; one that cannot be read fails its LoRA when that is made."""
    try:
        return Input.of("style", path)
    except InputError:
        return Input("style", path, UNREADABLE)


def _listed(path: Path) -> list[Input]:
    """References of a row; a file that is gone fails it later, an empty folder is a mistake."""
    if path.is_dir() or glob.has_magic(str(path)):
        return [_read(found) for found in inputs.expand([str(path)])]
    return [_read(path)]
