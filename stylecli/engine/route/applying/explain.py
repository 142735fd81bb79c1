"""What the words of styles looked at while a picture was edited: as a strip, and as numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import files, sheets, store
from stylecli.engine.route.applying.editing import Edited, looked_at
from stylecli.engine.route.applying.wishes import Edit

SUFFIX = ".attention.npz"
# Steps that a strip shows, spread from the first to the last.
SHOWN = 5
# Where least and most was looked; the picture shows through.
COLD, WARM = (0.05, 0.08, 0.35), (1.0, 0.80, 0.10)
TINT = 0.65
# What is absent in a table whose rows are not of one length.
NONE = -1


def strip(
    before: Float[Tensor, "3 h w"], edits: Sequence[Edit], done: Sequence[Edited]
) -> UInt8[Tensor, "hs ws 3"]:
    """A row for each edit: the picture before, maps of some steps and of their mean, and after.

    Every map is shown from its own least to its own most.
    """
    rows, labels = [], []
    heads = ["before"]
    for edit, one in zip(edits, done, strict=True):
        looked = looked_at(one)
        at = torch.linspace(0, len(looked.maps) - 1, min(SHOWN, len(looked.maps)))
        steps = at.round().long().tolist()
        shown = [looked.maps[step] for step in steps]
        rows.append([before, *(_laid_over(before, one_map) for one_map in shown)])
        rows[-1] += [_laid_over(before, looked.maps.float().mean(dim=0)), one.image]
        heads = ["before", *(f"step {step + 1}" for step in steps), "mean", "after"]
        thing = f"{edit.object}: " if edit.object else ""
        labels.append(f"{thing}{edit.style}")
        before = one.image
    notes = [f"{number}. {edit.prompt}" for number, edit in enumerate(edits, start=1)]
    return sheets.grid(rows, row_labels=labels, column_labels=heads, notes=notes)


def numbers(
    edits: Sequence[Edit], done: Sequence[Edited], provenance: Mapping[str, Any] | None
) -> bytes:
    """The same as an ``.npz``; equal arguments make equal bytes.

    maps (edits, steps, rows, columns) float16, as they were; times (edits, steps), noise levels or
    timesteps; tokens (edits, longest), places of the words, filled up with -1; objects and styles.
    """
    looked = [looked_at(one) for one in done]
    longest = max(len(one.tokens) for one in looked)
    tokens = [[*one.tokens, *[NONE] * (longest - len(one.tokens))] for one in looked]
    arrays: dict[str, Any] = {
        "maps": torch.stack([one.maps for one in looked]).half().numpy(),
        "times": torch.stack([one.times for one in looked]).numpy(),
        "tokens": np.array(tokens, dtype=np.int64),
        "objects": np.array([edit.object or "" for edit in edits]),
        "styles": np.array([edit.style for edit in edits]),
        "prompts": np.array([edit.prompt for edit in edits]),
    }
    if provenance is not None:
        arrays[store.KEY] = np.array(files.to_json(provenance))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _laid_over(
    picture: Float[Tensor, "3 h w"], looked: Float[Tensor, "gh gw"]
) -> Float[Tensor, "3 h w"]:
    looked = looked.float()
    least, most = looked.amin(), looked.amax()
    share = (looked - least) / (most - least).clamp(min=1e-12)
    size = (picture.shape[-2], picture.shape[-1])
    share = F.interpolate(share[None, None], size, mode="bilinear", align_corners=False)[0]
    cold, warm = (torch.tensor(colour).view(3, 1, 1) for colour in (COLD, WARM))
    grey = picture.mean(dim=0, keepdim=True)
    return torch.lerp(grey.expand(3, -1, -1), cold + (warm - cold) * share, TINT)
