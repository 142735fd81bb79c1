"""Predictors that others made: what a file seems to be, told from its header alone.

No public source says how the released second-generation predictors are built, so nothing is guessed
from names. Sizes say more than names: widths of the largest tensors tell which layers a predictor
writes, and blocks and squares tell its trunk. No file is opened here, and no code of theirs is ever
run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stylecli.backbone import lora_names
from stylecli.backbone.linears import Layer
from stylecli.errors import ForeignPredictorError
from stylecli.methods.i2l.files import CONFIG_KEY

Kind = Literal["ours", "first-generation", "v2", "lora", "unknown"]
Sizes = Mapping[str, tuple[int, ...]]
# A backbone and a name of a layer set -> its layers.
Candidates = Mapping[tuple[str, str], Sequence[Layer]]
V2 = "emb2lora."
_FIRST_GENERATION = re.compile(
    r"(?:layers|context_refiner|noise_refiner)_lora\.blocks\.\d+\.layers\.\d+"
    r"\.proj_[ab]\.proj_(?:in|out)\.weight"
)
_KINDS: Mapping[Kind, str] = {
    "ours": "a predictor that this program wrote",
    "first-generation": "a first-generation predictor, which is another architecture",
    "v2": "a second-generation predictor of other authors",
    "lora": "a LoRA",
    "unknown": "nothing that is known here",
}
NAMED = 10
MAX_RANK = 128
MAP = "--map FILE says which of their tensors is which of ours"
GOLDEN = "--golden FILE holds LoRAs that the original program made of known references"
# What works without any map.
EXPORT = (
    "export LoRAs with the original program: style lora info, mix and convert read them as they are"
)


def kind_of(names: Collection[str], header: Mapping[str, str]) -> Kind:
    """What a file is, by its names."""
    if CONFIG_KEY in header:
        return "ours"
    if any(map(_FIRST_GENERATION.fullmatch, names)):
        return "first-generation"
    if any(V2 in name for name in names):
        return "v2"
    return "lora" if lora_names.layout_of(names) is not None else "unknown"


@dataclass(frozen=True, slots=True)
class Report:
    """What the sizes of a file tell; None is what they do not.

    Attributes:
        encoder: What the names of its image encoder begin with.
        width: Of the trunk.
        depth: Its blocks.
        layer_set: The backbone and the set whose widths its largest tensors have.
        queries: The tensor that may be its queries, and the rank it would mean.
    """

    kind: Kind
    tensors: int
    encoder: str | None
    encoder_tensors: int
    width: int | None
    depth: int | None
    layer_set: tuple[str, str] | None
    queries: tuple[str, int] | None

    def lines(self) -> Iterator[str]:
        """For people, one fact a line."""
        yield f"it seems to be {_KINDS[self.kind]}: {self.tensors} tensors"
        if self.encoder is not None:
            yield f"image encoder: {self.encoder_tensors} tensors below {self.encoder or 'the top'}"
        if self.width is not None:
            yield f"trunk: width {self.width}, {self.depth or 'an unknown number of'} blocks"
        if self.layer_set is None:
            yield "layers: the widths of no known layer set fit"
        else:
            yield f"layers: the widths are those of {self.layer_set[1]} of {self.layer_set[0]}"
        if self.queries is not None:
            yield f"queries: {self.queries[0]} would mean rank {self.queries[1]}"


def report(shapes: Sizes, kind: Kind, candidates: Candidates) -> Report:
    """Read the structure of a predictor from the shapes of its tensors."""
    root = _encoder(shapes)
    own = {k: v for k, v in shapes.items() if root is None or not k.startswith(root)}
    width = _trunk_width(own)
    blocks = _blocks(own, width)
    heads = Counter(_outputs({k: v for k, v in own.items() if k not in blocks}))
    fitting = [name for name, layers in candidates.items() if _fits(heads, layers)]
    # The largest that fits: a set may be a part of another.
    best = max(fitting, key=lambda name: len(candidates[name]), default=None)
    count = len(candidates[best]) if best else 0
    return Report(
        kind=kind,
        tensors=len(shapes),
        encoder=root,
        encoder_tensors=len(shapes) - len(own),
        width=width,
        depth=max(blocks.values(), default=-1) + 1 or None,
        layer_set=best,
        queries=_queries(own, blocks, width, count),
    )


def refusal(
    path: Path, found: Report, faults: Faults | None = None, *, missing: str = MAP
) -> ForeignPredictorError:
    """All that is known of a file that cannot be used, and what can be done instead."""
    lines = [f"{path.name} cannot be used as a predictor", *found.lines()]
    if found.kind == "lora":
        return ForeignPredictorError("\n".join(lines), fix="give it as a LoRA, without --map")
    if faults is not None:
        lines += faults.lines()
    return ForeignPredictorError("\n".join(lines), fix=f"{missing}; or {EXPORT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How a map and a file fail to make a predictor.

    Attributes:
        matched: Tensors of ours that are filled as they should be.
        missing: Of ours, that nothing fills.
        unexpected: Of theirs, that no rule takes and no rule leaves out.
        misshapen: Of ours, with both shapes.
        others: Rules that cannot be followed.
    """

    matched: int
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    misshapen: Sequence[str] = ()
    others: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen or self.others)

    def lines(self) -> Iterator[str]:
        """Counts, and the first of each."""
        yield (
            f"{self.matched} tensors matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.misshapen)} of another shape"
        )
        for what, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misshapen),
            ("map", self.others),
        ):
            for name in names[:NAMED]:
                yield f"  {what}: {name}"
            if len(names) > NAMED:
                yield f"  {what}: and {len(names) - NAMED} more"


def refuse_unverified(path: Path, training: Mapping[str, Any], *, accepted: bool) -> None:
    """See that a converted predictor was compared with the original, or that the user knows.

    Args:
        training: Of the predictor's config.
        accepted: The user said so, for this one use.

    Raises:
        ForeignPredictorError: It was not.
    """
    converted = training.get("converted")
    if accepted or not isinstance(converted, Mapping) or converted.get("verified"):
        return
    raise ForeignPredictorError(
        f"{path.name} was converted and never compared with what the original predicts",
        fix=f"convert it with {GOLDEN}; or take the risk with --accept-unverified",
    )


def _encoder(shapes: Sizes) -> str | None:
    """What stands before every name of the part around the patch kernel."""
    kernels = [k for k, shape in shapes.items() if len(shape) == 4 and shape[2] == shape[3] > 1]
    if not kernels:
        return None
    parts = kernels[0].split(".")
    for length in range(1, len(parts)):
        root = ".".join(parts[:length]) + "."
        inside = sum(name.startswith(root) for name in shapes)
        if inside < len(shapes) and not any(V2 in n for n in shapes if n.startswith(root)):
            return root
    return None


def _trunk_width(shapes: Sizes) -> int | None:
    squares = Counter(s[0] for s in shapes.values() if len(s) == 2 and s[0] == s[1])
    return max(squares, key=lambda width: (squares[width], width), default=None)


def _blocks(shapes: Sizes, width: int | None) -> dict[str, int]:
    """Names in the trunk's blocks, and of each the number of its block."""
    stems: Counter[str] = Counter()
    for name, shape in shapes.items():
        if shape == (width, width) and (match := re.search(r"^(.*?)\.(\d+)\.", name)):
            stems[match[1]] += 1
    if not stems:
        return {}
    stem = re.escape(stems.most_common(1)[0][0])
    found = {name: re.match(rf"{stem}\.(\d+)\.", name) for name in shapes}
    return {name: int(match[1]) for name, match in found.items() if match}


def _outputs(shapes: Sizes) -> Iterator[int]:
    """Output sizes of matrices; of several in one tensor, as often as there are."""
    for shape in shapes.values():
        if len(shape) == 2:
            yield shape[0]
        elif len(shape) == 3:
            yield from [shape[1]] * shape[0]


def _fits(outputs: Counter[int], layers: Sequence[Layer]) -> bool:
    wanted = Counter(width for _, width_in, width_out in layers for width in (width_in, width_out))
    return wanted <= outputs


def _queries(
    shapes: Sizes, blocks: Collection[str], width: int | None, layers: int
) -> tuple[str, int] | None:
    if not width or not layers:
        return None
    for name, shape in shapes.items():
        numbers = 1
        for size in shape:
            numbers *= size
        rank, rest = divmod(numbers, 2 * layers * width)
        if name not in blocks and shape and shape[-1] == width and not rest and rank <= MAX_RANK:
            return name, rank
    return None
