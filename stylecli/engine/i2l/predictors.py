"""Files of predictors, opened; what has to be in them is `stylecli.methods.i2l.files`."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from stylecli.errors import WeightsError
from stylecli.methods.i2l import files
from stylecli.methods.i2l.files import Config
from stylecli.methods.i2l.predictor import Predictor


def read_config(path: Path) -> Config:
    """What a predictor is for, without reading its numbers.

    Raises:
        WeightsError: Unreadable, or no predictor that this program wrote.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            header = stream.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return files.config_of(path, header)


def load(path: Path) -> tuple[Predictor, Config]:
    """A predictor in float32, frozen, on the CPU, and what it is for.

    Raises:
        WeightsError: Unreadable, no predictor, a tensor is missing, unknown, of another shape or
            not finite, or the predictor is one that no training could ever change.
    """
    config = read_config(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return files.predictor_of(path, tensors, config), config


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return WeightsError(f"{path} cannot be read: {reason}", fix="check the name, or copy it again")
