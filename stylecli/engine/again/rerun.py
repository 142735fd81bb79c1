"""Files made again from what they say of themselves, and compared byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from stylecli.artifacts import files
from stylecli.artifacts.journal import NAME
from stylecli.artifacts.locate import Locator, near
from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.engine.again import calls, differences, facts, readings
from stylecli.engine.again.differences import Difference
from stylecli.engine.again.facts import Facts
from stylecli.engine.again.origins import Origins
from stylecli.engine.again.readings import Machine
from stylecli.engine.context import Reporter
from stylecli.engine.i2l import finding
from stylecli.engine.provenance import without_folders
from stylecli.engine.request import Prepared
from stylecli.errors import InputError, ItemError, UsageError


@dataclass(frozen=True, slots=True)
class Again:
    """A file that was made again.

    Attributes:
        kept: Where the new one is, if it was to be kept.
        differences: None at all means that all bytes are the same.
    """

    file: Path
    kept: Path | None
    differences: Sequence[Difference]


def locator_for(paths: Iterable[Path], places: Sequence[Path]) -> Locator:
    """Finds the inputs of all these files.

    Args:
        places: Where inputs may be, besides the folders of the files and the current one; these
            are left out where they hold so much that nobody would search them unasked.
    """
    searched = [*near([*(_whole(path).parent for path in paths), Path.cwd()]), *finding.folders()]
    return Locator([*places, *searched])


def rerun(
    path: Path,
    origins: Origins,
    locator: Locator,
    machine: Machine,
    reporter: Reporter,
    *,
    keep: Path | None = None,
) -> Again:
    """Make a file again, away from it, and compare.

    Args:
        path: The file, or a LoRA that is a folder; nothing is written to it or beside it.
        locator: Finds its inputs.
        keep: Where the new file goes; masks bring those beside them along.

    Raises:
        InputError: It does not say what made it, or inputs or the model are missing.
        UsageError: Something is at `keep`.
        ItemError: It could not be made.
        StyleError: What the command itself raises.
    """
    path = _whole(path)
    if keep is not None and keep.exists():
        raise UsageError(f"{keep} exists", fix="choose another --output; nothing is replaced")
    origin = origins.of(path)
    if origin.source == "journal":
        raise InputError(
            f"{path} was written without metadata, and its journal holds no settings",
            fix="run the command that made it again; `style show` prints what is known",
        )
    if (command := origin.facts.get("command")) in calls.NOT_AGAIN:
        raise InputError(
            f"{path} was made by {command} from a whole set of pictures, and is not made again",
            fix="run that command anew; `style show` prints its settings",
        )
    row = origins.row_of(path, str(origin.facts.get("key")))
    known = facts.read(path, origin.facts, row, calls.COMMANDS)
    with _workshop() as folder:
        staged = facts.stage(path, known, locator, folder / "inputs")
        prepared = readings.prepare(path, known, staged, folder, machine, reporter)
        _warn_of_other_model(path, known, prepared, reporter)
        made = _made(path, prepared)
        found = [] if differences.is_same(path, made) else differences.between(path, made)
        if keep is not None:
            _keep(made, keep)
    return Again(path, keep, found)


def _whole(path: Path) -> Path:
    """The LoRA that a file is the weights of, any other file itself."""
    return path.parent if path.name == PEFT_WEIGHTS else path


@contextmanager
def _workshop() -> Iterator[Path]:
    with TemporaryDirectory(prefix="style-rerun-") as name:
        yield Path(name)


def _warn_of_other_model(path: Path, known: Facts, prepared: Prepared, reporter: Reporter) -> None:
    model, own = known.model, prepared.session.fingerprint
    if model is not None and model.fingerprint != own:
        reporter.warn(
            f"{path.name} was made with another model: {model.id} with the fingerprint "
            f"{model.fingerprint[:12]}, not {own[:12]}"
        )


def _made(path: Path, prepared: Prepared) -> Path:
    """Carry out the one job and return which of its files is the one.

    Raises:
        ItemError: It failed, or nothing like the file was made.
    """
    (result,) = prepared.run()
    if (error := result.error) is not None:
        raise type(error)(without_folders(error.what), fix=error.fix) from error
    job = result.job
    if job.output.is_dir():
        return job.output
    made = [
        file
        for file in sorted(job.output.parent.iterdir())
        if file.suffix.lower() == path.suffix.lower() and not NAME.fullmatch(file.name)
    ]
    same = [file for file in made if differences.is_same(path, file)]
    wanted = same or [file for file in made if file.name == path.name] or made
    if not wanted:
        raise ItemError(
            f"{path.name}: the command made no {path.suffix} file this time",
            fix="`style show` prints what it was made from",
        )
    return wanted[0]


def _keep(made: Path, keep: Path) -> None:
    """Copy what was made; a listing of masks with the masks it lists.

    Raises:
        UsageError: One of them would replace a file.
        ItemError: The folder cannot be written.
    """
    copies = {made: keep}
    if made.is_dir():
        copies = {file: keep / file.name for file in made.iterdir()}
    elif made.suffix == ".json":
        copies = {file: keep.with_name(file.name) for file in made.parent.glob("*.png")} | copies
    for target in copies.values():
        if target.exists():
            raise UsageError(
                f"{target} exists, which {keep} comes with",
                fix="choose another --output; nothing is replaced",
            )
    for file, target in copies.items():
        files.write_atomic(target, file.read_bytes())
