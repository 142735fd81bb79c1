"""The LoRAs that a command line names."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from stylecli.backbone.lora import PEFT_WEIGHTS
from stylecli.errors import InputError


def named(arguments: Sequence[Path]) -> list[Path]:
    """Files, folders of them, globs, and PEFT folders, each of which is one; every one once.

    Raises:
        InputError: A folder or a glob that holds none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        paths = dict.fromkeys(_behind(argument.expanduser()))
        if not paths:
            raise InputError(f"{argument} matches no LoRA file", fix="check the name")
        found.update(paths)
    return list(found)


def _behind(path: Path) -> Iterator[Path]:
    if (path / PEFT_WEIGHTS).is_file():
        yield path
    elif path.is_dir():
        for file in sorted(path.rglob("*.safetensors")):
            if not file.name.startswith("."):  # the state of a training that was interrupted
                yield file.parent if file.name == PEFT_WEIGHTS else file
    elif not path.exists() and glob.has_magic(str(path)):
        yield from map(Path, sorted(glob.glob(str(path), recursive=True)))  # noqa: PTH207
    else:
        yield path
