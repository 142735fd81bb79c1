"""Weights of the published metrics on this machine: fetched, converted from pickles, hashed again.

What is fetched lies where `stylecli.evaluation.weights.find` looks first. Beside it lies its
SHA-256, in the format of ``sha256sum``, so that a copy on another machine can be checked even where
its authors publish no hash.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from stylecli.artifacts.files import write_atomic
from stylecli.artifacts.store import save_tensors
from stylecli.errors import InputError, ItemError, WeightsError, did_you_mean
from stylecli.evaluation import folders
from stylecli.evaluation.folders import INDEX, is_whole
from stylecli.evaluation.published import WEIGHTS, Weights
from stylecli.evaluation.weights import (
    SOURCE_KEY,
    TEXTS,
    check,
    find,
    origin,
    places,
    read,
)

PREFIX = "metrics/"
# Nobody wants to fetch as much twice.
CONTINUED_MB = 1000
WORTH_KEEPING = 2**20
# Faults of the folder, not of the network.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
SHA256_DIGITS = 64


def named(name: str) -> Weights:
    """The row of a name such as ``metrics/inception``.

    Raises:
        InputError: There is none; the fix has the nearest.
    """
    known = {f"{PREFIX}{weights.name}": weights for weights in WEIGHTS.values()}
    if name in known:
        return known[name]
    hint = did_you_mean(name, known)
    raise InputError(
        f"no weights of a metric are called {name!r}", fix=f"{hint}known: {', '.join(known)}"
    )


def pull(weights: Weights, folder: Path | None = None) -> Path:
    """Fetch a file, unless it is there and sound; a pickle becomes safetensors on the way.

    Args:
        weights: What is wanted.
        folder: ``--weights-dir``; else it goes to ``$STYLE_WEIGHTS_DIR``, else among torch hub's
            checkpoints.

    Raises:
        WeightsError: The network, the disk or the file itself failed. A file that was there before
            is as it was; what arrived of a large one waits beside it, hidden, for the next try.
    """
    target = places(weights, folder)[0]
    if not weights.holds and target.suffix not in TEXTS:
        target = target.with_suffix(".safetensors")
    if _is_sound(weights, target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(weights, target) as scratch:
            _settle(weights, _fetch(weights, scratch), target)
        below = f"{target.name}/" if weights.holds else ""
        lines = [f"{sha}  {below}{name}\n" for name, sha in _digests(weights, target).items()]
        write_atomic(_record_of(target), "".join(lines).encode())
    except (OSError, ItemError) as error:
        raise WeightsError(
            f"{target} cannot be written: {getattr(error, 'strerror', None) or error}",
            fix="free some disk, or choose another --weights-dir",
        ) from error
    return target


@contextmanager
def _scratch(weights: Weights, target: Path) -> Iterator[Path]:
    """A folder on the same file system, so that the last step is a rename.

    What has arrived of something large stays in it when the network fails: the hub's client goes
    on from there.
    """
    if weights.repository and weights.megabytes >= CONTINUED_MB:
        folder = target.parent / f".pull-{target.name}"
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        except BaseException:
            # The client's own notes are nothing to go on from.
            held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if held < WORTH_KEEPING:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
        return
    with TemporaryDirectory(prefix=".pull-", dir=target.parent) as name:
        yield Path(name)


def verify(weights: Weights, folder: Path | None = None) -> tuple[Path, str]:
    """Read a file again and compare its SHA-256 with the published and the recorded one.

    Returns:
        Which file, and its own digest.

    Raises:
        WeightsError: Not there, not as recorded, or nothing is recorded to compare with.
    """
    path = find(weights, folder)
    check(weights, path)
    return path, _verified(weights, path)


def _verified(weights: Weights, path: Path) -> str:
    try:
        own, recorded = _digests(weights, path), _recorded(weights, path)
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", fix=_again(weights)) from error
    for name, known in recorded.items():
        if (digest := own.get(name, "")) != known:
            where = path / name if weights.holds else path
            has = f"has SHA-256 {digest[:12]}…, not {known[:12]}…" if digest else "is not there"
            raise WeightsError(f"{where} {has}", fix=_again(weights))
    whole = folders.whole(own) if weights.holds else own[path.name]
    is_published = bool(weights.sha256) and whole.startswith(weights.sha256)
    if not recorded and not is_published:
        raise WeightsError(
            f"no hash is recorded for {path}; it has SHA-256 {whole}",
            fix=f"{_again(weights)} and records it, or compare it by hand",
        )
    return whole


def _is_sound(weights: Weights, path: Path) -> bool:
    if not (is_whole(weights, path) if weights.holds else path.is_file()):
        return False
    try:
        check(weights, path)
        _verified(weights, path)
    except WeightsError:
        return False
    return True


def _fetch(weights: Weights, scratch: Path) -> Path:
    """The published file, in an empty folder.

    Raises:
        WeightsError: It did not arrive.
        OSError: There is no room for it.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    try:
        if weights.holds:
            # An index says which of the other files are the weights.
            wanted_files = [*weights.holds, INDEX]
            snapshot_download(weights.repository, allow_patterns=wanted_files, local_dir=scratch)
            return scratch
        if weights.repository:
            wanted = weights.hub_file or weights.file
            return Path(hf_hub_download(weights.repository, wanted, local_dir=scratch))
        path = scratch / Path(weights.file).name
        torch.hub.download_url_to_file(
            weights.url,
            str(path),
            hash_prefix=weights.sha256 or None,
            progress=not constants.HF_HUB_DISABLE_PROGRESS_BARS,
        )
    except Exception as error:  # the clients raise what their own HTTP libraries raise
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"{weights.file} could not be fetched from {origin(weights)}: {reason}",
            fix="try again, or copy it from a machine with a network into a folder for "
            f"--weights-dir, as {weights.family}/{weights.file}",
        ) from error
    return path


def _settle(weights: Weights, fetched: Path, target: Path) -> None:
    """Put what was fetched in its place, tensors as safetensors.

    Raises:
        WeightsError: It is not what it is named for; nothing was put there.
    """
    digest = check(weights, fetched)
    if weights.holds:
        _settle_folder(weights, fetched, target)
        return
    if fetched.suffix in (".safetensors", *TEXTS):
        fetched.replace(target)
        return
    tensors = read(weights, fetched)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{weights.file} has values in {name} that are not finite",
                fix=f"report it to {origin(weights)}",
            )
    # A converted file is trusted by the digest of the pickle, which nobody can compute from it.
    save_tensors(target, tensors, {SOURCE_KEY: digest})


def _settle_folder(weights: Weights, fetched: Path, target: Path) -> None:
    made = fetched / "made"
    made.mkdir(exist_ok=True)
    for file in folders.files(weights, fetched):
        file.rename(made / file.name)
    if target.exists():
        # What was there is not sound; it goes with the scratch folder.
        target.rename(fetched / "old")
    made.rename(target)


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(weights: Weights, path: Path) -> dict[str, str]:
    """File -> the digest that `pull` noted, or the hub's client in the name of the file."""
    record = _record_of(path)
    if record.is_file():
        lines = (line.split(maxsplit=1) for line in record.read_text(encoding="utf-8").splitlines())
        return {Path(line[1]).name: line[0] for line in lines if len(line) == 2}
    own = folders.files(weights, path) if weights.holds else [path]
    blobs = {file.name: file.resolve().name for file in own if file.is_symlink()}
    return {name: blob for name, blob in blobs.items() if len(blob) == SHA256_DIGITS}


def _digests(weights: Weights, path: Path) -> dict[str, str]:
    # Not remembered as in `artifacts.store`: rot changes neither size nor time.
    own = folders.files(weights, path) if weights.holds else [path]
    return {file.name: _sha256(file) for file in own}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _again(weights: Weights) -> str:
    return f"`style models pull {PREFIX}{weights.name}` fetches it again"
