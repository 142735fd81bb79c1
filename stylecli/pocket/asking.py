"""What pocket's editor is asked for, in words, of scenes whose edits are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from stylecli.artifacts import glyphs
from stylecli.methods.regionroute.styles import PAPER, TEMPLATES, WHOLE
from stylecli.pocket import edits
from stylecli.tensors import grounds

# How often each is asked for; "local" is whatever is done to one thing.
KINDS = {"whole": 0.35, "local": 0.55, "identity": 0.1}
# Instruction, reference, or both are left out, for guidance.
DROP_TEXT, DROP_PICTURE, DROP_BOTH = 0.05, 0.05, 0.05

WHOLES = (
    WHOLE,
    "turn the whole picture into {style} style",
    "make everything in {style} style",
    "{style} style",
    "repaint the image in {style} style",
)
TINTS = (
    "make the {object} {style}",
    "turn the {object} {style}",
    "paint the {object} {style}, keep other area unchanged",
    "make the {object} {style}, keep other area unchanged",
)
REMOVALS = (
    "remove the {object}",
    "take the {object} away",
    "remove the {object}, keep other area unchanged",
)
LOCALS: Mapping[edits.Kind, Sequence[str]] = {
    "redraw": TEMPLATES,
    "tint": TINTS,
    "remove": REMOVALS,
}
IDENTITIES = ("", "keep the image unchanged", "leave everything as it is", "change nothing")
# Family or filter -> what instructions call it.
LOOKS: Mapping[str, str] = {
    **{name: family.style.removesuffix(" style") for name, family in glyphs.FAMILIES.items()},
    **{style.id: style.phrase for style in PAPER},
}


@dataclass(frozen=True, slots=True)
class Sentence:
    """An instruction.

    Attributes:
        span: Of a thing's name in it; None where all of the picture is meant, or none.
        mask: Of the thing, among the scene's or the shard's.
    """

    text: str
    span: tuple[int, int] | None = None
    mask: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """An instruction and its answer.

    Attributes:
        reference: A picture, or its latents.
        target: Likewise.
    """

    sentence: Sentence
    reference: Tensor
    target: Tensor


def worded(edit: edits.Edit, generator: Generator) -> Sentence:
    """How an edit may be asked for."""
    template = grounds.one_of(WHOLES if edit.kind == "whole" else LOCALS[edit.kind], generator)
    look = LOOKS.get(edit.look, edit.look)
    text = template.format(object=edit.thing, style=look)
    if edit.mask is None:
        return Sentence(text)
    first = len(template.partition("{object}")[0].format(style=look))
    return Sentence(text, (first, first + len(edit.thing)), edit.mask)


def asked(
    scene: edits.Row,
    reference: Tensor,
    targets: Tensor | Sequence[Tensor],
    kind: str,
    generator: Generator,
) -> Asked | None:
    """An instruction, the reference and the answer; None where the scene has no such edit.

    Args:
        targets: Pictures or latents, by the numbers of edits.
    """
    if kind == "identity":
        return Asked(Sentence(grounds.one_of(IDENTITIES, generator)), reference, reference)
    fitting = [edit for edit in scene.edits if (edit.kind == "whole") == (kind == "whole")]
    if not fitting:
        return None
    edit = grounds.one_of(fitting, generator)
    return Asked(worded(edit, generator), reference, targets[edit.target])


def dropped(asked: Asked, generator: Generator) -> Asked:
    """Without its words, its picture or both, now and then."""
    lot = grounds.uniform(generator)
    if DROP_TEXT <= lot < _DROPPED:
        # Nobody can tell where the thing is, then.
        seen = Sentence(asked.sentence.text)
        asked = replace(asked, reference=torch.zeros_like(asked.reference), sentence=seen)
    if lot < DROP_TEXT or DROP_TEXT + DROP_PICTURE <= lot < _DROPPED:
        asked = replace(asked, sentence=Sentence(""))
    return asked


def unnamed(scene: edits.Row, sentence: Sentence, generator: Generator) -> list[Sentence]:
    """For each thing that a sentence leaves unnamed, another that names it."""
    of = {edit.mask: edit for edit in scene.edits if edit.mask not in (None, sentence.mask)}
    return [worded(edit, generator) for edit in of.values()]


_DROPPED = DROP_TEXT + DROP_PICTURE + DROP_BOTH
