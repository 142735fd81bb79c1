"""What a safetensors file says of itself before a single number is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stylecli.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Header:
    """Of one file.

    Attributes:
        types: As the format names them, such as BF16.
    """

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]
    metadata: Mapping[str, str]


def read(file: Path) -> Header:
    """The header alone; that it fits the size of the file is checked too.

    Raises:
        WeightsError: Missing, a pickle, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise WeightsError(f"{file} does not exist", fix="check the path")
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file} is not a .safetensors file; pickles can run code and are refused",
            fix="convert it where you trust it",
        )
    try:
        with safe_open(file, framework="pt") as stream:
            slices = {key: stream.get_slice(key) for key in stream.keys()}  # noqa: SIM118
            return Header(
                {key: tuple(one.get_shape()) for key, one in slices.items()},
                {key: str(one.get_dtype()) for key, one in slices.items()},
                dict(stream.metadata() or {}),
            )
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{file} cannot be read: {reason}", fix="copy it again") from error
