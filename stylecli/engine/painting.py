"""What is to be painted where and when, with the files that takes; decided before any model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stylecli.artifacts import images
from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.engine import method
from stylecli.engine.i2l import neutral
from stylecli.engine.plan import Input
from stylecli.engine.training import lora
from stylecli.errors import ImageError, InputError, UsageError, WeightsError
from stylecli.recipe import timeline
from stylecli.recipe.schema import Entry, Recipe, Sampling

CONTENT_FIELD = "{content}"
# Of sampling.negative_lora, what names no file; nothing is neutral where there is a predictor.
NEUTRAL, SAME, NONE = "neutral", "same", "none"


@dataclass(frozen=True, slots=True)
class Part:
    """One LoRA of a stretch.

    Attributes:
        look: The LoRA, or a picture to learn it from.
        caption: The text beside that picture, which decides the LoRA as much.
    """

    look: Input
    weight: float
    caption: Input | None = None

    def asks(self) -> list[Any]:
        """What it asks for: files by their digests, and its strength."""
        return [self.look.sha256, self.caption.sha256 if self.caption else None, self.weight]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Steps ``start <= i < stop`` and the LoRAs that act in them; none is the base model.

    Attributes:
        prompt: None is the area's, or the LoRAs' own.
        negative: What the negative prompt is seen under; None is the same LoRAs.
    """

    start: int
    stop: int
    parts: tuple[Part, ...]
    prompt: str | None = None
    negative: tuple[Part, ...] | None = None

    @property
    def name(self) -> str:
        """As people would call it; a sum with its weights.

        >>> Stretch(0, 9, ()).name
        'base'
        """
        if len(self.parts) == 1:
            return self.parts[0].look.path.stem
        named = (f"{part.look.path.stem}*{part.weight:g}" for part in self.parts)
        return "+".join(named) or timeline.BASE

    def asks(self) -> list[Any]:
        """What it asks for, whenever: LoRAs by their digests, weights and words."""
        asked = [[part.asks() for part in self.parts], self.prompt]
        if self.negative is None:
            return asked
        return [*asked, [part.asks() for part in self.negative]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """One region of the picture and what is painted there over the steps.

    Attributes:
        mask: A file, or the words after ``text:``; None is the whole picture.
        accelerator: A LoRA at work in every stretch, which makes up no look.
    """

    stretches: tuple[Stretch, ...]
    mask: Input | str | None = None
    prompt: str | None = None
    negative: str = ""
    guidance: float = 1.0
    accelerator: Part | None = None

    @property
    def name(self) -> str:
        names = dict.fromkeys(stretch.name for stretch in self.stretches)
        return ", then ".join(names)

    @property
    def place(self) -> str:
        """What its mask is called."""
        if self.mask is None:
            return "everywhere"
        return self.mask if isinstance(self.mask, str) else self.mask.path.stem

    def settings(self) -> dict[str, Any]:
        """All that decides its pixels, files by their digests."""
        return {
            "mask": self.mask.sha256 if isinstance(self.mask, Input) else self.mask,
            "stretches": [[s.start, s.stop, *s.asks()] for s in self.stretches],
            "prompt": self.prompt,
            "negative": self.negative,
            "guidance": self.guidance,
        }


@dataclass(frozen=True, slots=True)
class Painting:
    """All areas of one picture; later ones lie on top."""

    areas: tuple[Area, ...]

    @property
    def parts(self) -> Iterator[Part]:
        """All LoRAs it takes, those of its looks first."""
        for area in self.areas:
            for stretch in area.stretches:
                yield from stretch.parts
        for area in self.areas:
            for stretch in area.stretches:
                yield from stretch.negative or ()
        yield from self.accelerators

    @property
    def accelerators(self) -> list[Part]:
        """What works beside every look: one LoRA, or none."""
        found = (area.accelerator for area in self.areas)
        return list(dict.fromkeys(part for part in found if part is not None))

    @property
    def is_asymmetric(self) -> bool:
        """Whether a negative prompt is seen under other LoRAs."""
        return any(s.negative is not None for area in self.areas for s in area.stretches)

    @property
    def has_masks(self) -> bool:
        return any(area.mask is not None for area in self.areas)

    @property
    def has_words(self) -> bool:
        """Whether an area is to be found in each content by words."""
        return any(isinstance(area.mask, str) for area in self.areas)

    def inputs(self) -> list[Input]:
        """The files it takes, each once."""
        files = [
            *(
                item
                for part in self.parts
                for item in (part.look, part.caption)
                # A neutral LoRA follows from the header of another one.
                if item and item.role != "neutral"
            ),
            *(area.mask for area in self.areas if isinstance(area.mask, Input)),
        ]
        return list(dict.fromkeys(files))

    def settings(self) -> list[dict[str, Any]]:
        """All that decides its pixels besides the recipe."""
        return [area.settings() for area in self.areas]


def in_one_look(look: Sequence[Input], sampling: Sampling) -> Painting:
    """The whole picture in one LoRA for all steps.

    Args:
        look: A style picture and perhaps its caption, or a LoRA; empty is the base model.
    """
    if not method.learns(sampling):
        # Nothing is learned, so a caption says nothing; and of its steps nobody is told.
        return Painting((Area(stretches=(Stretch(0, 1, (Part(look[0], 1.0),)),)),))
    caption = look[1] if len(look) > 1 else None
    parts = tuple(Part(first, sampling.weight, caption) for first in look[:1])
    area = _area(sampling, (Stretch(0, sampling.steps, parts),))
    return Painting((_compared(area, sampling),))


def over_time(schedule: Sequence[Entry], sampling: Sampling) -> Painting:
    """The whole picture in the LoRAs of a schedule.

    Raises:
        InputError: A LoRA or style picture that does not exist.
    """
    return Painting((_compared(_area(sampling, stretches(schedule, sampling)), sampling),))


def of_regions(recipe: Recipe, content: Path | None) -> Painting:
    """Every region of a recipe with what is painted there.

    Args:
        recipe: Has at least one region.
        content: Its stem takes the place of ``{content}`` in the names of masks; None where there
            is none.

    Raises:
        InputError: A mask, LoRA or style picture that does not exist.
        UsageError: A mask from words or by name where there is no content.
    """
    sampling = recipe.sampling
    areas = []
    for region in sampling.regions:
        area = _area(sampling, stretches(region.schedule, sampling))
        area = replace(
            area,
            mask=_mask(region.mask, content),
            prompt=area.prompt if region.prompt is None else region.prompt,
            negative=area.negative if region.negative is None else region.negative,
            guidance=area.guidance if region.guidance is None else region.guidance,
        )
        areas.append(_compared(area, sampling))
    return Painting(tuple(areas))


def stretches(schedule: Sequence[Entry], sampling: Sampling) -> tuple[Stretch, ...]:
    """A schedule in order of time, with its files.

    Raises:
        InputError: A LoRA or style picture that does not exist.
    """
    return tuple(
        Stretch(
            interval.start,
            interval.stop,
            tuple(
                part(one.lora, sampling.weight if one.weight is None else one.weight)
                for one in schedule[interval.entry].loras
            ),
            schedule[interval.entry].prompt,
        )
        for interval in timeline.resolve(
            [(entry.start, entry.end) for entry in schedule], sampling.steps
        )
    )


def part(name: str, weight: float) -> Part:
    """A LoRA by its file, or a style picture to learn it from.

    Raises:
        InputError: It does not exist, or the picture cannot be read.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return Part(Input.of("lora", existing_lora(path)), weight)
    look, *caption = style(readable(path))
    return Part(look, weight, caption[0] if caption else None)


def style(path: Path) -> list[Input]:
    """A style picture and the caption beside it, where there is one."""
    caption = lora.caption_file(path)
    return [Input.of("style", path), *([Input.of("caption", caption)] if caption else [])]


def readable(path: Path) -> Path:
    """The same, after looking: a picture that cannot be read would fail every item.

    Raises:
        InputError: It cannot be read.
    """
    try:
        try:
            status = path.stat()
        except OSError:
            images.read(path)  # says why
        else:
            _decode(path, status.st_size, status.st_mtime_ns)
    except ImageError as error:
        raise InputError(error.what, fix=error.fix) from error
    return path


@cache
def _decode(path: Path, _size: int, _mtime_ns: int) -> None:
    """Once for a file as it is: a mask may be named for every content of a long list."""
    images.read(path)


def existing_lora(path: Path) -> Path:
    """The same, after a look at its header.

    Raises:
        InputError: There is no such file, or it is a picture.
        WeightsError: It is no safetensors file.
    """
    if not path.exists():
        raise InputError(f"LoRA {path} does not exist", fix="check the name")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"LoRA {path} is a picture", fix="give it as --style")
    if path.is_file():
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"LoRA {path} cannot be read: {str(error).partition(chr(10))[0]}",
                fix="train it again, or download it again; only safetensors files are read",
            ) from error
    return path


def _area(sampling: Sampling, stretches: tuple[Stretch, ...]) -> Area:
    return Area(
        stretches=stretches,
        prompt=sampling.prompt,
        negative=sampling.negative,
        guidance=sampling.guidance,
        accelerator=_accelerator(sampling),
    )


def _accelerator(sampling: Sampling) -> Part | None:
    if sampling.accelerator is None:
        return None
    fix = "name a LoRA file, such as an LCM or Hyper-SD one, or null"
    path = _lora_of("accelerator", sampling.accelerator, fix)
    return Part(Input.of("accelerator", path), sampling.accelerator_weight)


def _lora_of(key: str, name: str, fix: str) -> Path:
    """A LoRA that a setting names."""
    try:
        return existing_lora(Path(name).expanduser())
    except (InputError, WeightsError) as error:
        raise type(error)(f"sampling.{key}: {error.what}", fix=fix) from error


def _compared(area: Area, sampling: Sampling) -> Area:
    """The same with what its negative prompt is seen under, where guidance asks for that."""
    if area.guidance == 1 or sampling.negative_lora == SAME:
        return area
    changed = (replace(one, negative=_negative(one, sampling)) for one in area.stretches)
    return replace(area, stretches=tuple(changed))


def _negative(stretch: Stretch, sampling: Sampling) -> tuple[Part, ...] | None:
    named = sampling.negative_lora
    if not stretch.parts:
        return None  # the base model on both sides
    if named in (None, NEUTRAL):
        found = tuple(_neutral(part, is_needed=named == NEUTRAL) for part in stretch.parts)
        return None if found == stretch.parts else found
    if named == NONE:
        return ()
    path = _lora_of("negative_lora", str(named), "name a LoRA file, or neutral, same or none")
    return (Part(Input.of("negative", path), sampling.weight),)


def _neutral(part: Part, *, is_needed: bool) -> Part:
    """What the predictor of a LoRA makes of grey pictures; the LoRA where that is not to be had.

    Raises:
        WeightsError: It is needed, and the predictor is not on this machine.
        UsageError: It is needed, and no predictor made the LoRA.
    """
    found = neutral.of(part.look, is_needed=is_needed)
    return part if found is None else Part(found.look, part.weight * found.scale)


def _mask(name: str, content: Path | None) -> Input | str:
    if name.startswith(timeline.WORDS):
        words = name.removeprefix(timeline.WORDS).strip()
        if not words:
            raise UsageError(f"region {name!r} has no words", fix="such as text:deer")
        if content is None:
            raise UsageError(
                f"region {name!r}: there is no picture to find it in", fix="give a mask picture"
            )
        return words
    if stranger := re.search(r"\{(?!content\})\w*\}", name):
        raise UsageError(
            f"mask {name}: {stranger[0]} is no field", fix=f"only {CONTENT_FIELD} is known"
        )
    if CONTENT_FIELD in name:
        if content is None:
            raise UsageError(f"mask {name}: there is no content", fix="name the file itself")
        # Of a folder of masks, one that is missing fails its own content and no other.
        return Input.of_mask(Path(name.replace(CONTENT_FIELD, content.stem)).expanduser())
    return Input.of("mask", readable(Path(name).expanduser()))
