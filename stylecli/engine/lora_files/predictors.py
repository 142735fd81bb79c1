"""`style lora convert` of a predictor that others made, into a file that `i2l-predict` reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from stylecli.artifacts import files, store
from stylecli.backbone import headers, lora, lora_algebra, lora_layouts, registry
from stylecli.backbone.configs import CONFIGS
from stylecli.backbone.denoisers import layer_sets, layers_in, layers_of
from stylecli.backbone.linears import Layer
from stylecli.backbone.lora_layouts import Lora
from stylecli.engine import plan
from stylecli.engine.context import Reporter
from stylecli.engine.i2l import encoders
from stylecli.engine.i2l.forward import Forward
from stylecli.engine.lora_files.work import CONVERT, Work
from stylecli.engine.plan import Input, Job, Wanted
from stylecli.engine.provenance import Model, provenance
from stylecli.engine.request import Destination
from stylecli.errors import ForeignPredictorError, RecipeError, UsageError, WeightsError
from stylecli.methods.i2l import foreign, mapping
from stylecli.methods.i2l.files import Config, contents
from stylecli.methods.i2l.mapping import Map
from stylecli.methods.i2l.predictor import Predictor
from stylecli.recipe.i2l import Encoder as Settings

# By how much ``B A`` of a layer may differ from the original's, as a share, by what it computes in.
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}
_REFERENCE = re.compile(r"references\.\d+")
PREDICTORS: Collection[foreign.Kind] = ("v2", "first-generation", "ours")
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """What the original predicted.

    Attributes:
        pictures: References, 8-bit RGB.
        lora: Of these references together.
    """

    pictures: tuple[Tensor, ...]
    lora: Lora

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Of tensors ``references.0``, ``references.1`` and so on, and those of a LoRA.

        Raises:
            WeightsError: Missing, damaged, or without references.
            UsageError: It holds no LoRA.
        """
        tensors, header, _ = lora.opened(path)
        names = sorted(key for key in tensors if _REFERENCE.fullmatch(key))
        pictures = tuple(tensors.pop(name) for name in names)
        if not pictures or any(p.dtype != torch.uint8 or p.shape[2:] != (3,) for p in pictures):
            raise WeightsError(
                f"{path} has no references: references.0 and so on, uint8, height x width x 3",
                fix="write them beside the LoRA that the original makes of them",
            )
        return cls(pictures, lora_layouts.of(path, tensors, header))


def refuse_predictor(path: Path, *, among: Collection[foreign.Kind] = PREDICTORS) -> None:
    """See that a file to be converted without a map, or to be used, is no such predictor.

    Raises:
        WeightsError: It cannot be read.
        ForeignPredictorError: It is one.
    """
    if path.is_dir() or not path.is_file():
        return  # a PEFT folder, or nothing: reading says what is wrong
    header = headers.read(path)
    kind = foreign.kind_of(header.shapes, header.metadata)
    if kind in among:
        raise _refusal(path, header.shapes, kind)


def convert_predictor(
    source: Path,
    map_file: Path,
    destination: Destination,
    reporter: Reporter,
    *,
    golden: Path | None = None,
) -> Work:
    """Check a file against a map, by its header alone, and prepare to write ours.

    Raises:
        WeightsError: A file is missing or damaged.
        RecipeError: The map is none.
        ForeignPredictorError: File and map do not make a predictor.
    """
    header = headers.read(source)
    shapes = header.shapes
    kind = foreign.kind_of(shapes, header.metadata)
    if kind in ("ours", "lora"):
        raise _refusal(source, shapes, kind)
    map_ = read_map(map_file)
    layers = _layers(map_)
    wanted = mapping.targets(map_.sizes(), layers)
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    _, faults = mapping.applied(map_, empty, wanted)
    if faults:
        raise _refusal(source, shapes, kind, faults)
    answers = None if golden is None else Golden.read(golden)
    if answers is None:
        reporter.warn(
            f"{source.name}: without --golden nobody knows whether it predicts what the original "
            "does; i2l-predict will ask for --accept-unverified"
        )
    inputs = [Input.of("predictor", source)]
    inputs += [Input.of("report", golden)] if golden is not None else []
    planned = plan.build(
        CONVERT,
        [Wanted(inputs, settings=map_.model_dump(mode="json"))],
        decisive={},
        seed=0,
        output=destination.path,
        name="{key}.safetensors",
        is_file=destination.is_file(1, from_manifest=False),
        suffixes=(".safetensors",),
        strip=destination.strip,
    )

    def make(job: Job) -> Mapping[str, Any]:
        predictor = _predictor(source, map_, layers, wanted)
        config = _config(map_, layers)
        worst = None if answers is None else _compared(source, predictor, config, answers)
        return _write(job, map_, predictor, config, worst)

    return Work(planned, destination, reporter, make)


def read_map(path: Path) -> Map:
    """A map from its YAML file.

    Raises:
        WeightsError: It cannot be read.
        RecipeError: It is no map.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror}", fix="check the name"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path} is no YAML: {reason}", fix="check its indentation") from error
    return Map.read(said, path.name)


def candidates() -> dict[tuple[str, str], tuple[Layer, ...]]:
    """Layer sets of all known backbones, whose widths a predictor may have; takes seconds."""
    found = {}
    for name, source in registry.SOURCES.items():
        if source.kind not in registry.DRAWING:
            continue
        for layer_set in layer_sets.names(source.kind):
            if name in CONFIGS:
                found[name, layer_set] = layers_of(source.kind, CONFIGS[name], layer_set)
            elif source.folder is not None:
                found[name, layer_set] = layers_in(source.kind, source.folder, layer_set)
    return found


def _layers(map_: Map) -> tuple[Layer, ...]:
    source = registry.find(map_.backbone)
    registry.require(source, registry.DRAWING)
    if source.name in CONFIGS:
        return layers_of(source.kind, CONFIGS[source.name], map_.layer_set)
    return layers_in(source.kind, registry.snapshot(source), map_.layer_set)


def _refusal(
    path: Path,
    shapes: foreign.Sizes,
    kind: foreign.Kind,
    faults: foreign.Faults | None = None,
) -> UsageError:
    if kind == "ours":
        return UsageError(
            f"{path.name} is a predictor that this program wrote", fix="use it as it is"
        )
    known = {} if kind == "lora" else candidates()
    missing = foreign.MAP if faults is None else "mend the map"
    return foreign.refusal(path, foreign.report(shapes, kind, known), faults, missing=missing)


def _predictor(
    source: Path, map_: Map, layers: tuple[Layer, ...], wanted: Mapping[str, tuple[int, ...]]
) -> Predictor:
    tensors, _, _ = lora.opened(source)
    found, _ = mapping.applied(map_, tensors, wanted)
    with torch.device("meta"):
        predictor = Predictor(map_.sizes(), layers)
    whole = {name: tensor.float().contiguous() for name, tensor in found.items()}
    predictor.load_state_dict(whole, assign=True)
    return predictor.eval().requires_grad_(False)


def _config(map_: Map, layers: tuple[Layer, ...]) -> Config:
    source = registry.find(map_.backbone)
    sets = layer_sets.names(source.kind)
    return Config(
        shape=map_.sizes(),
        layers=layers,
        layer_set=sets[0] if map_.layer_set == "auto" else map_.layer_set,
        backbone=Path(source.name).name,
        kind=source.kind,
        encoder=map_.description(),
    )


def _compared(path: Path, predictor: Predictor, config: Config, golden: Golden) -> float:
    """The largest difference from the original's LoRA, of any layer.

    Raises:
        WeightsError: The encoder is not on this machine.
        ForeignPredictorError: It is too large, or the layers are others.
    """
    lora_layouts.verify(golden.lora.pairs, config.layers)
    encoder = encoders.opened_for(config.encoder, Settings(), device=CPU, dtype=torch.float32)
    forward = Forward(predictor, encoder, config)
    found = forward.pairs([forward.prepared(picture) for picture in golden.pictures])
    errors = lora_algebra.distances(found, golden.lora.pairs)
    limit = LIMITS.get(golden.lora.dtype, LIMITS[torch.float32])
    far = {name: error for name, error in errors.items() if not error <= limit}
    if far:
        worst = max(far, key=lambda name: far[name])
        raise ForeignPredictorError(
            f"{path.name}, mapped, does not predict what the original does: {len(far)} of "
            f"{len(errors)} layers are more than {limit:g} apart, {worst} {far[worst]:.3g}",
            fix=f"its architecture is another, or the map is wrong; {foreign.EXPORT}",
        )
    return max(errors.values())


def _write(
    job: Job, map_: Map, predictor: Predictor, config: Config, worst: float | None
) -> dict[str, Any]:
    converted = {
        "from_sha256": job.inputs[0].sha256,
        "map_sha256": store.digest(map_.model_dump(mode="json")),
        "verified": worst is not None,
        "worst": worst,
    }
    said = replace(config, training={"converted": converted})
    tensors, entries = contents(predictor, said)
    made_by = provenance(job, {}, Model(config.backbone, ""), convert=converted)
    if made_by is not None:
        entries[store.KEY] = files.to_json(made_by)
    store.save_tensors(job.output, tensors, entries)
    return {"verified": worst is not None, "worst": worst, "layers": len(config.layers)}
