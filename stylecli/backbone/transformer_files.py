"""Transformers from a diffusers folder, or from one file beside the rest of a folder; strictly.

Of a file, every tensor has to be there and none more; both are found out from its header, before
any of its gigabytes is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone import headers, loading, original_names, single_file
from stylecli.backbone import transformer_kinds as kinds
from stylecli.backbone.architectures import ARCHITECTURES
from stylecli.backbone.headers import Header
from stylecli.backbone.offload import MAIN_MEMORY
from stylecli.backbone.original_names import Family, Place
from stylecli.backbone.transformer_kinds import FAMILIES, PART
from stylecli.errors import UsageError, WeightsError
from stylecli.recipe.strict import Quantize

Shapes = Mapping[str, tuple[int, ...]]
# Of Lumina 2, from which Z-Image comes: some files still have it, and no layer reads it.
_IDLE = ("norm_final.weight",)


def load(
    cls: Any,
    folder: Path,
    dtype: torch.dtype,
    *,
    variant: str | None = None,
    file: Path | None = None,
    quantize: Quantize = "none",
    device: torch.device = MAIN_MEMORY,
) -> Any:
    """A transformer in main memory; quantised, on a device.

    Args:
        cls: Of diffusers.
        folder: A diffusers folder; beside a file it needs no more of this part than its config.
        dtype: Of the weights.
        variant: Of the folder's weight files, such as bf16.
        file: What has the weights, under the names that its authors gave them; it is read whole.
        quantize: How a folder's frozen weights are kept.
        device: Where they are quantised.

    Raises:
        WeightsError: Missing or unreadable; a tensor is missing, unknown or of another shape.
        UsageError: The file is something else.
    """
    if file is None:
        return loading.load_part(
            cls, folder, PART, dtype, variant, quantize=quantize, device=device
        )
    header = headers.read(file)
    name = _told(file, header)
    shapes = _empty(cls, folder)
    places = _checked(file, header, name, shapes)
    state = _tensors(file, header, places, shapes)
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it warns of layers that it keeps in float32: none
    try:
        # Under diffusers' names already, so that nothing is left for the library to convert.
        return cls.from_single_file(
            state, config=str(folder / PART), torch_dtype=dtype, local_files_only=True
        )
    except Exception as error:  # the library raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{file}: not a transformer of {name}: {reason}", fix="copy the file again"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def check(file: Path) -> None:
    """See that a file has all tensors of the published model, and none more; reads its header.

    Raises:
        WeightsError: One is missing, unknown or of another shape.
        UsageError: The file is something else.
    """
    import diffusers

    header = headers.read(file)
    name = _told(file, header)
    part = ARCHITECTURES[name].parts[PART]
    with torch.device("meta"):
        empty = getattr(diffusers, part.cls).from_config(dict(part.config))
    _checked(file, header, name, _shapes(empty))


def fingerprint(file: Path, folder: Path) -> str:
    """Of a transformer in one file and the parts in a folder, whose own transformer is not seen."""
    both = single_file.fingerprint(file), loading.fingerprint(folder, without=PART)
    return hashlib.sha256(" ".join(both).encode()).hexdigest()[:16]


def _checked(file: Path, header: Header, name: str, shapes: Shapes) -> dict[str, Place]:
    """Where the tensors of a model are in a file; `shapes` has them by diffusers' names."""
    family = FAMILIES[name]
    places = {key: _placed(family, key) for key in shapes}
    wanted = _fused(places, shapes)
    own = kinds.bare(header)
    for idle in _IDLE:
        own.pop(idle, None)
    if missing := sorted(wanted.keys() - own.keys()):
        raise WeightsError(
            f"{file}: tensor {missing[0]} of {name} is missing{_more(missing)}",
            fix="copy the file again; nothing was filled in at random",
        )
    if unknown := sorted(own.keys() - wanted.keys()):
        raise WeightsError(
            f"{file}: tensor {own[unknown[0]]} is none of the transformer of {name}"
            f"{_more(unknown)}",
            fix="give a file of this transformer alone",
        )
    for key, size in wanted.items():
        found = header.shapes[own[key]]
        if found != size:
            raise WeightsError(
                f"{file}: tensor {own[key]} is {kinds.shape(found)}, and that of {name} "
                f"{kinds.shape(size)}",
                fix="copy the file again, or give the folder of the model that it belongs to",
            )
    return places


def _told(file: Path, header: Header) -> str:
    name = kinds.told(file, header)
    if name is None:
        raise UsageError(
            f"{file} is no transformer of {', '.join(FAMILIES)}", fix="give another --backbone"
        )
    return name


def _empty(cls: Any, folder: Path) -> Shapes:
    config = loading.json_of(folder, f"{PART}/config.json")
    try:
        with torch.device("meta"):
            return _shapes(cls.from_config(config))
    except Exception as error:  # of a config of another model, of many kinds
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{folder.name}: {PART}/config.json describes no {cls.__name__}: {reason}",
            fix=loading.COPY_AGAIN,
        ) from error


def _shapes(model: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _placed(family: Family, key: str) -> Place:
    found = original_names.tensor_place(family, key)
    if found is None:  # a library that renamed a layer, which the tests tell
        raise WeightsError(
            f"diffusers names a tensor {key}, which no file has",
            fix="install the version of diffusers that style was released with",
        )
    return found


def _fused(places: Mapping[str, Place], shapes: Shapes) -> Shapes:
    """Of the authors' tensors: what is one of them lies below each other."""
    found: dict[str, tuple[int, ...]] = {}
    for key, place in places.items():
        size = shapes[key]
        if place.parts > 1 and (above := found.get(place.path)) is not None:
            size = (above[0] + size[0], *size[1:])
        found[place.path] = size
    return found


def _tensors(
    file: Path, header: Header, places: Mapping[str, Place], shapes: Shapes
) -> dict[str, Tensor]:
    """By diffusers' names, each in the type that the file has it in."""
    from safetensors import SafetensorError, safe_open

    own = kinds.bare(header)
    parts: dict[str, dict[int, str]] = {}
    for key, place in places.items():
        parts.setdefault(place.path, {})[place.part] = key
    found: dict[str, Tensor] = {}
    try:
        with safe_open(file, framework="pt") as stream:
            for path, keys in parts.items():
                whole = stream.get_tensor(own[path])
                if len(keys) == 1:
                    found[keys[0]] = _swapped(whole) if places[keys[0]].is_swapped else whole
                    continue
                ordered = [keys[part] for part in sorted(keys)]
                pieces = whole.split([shapes[key][0] for key in ordered])
                found.update(zip(ordered, pieces, strict=True))
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"{file} cannot be read: {reason}", fix="copy it again") from error
    return found


def _swapped(whole: Tensor) -> Tensor:
    """The lower half first."""
    return torch.cat(whole.chunk(2)[::-1])


def _more(keys: Sequence[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
