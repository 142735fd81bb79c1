"""Everything that led to a picture, as tensors: to be compared with another program's.

Gradients are as large as latents and there is one of every update, so they wait on the disk.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stylecli.artifacts import files
from stylecli.artifacts.files import FULL
from stylecli.errors import DiskFullError

_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32"}


@dataclass(frozen=True, slots=True)
class Recorded:
    """The updates of one content; `gradients` holds theirs one after the other, float32."""

    gradients: BinaryIO
    timesteps: list[int] = field(default_factory=list)
    style: list[float] = field(default_factory=list)
    content: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)


class Recorder:
    """Told of every update, and writes down what became of each content; see `optimise.Watch`."""

    def __init__(self, contents: int) -> None:
        """Take down so many of the rows; what fills a batch up is left out."""
        with ExitStack() as opened:
            self.of = [
                Recorded(opened.enter_context(tempfile.TemporaryFile())) for _ in range(contents)
            ]
            opened.pop_all()

    def __call__(
        self,
        timestep: int,
        style: Float[Tensor, " b"],
        content: Float[Tensor, " b"],
        gradient: Float[Tensor, "b c h w"],
        skipped: Sequence[int],
    ) -> None:
        """Write an update down.

        Raises:
            DiskFullError: There is no room for its gradient.
        """
        rows = zip(style.tolist(), content.tolist(), gradient.float().cpu(), strict=True)
        for at, (one, (rsl, gcl, own)) in enumerate(zip(self.of, rows, strict=False)):
            one.timesteps.append(timestep)
            one.style.append(rsl)
            one.content.append(gcl)
            one.skipped.append(int(at in skipped))
            try:
                one.gradients.write(own.contiguous().numpy().tobytes())
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise DiskFullError(
                    "the disk for temporary files is full: a dump keeps every gradient there",
                    fix="set TMPDIR to a folder with room, or leave out --dump",
                ) from error

    def close(self) -> None:
        """Let go of what was written down and is not wanted."""
        for one in self.of:
            one.gradients.close()


def save(
    path: Path,
    recorded: Recorded,
    *,
    labels: Mapping[str, Int[Tensor, "_h _w"]],
    latents: Mapping[str, Float[Tensor, "c h w"]],
    header: Mapping[str, str],
) -> None:
    """Write a dump as safetensors, whole or not at all.

    It holds ``labels.content`` and ``labels.ref1`` and so on; ``timesteps``, ``losses.style``,
    ``losses.content`` and ``skipped``, one number an update; ``gradients``, one latent an update;
    and `latents`.

    Args:
        path: Of the file.
        recorded: Is closed.
        labels: By ``content``, ``ref1`` and so on.
        latents: By name; ``latents`` are the last.
        header: Its metadata.

    Raises:
        ItemError: It cannot be written.
    """
    small = {
        **{f"labels.{name}": one.long() for name, one in labels.items()},
        **{name: one.float().cpu() for name, one in latents.items()},
        "losses.content": torch.tensor(recorded.content, dtype=torch.float64),
        "losses.style": torch.tensor(recorded.style, dtype=torch.float64),
        "skipped": torch.tensor(recorded.skipped, dtype=torch.int64),
        "timesteps": torch.tensor(recorded.timesteps, dtype=torch.int64),
    }
    entries: dict[str, object] = {"__metadata__": dict(header)}
    at = 0
    for name, tensor in sorted(small.items()):
        end = at + tensor.nbytes
        entries[name] = _entry(_NAMES[tensor.dtype], list(tensor.shape), at, end)
        at = end
    shape = [len(recorded.timesteps), *latents["latents"].shape]
    end = at + recorded.gradients.tell()
    entries["gradients"] = _entry("F32", shape, at, end)
    text = json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with recorded.gradients as gradients, files.replacing(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(small.items()):
            stream.write(tensor.contiguous().numpy().tobytes())
        gradients.seek(0)
        shutil.copyfileobj(gradients, stream)


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
