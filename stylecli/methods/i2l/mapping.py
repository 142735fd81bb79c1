"""Maps from the tensors of another program's predictor to ours: total both ways, or refused.

A map is a list of rules in order, the first that fits a name takes it. What rules can do to a
tensor is little on purpose: an architecture that differs in more than names and layout is another
one, and no map makes it ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from stylecli.backbone.linears import Layer, natural
from stylecli.errors import RecipeError
from stylecli.methods.i2l.encoders.base import Description
from stylecli.methods.i2l.foreign import Faults
from stylecli.methods.i2l.predictor import Predictor
from stylecli.methods.i2l.sizes import Shape
from stylecli.recipe.strict import Strict

# In the name of a target: the rows of the tensor that goes there.
ROWS = "{rows}"
Axis = Annotated[int, Field(ge=0, le=3)]


class Rule(Strict):
    r"""What becomes of the tensors whose whole name a pattern fits, in this order.

    Attributes:
        source: Regular expression; its groups are ``\1`` and so on in `to`.
        to: Names of ours; with ``{rows}`` in one, the rows of the tensor stand there.
        transpose: Exchange the last two axes.
        reshape: To these sizes; one of them may be -1.
        scale: Times this. An alpha of theirs belongs here, on the head of their B: ours have none.
        split: Along this axis, into as many equal parts as `to` has names.
        stack: All tensors with this target, in natural order of their names, one below the other.
    """

    source: str = Field(alias="from")
    to: Annotated[tuple[str, ...], Field(min_length=1)]
    transpose: bool = False
    reshape: tuple[int, ...] | None = None
    scale: float = 1.0
    split: Axis | None = None
    stack: bool = False

    @field_validator("source")
    @classmethod
    def _is_pattern(cls, text: str) -> str:
        re.compile(text)
        return text

    @field_validator("to", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


class Map(Strict):
    """A whole map.

    Attributes:
        backbone: Whose LoRAs the predictor writes.
        layer_set: Of that backbone.
        shape: Sizes of the predictor.
        encoder: That its references come through, as in our own files.
        rules: In order.
        ignore: Regular expressions of names that have no place in ours, such as their encoder.
    """

    backbone: str
    layer_set: str = "auto"
    shape: dict[str, int]
    encoder: dict[str, Any]
    rules: tuple[Rule, ...]
    ignore: tuple[str, ...] = ()

    @field_validator("ignore")
    @classmethod
    def _are_patterns(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            re.compile(text)
        return texts

    @classmethod
    def read(cls, said: Any, place: str) -> Map:
        """What a YAML file holds.

        Raises:
            RecipeError: It is no map; the first thing that is wrong with it.
        """
        try:
            found = cls.model_validate(said)
            found.sizes()
            found.description()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise RecipeError(
                f"{place}: {where}: {first['msg']}", fix="docs/methods/i2l.md shows a whole map"
            ) from error
        except (TypeError, ValueError, re.error) as error:
            raise RecipeError(
                f"{place}: {error}", fix="docs/methods/i2l.md shows a whole map"
            ) from error
        return found

    def sizes(self) -> Shape:
        """Of the predictor."""
        return Shape.from_json(self.shape)

    def description(self) -> Description:
        """Of its encoder."""
        return Description.from_json(self.encoder)


def targets(shape: Shape, layers: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a predictor."""
    with torch.device("meta"):
        predictor = Predictor(shape, layers)
    return {name: tuple(tensor.shape) for name, tensor in predictor.state_dict().items()}


def applied(
    map_: Map, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], Faults]:
    """Our tensors made of theirs, and all that does not come out even.

    Args:
        tensors: Also on the meta device, where only shapes are of interest.
        wanted: From `targets`.
    """
    found: dict[str, Tensor] = {}
    stacks: dict[str, list[Tensor]] = {}
    unexpected: list[str] = []
    others: list[str] = []
    unused = dict.fromkeys(rule.source for rule in map_.rules)
    for name in sorted(tensors, key=natural):
        matches = ((one, re.fullmatch(one.source, name)) for one in map_.rules)
        rule, match = next(((one, match) for one, match in matches if match), (None, None))
        is_ignored = any(re.fullmatch(pattern, name) for pattern in map_.ignore)
        if rule is None or match is None:
            if not is_ignored:
                unexpected.append(name)
            continue
        unused.pop(rule.source, None)
        if is_ignored:
            others.append(f"{name} is used and ignored too")
        try:
            made = _made(rule, match, tensors[name])
        except (RuntimeError, IndexError, re.error, ValueError) as error:
            others.append(f"{name}: {str(error).partition(chr(10))[0]}")
            continue
        for target, tensor in made:
            if rule.stack:
                stacks.setdefault(target, []).append(tensor)
            elif target in found:
                others.append(f"{target} is filled twice, the second time from {name}")
            else:
                found[target] = tensor
    for target, parts in stacks.items():
        if target in found:
            others.append(f"{target} is filled twice, and one of them is a stack")
        elif len({part.shape for part in parts}) > 1:
            others.append(f"{target}: the tensors of its stack differ in shape")
        else:
            found[target] = torch.stack(parts)
    others += [f"no tensor is called {source}" for source in unused]
    return found, _faults(found, wanted, unexpected, others)


def _made(rule: Rule, match: re.Match[str], tensor: Tensor) -> list[tuple[str, Tensor]]:
    if rule.transpose:
        tensor = tensor.mT
    if rule.reshape is not None:
        tensor = tensor.reshape(rule.reshape)
    if rule.scale != 1:
        tensor = tensor.float() * rule.scale
    names = [match.expand(target) for target in rule.to]
    if rule.split is None:
        if len(names) > 1:
            raise ValueError(f"{len(names)} targets and no split")
        parts: Sequence[Tensor] = [tensor]
    else:
        size, rest = divmod(tensor.shape[rule.split], len(names))
        if rest:
            raise ValueError(f"{list(tensor.shape)} has no {len(names)} equal parts")
        parts = tensor.split(size, dim=rule.split)
    return [
        (target.replace(ROWS, str(len(part)) if part.ndim else ""), part)
        for target, part in zip(names, parts, strict=True)
    ]


def _faults(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    unexpected: Sequence[str],
    others: Sequence[str],
) -> Faults:
    misshapen = [
        f"{name} is {list(tensor.shape)}, and ours {list(wanted[name])}"
        for name, tensor in found.items()
        if name in wanted and tuple(tensor.shape) != wanted[name]
    ]
    strangers = [f"there is no {name} in ours" for name in found if name not in wanted]
    return Faults(
        matched=len(found.keys() & wanted.keys()) - len(misshapen),
        missing=[name for name in wanted if name not in found],
        unexpected=unexpected,
        misshapen=misshapen,
        others=[*others, *strangers],
    )
