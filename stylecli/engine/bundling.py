"""Weights of this machine in one file, for a machine that reaches no network.

The file is a plain tar: unpacked into the folder that `$STYLE_WEIGHTS_DIR` names, everything lies
where it is looked for, with the hashes that ``style models verify`` reads. The same weights make
the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stylecli.artifacts.files import replacing
from stylecli.backbone import hashes, registry
from stylecli.backbone.hashes import SUMS
from stylecli.backbone.registry import Source
from stylecli.engine import metric_weights
from stylecli.engine.context import Reporter
from stylecli.errors import DiskFullError, InputError, OutputDiffersError
from stylecli.evaluation import folders, weights
from stylecli.evaluation.published import Weights

# Of a tar: a header for each file, and the end.
OVERHEAD = 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a bundle.

    Attributes:
        name: Below the folder of weights.
    """

    name: str
    file: Path


@dataclass(frozen=True, slots=True)
class Parcel:
    """What belongs to one name.

    Attributes:
        record: Where its hashes go, below the folder of weights; lines name files from `base`.
    """

    name: str
    licence: str
    pieces: tuple[Piece, ...]
    record: str
    base: str


def parcels(names: Sequence[str], weights_dir: Path | None) -> list[Parcel]:
    """Look for everything; each name once.

    Raises:
        InputError: A name is unknown, or ships with the package.
        WeightsError: Weights are not on this machine, or not what they are named for.
    """
    return [_parcel(name, weights_dir) for name in dict.fromkeys(names)]


def write(found: Sequence[Parcel], output: Path, reporter: Reporter, *, overwrite: bool) -> int:
    """The bundle, whole or not at all; its size in bytes.

    Raises:
        DiskFullError: It does not fit.
        ItemError: It cannot be written, or a file that it holds cannot be read.
        OutputDiffersError: There is another file of that name.
    """
    if output.exists() and not overwrite:
        raise OutputDiffersError(f"{output} exists", fix="--overwrite replaces it")
    needed = OVERHEAD + sum(p.file.stat().st_size for parcel in found for p in parcel.pieces)
    place = next(folder for folder in output.absolute().parents if folder.is_dir())
    if (free := shutil.disk_usage(place).free) < needed:
        raise DiskFullError(
            f"{output} takes {needed / 2**30:.1f} GiB, and {place} has {free / 2**30:.1f} GiB free",
            fix="choose another --output, or bundle fewer at a time",
        )
    total = sum(len(parcel.pieces) for parcel in found)
    with (
        reporter.task("files", total) as progress,
        replacing(output) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for parcel in found:
            lines = []
            for piece in parcel.pieces:
                with piece.file.open("rb") as data:
                    digest = hashlib.file_digest(data, "sha256").hexdigest()
                    tar.addfile(_header(piece.name, data.tell()), _rewound(data))
                lines.append(f"{digest}  {piece.name.removeprefix(parcel.base)}\n")
                progress.advance()
            record = "".join(lines).encode()
            tar.addfile(_header(parcel.record, len(record)), io.BytesIO(record))
    return output.stat().st_size


def _parcel(name: str, weights_dir: Path | None) -> Parcel:
    if name.startswith(metric_weights.PREFIX):
        return _of_metric(name, metric_weights.named(name), weights_dir)
    source = registry.find(name)
    if source.folder is not None:
        if name in registry.SOURCES:
            raise InputError(f"{name} ships with the package", fix="leave it out")
        raise InputError(f"{name} is a folder of yours", fix="copy it as it is")
    if source.file is not None:
        raise InputError(f"{name} is a file of yours", fix="copy it as it is")
    return _of_backbone(source)


def _of_backbone(source: Source) -> Parcel:
    folder = registry.snapshot(source)
    hashes.verify(source, folder)
    inside = sorted(
        {path for pattern in source.patterns for path in folder.glob(pattern) if path.is_file()}
    )
    pieces = tuple(
        Piece(f"{source.name}/{path.relative_to(folder).as_posix()}", path)
        for path in inside
        if path.name != SUMS
    )
    base = f"{source.name}/"
    return Parcel(source.name, source.licence, pieces, f"{base}{SUMS}", base)


def _of_metric(name: str, wanted: Weights, weights_dir: Path | None) -> Parcel:
    path = weights.find(wanted, weights_dir)
    weights.check(wanted, path)
    target = f"{wanted.family}/{wanted.file}"
    if wanted.holds:
        inside = folders.files(wanted, path)
        pieces = tuple(Piece(f"{target}/{file.name}", file) for file in inside)
    else:
        if path.suffix == ".safetensors":
            target = Path(target).with_suffix(".safetensors").as_posix()
        pieces = (Piece(target, path),)
    # As `metric_weights` records them: from the folder that the record lies in.
    base = target.rpartition("/")[0] + "/"
    return Parcel(name, wanted.licence, pieces, f"{target}.sha256", base)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header


def _rewound(stream: io.BufferedReader) -> io.BufferedReader:
    stream.seek(0)
    return stream
