"""What a LoRA file is: its layout, its sizes, how strong it is, and what it says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from stylecli.artifacts import store
from stylecli.backbone import lora_algebra, lora_layouts
from stylecli.backbone.lora_layouts import Lora
from stylecli.backbone.row_loras import Pairs
from stylecli.engine.i2l import header
from stylecli.engine.provenance import carrier

# A layer's end and the inputs it has in a backbone; the first that fits names it.
_WIDTHS = (
    ("attn2.to_k", 128, "pocket"),
    ("attn2.to_k", 768, "sd15"),
    ("attn2.to_k", 1024, "sd21-base"),
    ("attn2.to_k", 2048, "sdxl"),
    ("attention.to_q", 3840, "z-image"),
    ("attn.to_qkv_mlp_proj", 3072, "flux2-klein"),
    ("self_attn.q_proj", 4096, "hidream-o1"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's part.

    Attributes:
        norm: Of ``B A``.
        effective_rank: How many of its directions count.
    """

    path: str
    width_in: int
    width_out: int
    rank: int
    norm: float
    effective_rank: float


@dataclass(frozen=True, slots=True)
class About:
    """A LoRA file, described.

    Attributes:
        says: The backbone it names itself.
        fits: The backbone its widths are those of, where they are known.
        norm: Of all layers together.
    """

    file: Path
    lora: Lora
    layers: tuple[Layer, ...]
    made_by: Mapping[str, Any] | None
    i2l: header.Header | None
    says: str | None
    fits: str | None
    norm: float

    @property
    def effective_rank(self) -> float:
        """Mean of the layers that change anything."""
        return mean([one.effective_rank for one in self.layers if one.norm] or [0.0])

    def row(self) -> dict[str, Any]:
        """For programs."""
        lora = self.lora
        return {
            "file": str(self.file),
            "layout": lora.layout,
            "flaw": lora.flaw,
            "part": lora.prefix,
            "dtype": str(lora.dtype).removeprefix("torch."),
            "rank": lora.rank,
            "numbers": sum(a.numel() + b.numel() for a, b in lora.pairs.values()),
            "text_encoder_tensors": lora.ignored,
            "backbone": self.says,
            "fits": self.fits,
            "trigger": lora.header.get("modelspec.trigger_phrase"),
            "command": self.made_by and self.made_by.get("command"),
            "i2l": self.i2l and _plain(self.i2l),
            "norm": self.norm,
            "effective_rank": self.effective_rank,
            "layers": [asdict(one) for one in self.layers],
        }

    def page(self) -> str:
        """For people."""
        rows = dict(self._lines())
        width = max(map(len, rows))
        lines = [str(self.file), *(f"  {name:<{width}}  {said}" for name, said in rows.items())]
        table = [("layers", "count", "norm", "effective rank"), *_kinds(self.layers)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for name, *figures in table:
            cells = [f"{cell:>{w}}" for cell, w in zip(figures, widths[1:], strict=True)]
            lines.append(f"  {name:<{widths[0]}}  {'  '.join(cells)}")
        return "\n".join(lines)

    def _lines(self) -> Iterator[tuple[str, str]]:
        row = self.row()
        yield "layout", f"{row['layout']}, of a {row['part']}"
        if self.lora.flaw:
            yield "beware", f"{self.lora.flaw}; style lora convert makes a file that works"
        if self.lora.ignored:
            yield "beware", f"{self.lora.ignored} tensors of text encoders are not used here"
        yield "backbone", _backbone(self.says, self.fits)
        yield "made by", _maker(row["command"], self.i2l)
        if row["trigger"]:
            yield "caption", row["trigger"]
        yield "size", f"rank {row['rank']}, {len(self.layers)} layers, {row['dtype']}"
        yield "norm", f"{self.norm:.4g}, effective rank {self.effective_rank:.2f} a layer"


def about(file: Path) -> About:
    """Read a LoRA, or a PEFT folder, and measure it.

    Raises:
        WeightsError: Missing or damaged.
        UsageError: No LoRA, or one that does more than add products.
    """
    lora = lora_layouts.read(file)
    norms = lora_algebra.norms(lora.pairs)
    layers = tuple(
        Layer(
            path,
            pair[0].shape[1],
            len(pair[1]),
            len(pair[0]),
            norms[path],
            float(lora_algebra.effective_rank(lora_algebra.core(pair))),
        )
        for path, pair in lora.pairs.items()
    )
    made_by = store.read_provenance(carrier(file))
    i2l = header.read(file)
    total = sum(norm * norm for norm in norms.values()) ** 0.5
    return About(file, lora, layers, made_by, i2l, backbone_of(lora), fitting(lora.pairs), total)


def backbone_of(lora: Lora) -> str | None:
    """The backbone that a file says it is for."""
    said = provenance_of(lora)
    model = said.get("model") if said else None
    if isinstance(model, Mapping) and model.get("id"):
        return str(model["id"])
    try:
        return str(json.loads(lora.header[header.KEY])["backbone"])
    except (KeyError, TypeError, ValueError):
        return lora.header.get("ss_base_model_version") or None


def provenance_of(lora: Lora) -> dict[str, Any] | None:
    """What made a file, as its header says."""
    try:
        said = json.loads(lora.header[store.KEY])
    except (KeyError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def fitting(pairs: Pairs) -> str | None:
    """The known backbone whose widths these are; its layers are not compared one by one."""
    for ending, width, name in _WIDTHS:
        if any(path.endswith(ending) and a.shape[1] == width for path, (a, _) in pairs.items()):
            return name
    return None


def _backbone(says: str | None, fits: str | None) -> str:
    if says is None:
        return f"not said; its widths are those of {fits}" if fits else "not said, and not known"
    return says if fits in (None, says) else f"{says}; its widths are those of {fits}"


def _maker(command: str | None, i2l: header.Header | None) -> str:
    if i2l is None:
        return f"style {command}" if command else "not said"
    what = "grey pictures" if i2l.kind == "neutral" else "references"
    made_by = f"style {command or 'i2l-predict'}, {i2l.kind}, of {i2l.n_refs} {what}"
    return f"{made_by}, predictor {i2l.predictor_sha256[:12]}"


def _plain(said: header.Header) -> dict[str, Any]:
    """Without the norms, which are measured here."""
    return {key: value for key, value in asdict(said).items() if key != "norms"}


def _kinds(layers: tuple[Layer, ...]) -> Iterator[tuple[str, str, str, str]]:
    """Layers that differ only in the number of their block, as one line."""
    kinds: dict[str, list[Layer]] = {}
    for one in layers:
        name = re.sub(r"\.\d+(?=\.|$)", "", one.path)
        kinds.setdefault(".".join(name.split(".")[-2:]), []).append(one)
    for name, own in sorted(kinds.items()):
        norm = sum(one.norm * one.norm for one in own) ** 0.5
        rank = mean(one.effective_rank for one in own)
        yield name, str(len(own)), f"{norm:.4g}", f"{rank:.2f}"
