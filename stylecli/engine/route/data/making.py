"""What a set is made of: pictures with an object each, hands that restyle, and files in its folder.

The target is the restyled picture inside the object's mask, the picture itself outside (section
1.2): ``Y = M * S + (1 - M) * X``.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from stylecli.artifacts import images, store
from stylecli.artifacts.files import write_atomic
from stylecli.engine.route.data.items import Box
from stylecli.methods.regionroute.styles import TEMPLATES, Instruction, Style, instruct
from stylecli.tensors.regions import composite, feather
from stylecli.tensors.seeds import derive, generator

# How often a command is in the canonical words where they vary.
CANONICAL = 0.5
# All else is odd in names of experts' files, which styles are called by.
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Subject:
    """A picture, and the object of it that changes.

    Attributes:
        object: As a command says it.
    """

    image_id: str
    object: str
    split: str


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a subject looks like.

    Attributes:
        data: The picture's file as it is, and `suffix` its kind.
        picture: In [0, 1].
        mask: Where the object is seen.
    """

    data: bytes
    suffix: str
    picture: Float[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]


class Source(Protocol):
    """Where pictures come from."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """All that decides what they are, without names of folders."""
        ...

    @property
    def subjects(self) -> Sequence[Subject]:
        """In the order in which they are made."""
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many pictures will not do, by reason."""
        ...

    def view(self, subject: Subject) -> View:
        """Bring in its picture and its mask.

        Raises:
            ItemError: They cannot be read.
        """
        ...

    def origin(self, image_id: str) -> Path | None:
        """The file that a picture is a copy of; None where it was drawn."""
        ...

    def about(self) -> Mapping[str, Any]:
        """What `dataset.json` says besides."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Styled:
    """A picture in another style: all of it, or all that its mask covers.

    Attributes:
        quality: Figures about it worth keeping.
    """

    picture: Float[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]
    seed: int
    quality: Mapping[str, float]


class Hand(Protocol):
    """Somebody who restyles.

    Attributes:
        facts: All that decides what comes out.
    """

    facts: Mapping[str, Any]

    def styled(self, subject: Subject, view: View, style: Style) -> Styled:
        """The subject in this style.

        Raises:
            ItemError: It cannot be done.
        """
        ...


Hands = Mapping[Style, Hand]


def seed_of(image_id: str, style: Style) -> int:
    """The stylist's seed: the same for a picture in a style, whatever set it is in."""
    return int(hashlib.sha256(f"{image_id}|{style.id}".encode()).hexdigest()[:8], 16)


def sample_id(subject: Subject, style: Style) -> str:
    """STYLE/PICTURE/OBJECT."""
    return f"{style.id}/{subject.image_id}/{slug(subject.object)}"


def slug(name: str, otherwise: str = "object") -> str:
    """A name as a part of a file's name, in ASCII.

    >>> slug("The café's red/green cup")
    'The-cafe-s-red-green-cup'

    Args:
        otherwise: Where nothing is left of it.
    """
    apart = unicodedata.normalize("NFKD", name)
    bare = "".join(one for one in apart if not unicodedata.combining(one))
    return _ODD.sub("-", bare).strip("-") or otherwise


def told(
    subject: Subject, style: Style, *, varies: bool, include_style_word: bool = False
) -> Instruction:
    """The command, in words that are the same whenever the sample is made.

    Args:
        varies: Half of all commands are in other words than the canonical ones.
    """
    template = TEMPLATES[0]
    if varies:
        chance = generator("template", sample_id(subject, style))
        if float(torch.rand((), generator=chance)) >= CANONICAL:
            template = TEMPLATES[1 + derive(sample_id(subject, style)) % (len(TEMPLATES) - 1)]
    return instruct(subject.object, style, template, include_style_word=include_style_word)


def target_of(view: View, styled: Styled, feather_px: float) -> Image.Image:
    """The picture with the object restyled; outside the mask every pixel is the picture's own."""
    original = images.to_pixels(view.picture)
    mask = feather(styled.mask.float(), feather_px)
    return Image.fromarray(composite(styled.picture, original, mask).numpy())


def box_of(mask: Bool[Tensor, "h w"]) -> Box:
    """Left, top, right and bottom of what it covers, the last two exclusive.

    >>> box_of(torch.tensor([[False, True], [False, True], [False, False]]))
    (1, 0, 2, 2)
    """
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1]) + 1,
        int(rows[-1]) + 1,
    )


def keep(file: Path, data: bytes) -> str:
    """Write a file unless it is there with these bytes; its digest.

    Raises:
        DiskFullError: There is no room for it.
        ItemError: It cannot be written for another reason.
    """
    digest = hashlib.sha256(data).hexdigest()
    if not (file.is_file() and store.file_sha256(file) == digest):
        write_atomic(file, data)
    return digest


def png(image: Image.Image) -> bytes:
    """A file that holds just these pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mask_image(mask: Bool[Tensor, "h w"]) -> Image.Image:
    """One bit a pixel, white inside."""
    return Image.fromarray(mask.numpy()).convert("1")
