"""Compiles the blocks of a small FLUX and prints what came of it, as JSON.

A pair of rows, without and with checkpointing: graphs, and how far loss and gradients are from
those of the eager model.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager

from stylecli.backbone.editors.base import Text
from stylecli.backbone.editors.flux_kontext import FluxKontext
from tests import tiny_kontext
from tests.small import noise

GRID = (3, 5)
graphs = 0


def counting(graph: Any, inputs: Any) -> Any:
    global graphs
    graphs += 1
    return aot_eager(graph, inputs)


def gradients(editor: FluxKontext) -> tuple[Tensor, list[Tensor]]:
    model: Any = editor.model
    model.requires_grad_(False)
    learning = [p for name, p in model.named_parameters() if ".to_q." in name]
    for parameter in learning:
        parameter.requires_grad_(True)
    size = (2, 4, 2 * GRID[0], 2 * GRID[1])
    text = Text(noise(2, 24, 24, seed=3), noise(2, 32, seed=4))
    rows = noise(*size), torch.tensor([0.3, 0.8]), text, noise(*size, seed=1)
    with editor.probing() as probe:
        probe.watch([[[1, 2, 3]], [[4], [0, 9]]], GRID)
        answer = editor.predict(*rows)
        loss = answer.square().mean() + 100 * probe.maps().square().mean()
        slopes = torch.autograd.grad(loss, learning)
        probe.enabled = False
        with torch.no_grad():
            editor.predict(*rows)
    return loss.detach(), list(slopes)


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        saved = tiny_kontext.save_folder(Path(folder), double=4, single=8)
        editor = tiny_kontext.editor(saved)
        loss, slopes = gradients(editor)
        model: Any = editor.model
        model.compile_repeated_blocks(fullgraph=True, backend=counting)
        found = []
        for checkpointing in (False, True):
            editor.checkpointing(on=checkpointing)
            before = graphs
            again, same = gradients(editor)
            apart = max(float((a - b).abs().max()) for a, b in zip(slopes, same, strict=True))
            found.append((graphs - before, float((again - loss).abs() / loss), apart))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
