"""HiDream-O1-Image from a local folder, or a plain reason why not; nothing is filled in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone.denoisers.hidream_o1_model import Transformer
from stylecli.errors import WeightsError

CONFIG = "config.json"
# Parts of the released files that drawing from words does not use.
UNUSED = ("model.visual.", "lm_head.")
TIME = "<|tms_token|>"
BEGIN = "<|boi_token|>"
AGAIN = "pull or copy the folder of HiDream-ai/HiDream-O1-Image again"


def load(folder: Path, *, dtype: torch.dtype) -> Transformer:
    """The network, frozen and in eval mode, on the CPU.

    Args:
        folder: `config.json` and the `.safetensors` files side by side.
        dtype: Of all weights.

    Raises:
        WeightsError: A file is missing or unreadable, or a tensor missing, unknown, there twice or
            of another shape.
    """
    config = _read(folder)
    with torch.device("meta"):
        model = Transformer(config)
    wanted = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, value in _tensors(folder):
        if name.startswith(UNUSED):
            continue
        if name not in wanted:
            raise _unfit(folder, f"tensor {name} is unknown")
        if name in found:
            raise _unfit(folder, f"tensor {name} is there twice")
        if value.shape != wanted[name].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(wanted[name].shape)}"
            raise _unfit(folder, f"tensor {name} has the shape {shapes}")
        found[name] = value.to(dtype)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise _unfit(folder, f"tensor {missing[0]} is missing{more}")
    model.load_state_dict(found, assign=True)
    # Its frequencies follow from the configuration, and are in no file.
    body: Any = model.model.language_model
    body.rotary_emb = type(body.rotary_emb)(body.config)
    return model.requires_grad_(False).eval()


def tokenizer(folder: Path) -> Any:
    """What cuts prompts into tokens, and knows the two that this model adds.

    Raises:
        WeightsError: It cannot be read, has no chat template, or knows those tokens not as one.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise _unfit(folder, f"the tokenizer cannot be read: {said}") from error
    if not found.chat_template:
        raise _unfit(folder, "the tokenizer has no chat template")
    for token in (BEGIN, TIME):
        if found.convert_tokens_to_ids(token) in (None, found.unk_token_id):
            raise _unfit(folder, f"the tokenizer does not know {token}")
    return found


def _read(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise _unfit(folder, f"{CONFIG} cannot be read") from error
    if not isinstance(config, dict):
        raise _unfit(folder, f"{CONFIG} is no table")
    return config


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _unfit(folder, "no .safetensors file")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118, no mapping
                    # Never read what is as large as the rest together and unused.
                    if not name.startswith(UNUSED):
                        yield name, opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _unfit(folder, f"{file.name} cannot be read") from error


def _unfit(folder: Path, what: str) -> WeightsError:
    return WeightsError(f"{folder.name}: {what}", fix=AGAIN)
