"""A predictor as one file: its numbers, and in the header all that is needed to use it.

What is read is taken strictly. A predictor belongs to one backbone, one list of layers and one
encoder; a tensor that is missing, unknown or of another shape is an error that names it. No file is
opened here: `stylecli.engine.i2l.predictors` does that, and `contents` is what
`stylecli.artifacts.store.save_tensors` takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylecli.backbone.linears import Layer
from stylecli.errors import WeightsError
from stylecli.methods.i2l.encoders.base import Description
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape

FORMAT_KEY, FORMAT = "i2l.format", "1"
CONFIG_KEY = "i2l.config"
NAMED = 4
AGAIN = "copy or train it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a predictor is for.

    Attributes:
        layers: Whose LoRA it writes, in its own order.
        layer_set: Their name in recipes.
        backbone: As in `backbone.id`; of a folder its name alone.
        kind: Of that backbone, as in the registry.
        encoder: Its references must come through it.
        revision: Commit of the backbone, where one was named.
        fingerprint: Digest of the backbone's files.
        training: What a page would say of how it was made.
    """

    shape: Shape
    layers: tuple[Layer, ...]
    layer_set: str
    backbone: str
    kind: str
    encoder: Description
    revision: str | None = None
    fingerprint: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "shape": self.shape.to_json(),
            "layers": [list(layer) for layer in self.layers],
            "layer_set": self.layer_set,
            "backbone": self.backbone,
            "kind": self.kind,
            "encoder": self.encoder.to_json(),
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "training": dict(self.training),
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Config:
        """What `to_json` wrote.

        Raises:
            TypeError: A value is missing, unknown, or of another type.
            ValueError: No predictor has such sizes.
        """
        own = dict(said)
        layers = tuple(Layer(str(p), int(i), int(o)) for p, i, o in own.pop("layers", ()))
        shape = Shape.from_json(own.pop("shape", {}))
        encoder = Description.from_json(own.pop("encoder", {}))
        if not layers or shape.encoder_width != encoder.width:
            raise ValueError("its layers or the width of its encoder are missing")
        return cls(shape=shape, layers=layers, encoder=encoder, **own)


def contents(
    predictor: Predictor, config: Config, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a predictor's file.

    Args:
        config: Of this predictor; its shape and layers are the predictor's own.
        dtype: In the file; float16 is half as large, and enough for use.

    Raises:
        ValueError: The config is of another predictor.
    """
    if (config.shape, config.layers) != (predictor.shape, predictor.layers):
        raise ValueError("the config is not of this predictor")
    tensors = {name: tensor.to(dtype) for name, tensor in predictor.state_dict().items()}
    header = {FORMAT_KEY: FORMAT, CONFIG_KEY: json.dumps(config.to_json(), sort_keys=True)}
    return tensors, header


def config_of(path: Path, header: Mapping[str, str]) -> Config:
    """What a predictor is for.

    Args:
        path: For messages.
        header: Of its file.

    Raises:
        WeightsError: No predictor that this program wrote, or its header is damaged.
    """
    if FORMAT_KEY not in header or CONFIG_KEY not in header:
        raise WeightsError(
            f"{path} is no predictor that this program wrote",
            fix="give the file that `style i2l-train` wrote; `style lora convert` knows others",
        )
    if header[FORMAT_KEY] != FORMAT:
        raise WeightsError(
            f"{path} is a predictor of format {header[FORMAT_KEY]}, this program reads {FORMAT}",
            fix="install a newer release",
        )
    try:
        return Config.from_json(json.loads(header[CONFIG_KEY]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{path}: the header of this predictor is damaged: {reason}", fix=AGAIN
        ) from error


def predictor_of(path: Path, tensors: Mapping[str, Tensor], config: Config) -> Predictor:
    """A predictor in float32, frozen; numbers that are float32 already are not copied.

    Args:
        path: For messages.
        tensors: Of its file.

    Raises:
        WeightsError: A tensor is missing, unknown, of another shape or not finite, or the predictor
            is one that no training could ever change.
    """
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    with torch.device("meta"):
        predictor = Predictor(config.shape, config.layers)
    if faults := _faults(predictor.state_dict(), tensors):
        more = f" (and {len(faults) - NAMED} more faults)" if len(faults) > NAMED else ""
        raise WeightsError(f"{path}: {'; '.join(faults[:NAMED])}{more}", fix=AGAIN)
    predictor.load_state_dict(tensors, assign=True)
    if predictor.is_dead:
        raise WeightsError(f"{path}: every matrix that the LoRAs are made with is zero", fix=AGAIN)
    return predictor.eval().requires_grad_(False)


def _faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    faults = [f"tensor {name} is missing" for name in wanted if name not in given]
    faults += [f"tensor {name} is unknown" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        here, there = tuple(given[name].shape), tuple(wanted[name].shape)
        if here != there:
            faults.append(f"tensor {name} has shape {here}, not {there}")
        elif not torch.isfinite(given[name]).all():
            faults.append(f"tensor {name} holds values that are not finite")
    return sorted(faults)
