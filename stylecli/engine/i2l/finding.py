"""Where predictors are: shipped, among the user's weights, beside a LoRA, or where one was used."""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from pathlib import Path

from stylecli.artifacts import cache, store
from stylecli.backbone.registry import ASSETS
from stylecli.engine.i2l import predictors
from stylecli.errors import WeightsError
from stylecli.methods.i2l.files import Config

FOLDER = "predictors"
SUFFIX = ".safetensors"


def folders() -> list[Path]:
    """Folders of predictors that nobody has to name, whether they are there or not."""
    own = os.environ.get("STYLE_WEIGHTS_DIR")
    return [ASSETS / FOLDER, *([Path(own).expanduser() / FOLDER] if own else [])]


def usual(backbone: str) -> Path:
    """The predictor of a backbone where none was named.

    Raises:
        WeightsError: There is none on this machine.
    """
    name = Path(backbone).name + SUFFIX
    for folder in folders():
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"no predictor for {Path(backbone).name} is on this machine",
        fix="--predictor FILE says where one is; `style i2l-train` makes one",
    )


def backbone_of(path: Path) -> str:
    """The backbone that a predictor makes LoRAs for.

    Raises:
        WeightsError: The file is no predictor.
        ForeignPredictorError: It is one that others made.
    """
    return config_of(path).backbone


def config_of(path: Path) -> Config:
    """What a predictor is for; of what others made, what it seems to be and how to use it.

    Raises:
        WeightsError: The file is no predictor.
        ForeignPredictorError: It is one that others made.
    """
    try:
        return predictors.read_config(path)
    except WeightsError:
        # Knows all backbones, which takes a second that those who have a predictor need not wait.
        from stylecli.engine.lora_files.predictors import refuse_predictor

        refuse_predictor(path, among=("v2", "first-generation"))
        raise


def remember(path: Path, sha256: str) -> None:
    """Note where a predictor is that was used, for those who meet one of its LoRAs later."""
    link = cache.cached(FOLDER, sha256, SUFFIX)
    with contextlib.suppress(OSError):  # a system without links, or a full disk
        link.parent.mkdir(parents=True, exist_ok=True)
        # Links that others made may be gone sooner than what is behind them.
        target = path.resolve()
        if not (link.is_symlink() and link.readlink() == target):
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def find(sha256: str, beside: Path) -> Path | None:
    """The predictor with this digest, where it is to be found.

    Args:
        sha256: Of its file.
        beside: A LoRA, whose folder is searched too.
    """
    link = cache.cached(FOLDER, sha256, SUFFIX)
    listed = [path for folder in (*folders(), beside.parent) for path in _predictors(folder)]
    for path in (*([link] if link.is_file() else []), *listed):
        with contextlib.suppress(OSError):
            if store.file_sha256(path) == sha256:
                return path
    return None


def _predictors(folder: Path) -> tuple[Path, ...]:
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return ()
    return _listed(folder, changed)


@lru_cache(maxsize=64)
def _listed(folder: Path, _changed_ns: int) -> tuple[Path, ...]:
    """By their headers, because a folder of LoRAs may hold gigabytes that need no hashing."""
    return tuple(path for path in sorted(folder.glob(f"*{SUFFIX}")) if _is_predictor(path))


def _is_predictor(path: Path) -> bool:
    try:
        predictors.read_config(path)
    except WeightsError:
        return False
    return True
