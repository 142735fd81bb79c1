"""A LoRA file tried: loaded as its users will load it, and every number compared.

What other programs take in silence and then ignore is the danger. Counting layers does not find it:
there are files whose layers are all made, and filled with fresh numbers that change nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylecli.backbone import lora, lora_names
from stylecli.backbone.row_loras import Pairs
from stylecli.errors import UsageError

_TRIAL = "style_verify_load"
# Some of what libraries say names every layer.
MAX_REFUSAL = 160
# Whose loader reads the files that other people will load: by the class of the denoiser.
_PIPELINES = {
    "UNet2DConditionModel": "StableDiffusionPipeline",
    "ZImageTransformer2DModel": "ZImagePipeline",
    "Flux2Transformer2DModel": "Flux2KleinPipeline",
}


def verify_load(model: Any, pairs: Pairs, source: Path | Mapping[str, Tensor]) -> None:
    """Load a file as diffusers' users will, and compare every number; the model stays as it was.

    It needs the weights of the backbone, which no command that writes LoRAs loads: they compare the
    file with the backbone's list of layers, and with what is read back. The tests try every layout
    by this, on a model of every kind; and it is what tells why a file of others changes nothing.

    Args:
        model: A UNet or transformer of diffusers with its weights.
        pairs: What the file is meant to say, perhaps in finer numbers than its own.
        source: The file, a PEFT folder, or the tensors of one.

    Raises:
        UsageError: Nothing was loaded, or some of it came out with other numbers.
    """
    tensors = source if isinstance(source, Mapping) else lora.opened(source)[0]
    # Not that of an alpha, which is always a whole float.
    dtype = next((value.dtype for value in tensors.values() if value.ndim), torch.float32)
    layout = lora_names.layout_of(tensors)
    flaw = layout and lora_names.flaw(layout, pairs)
    with loaded(model, source) as (found, refusal):
        same = sum(
            path in found and all(map(partial(_is_near, dtype), pair, found[path]))
            for path, pair in pairs.items()
        )
    if same < len(pairs) or found.keys() - pairs.keys():
        reason = f": {flaw or refusal}" if flaw or refusal else ""
        raise UsageError(
            f"loaded by diffusers, {same} of {len(pairs)} layers are as the LoRA has them, and "
            f"{len(found)} were made{reason}",
            fix="style lora convert FILE --format diffusers -o OTHER",
        )


def pipeline_of(model: Any) -> Any:
    """The pipeline of diffusers whose loader reads LoRAs for a model.

    Raises:
        UsageError: There is none.
    """
    import diffusers

    name = _PIPELINES.get(type(model).__name__)
    if name is None:
        raise UsageError(
            f"diffusers has no loader of LoRAs for {type(model).__name__}",
            fix="check the file against the layers alone",
        )
    return getattr(diffusers, name)


def part_of(model: Any) -> lora_names.Prefix:
    """What a model is called in the pipelines, and in the keys of files."""
    return "unet" if type(model).__name__ == "UNet2DConditionModel" else "transformer"


@contextmanager
def loaded(model: Any, source: Path | Mapping[str, Tensor]) -> Iterator[tuple[Pairs, str]]:
    """What diffusers makes of a file in a model, and what it says where it refuses."""
    from diffusers.utils import logging

    pipeline = pipeline_of(model)
    was_bare = not getattr(model, "peft_config", None)
    refusal, verbosity = "", logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _load(pipeline, model, source)
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError) as error:
        refusal = str(error).partition("\n")[0][:MAX_REFUSAL]
    finally:
        logging.set_verbosity(verbosity)
    try:
        yield dict(_held(model)), refusal
    finally:
        if was_bare:
            model.unload_lora()
        elif _TRIAL in model.peft_config:
            model.delete_adapters(_TRIAL)


def _load(pipeline: Any, model: Any, source: Path | Mapping[str, Tensor]) -> None:
    """As the pipeline's own `load_lora_weights` does, without the rest of a pipeline."""
    if isinstance(source, Path) and source.is_dir():
        tensors, _, config = lora.opened(source)
        state = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
        model.load_lora_adapter(state, prefix=None, adapter_name=_TRIAL, metadata=config)
        return
    given = dict(source) if isinstance(source, Mapping) else source
    said = pipeline.lora_state_dict(given, return_lora_metadata=True, local_files_only=True)
    if "unet" in pipeline._lora_loadable_modules:
        state, alphas, metadata = said
        pipeline.load_lora_into_unet(state, alphas, model, adapter_name=_TRIAL, metadata=metadata)
    else:
        state, metadata = said
        pipeline.load_lora_into_transformer(state, model, adapter_name=_TRIAL, metadata=metadata)


def _held(model: nn.Module) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """What the trial adapter is in the model, its scale in ``up``."""
    from peft.tuners.lora import LoraLayer

    for path, module in model.named_modules():
        layer: Any = module
        if isinstance(module, LoraLayer) and _TRIAL in layer.lora_A:
            down, up = layer.lora_A[_TRIAL].weight, layer.lora_B[_TRIAL].weight
            # Its type is that of the model: in a half, a scale would be lost.
            yield path, (down.detach(), up.detach().float() * layer.scaling[_TRIAL])


def _is_near(dtype: torch.dtype, wanted: Tensor, found: Tensor) -> bool:
    """Equal but for what is lost in the type of the file and in that of the model."""
    if wanted.shape != found.shape:
        return False
    rough = max(torch.finfo(one).eps for one in (dtype, found.dtype, torch.float32))
    wanted = wanted.to(found.device, torch.float32)
    # Of the largest too: the smallest halves have hardly any digits.
    least = float(wanted.abs().max()) * rough * rough if wanted.numel() else 0.0
    return torch.allclose(found.float(), wanted, rtol=rough, atol=least, equal_nan=True)
