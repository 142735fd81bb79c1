"""Files that a gallery is to be made of, as they were named: looked at before the work."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from stylecli.artifacts import images
from stylecli.engine import painting
from stylecli.engine.gallery import paint
from stylecli.engine.gallery.wishes import Listed
from stylecli.engine.inputs import expand
from stylecli.engine.plan import Input
from stylecli.engine.provenance import STYLE_FIELD
from stylecli.errors import InputError, ItemError, StyleError, UsageError
from stylecli.recipe.schema import Recipe

CONTENT_FIELD = "{content}"


class Masked:
    """The references, with the painted regions that a template names; each is looked at once."""

    def __init__(self, pictures: Sequence[Input]) -> None:
        self._pictures = pictures
        self._found: dict[str | None, tuple[Listed, ...]] = {}

    def by(self, template: str | None) -> tuple[Listed, ...]:
        """The same object for the same template; for errors see `_with_masks`."""
        if template not in self._found:
            self._found[template] = _with_masks(self._pictures, template)
        return self._found[template]


def pictures(
    refs: Sequence[str], leave_out: Callable[[Path], bool] = lambda _: False
) -> tuple[list[Input], list[str]]:
    """References in the order given, folders sorted, and what is said of those left out.

    A picture that is there under several names counts once.

    Args:
        refs: Pictures, folders and globs.
        leave_out: Files of folders and globs to pass over.

    Raises:
        UsageError: There is none.
        InputError: One does not exist or cannot be read.
    """
    found: dict[str, Input] = {}
    repeated = []
    for path in expand(refs, leave_out=leave_out) if refs else ():
        item = Input.of("style", painting.readable(path))
        first = found.setdefault(item.sha256, item)
        if first is not item:
            repeated.append(f"{path.name} is the same picture as {first.path.name}, and left out")
    if not found:
        raise UsageError("no reference was named", fix="give --refs FOLDER, or pictures")
    return list(found.values()), repeated


def spread(refs: Sequence[str], contents: Sequence[Path]) -> str | None:
    """A doubt, in words, whether some contents were meant as references.

    A glob that the shell spreads out leaves ``--refs`` its first file only.
    """
    named = {Path(one).parent: Path(one) for one in refs if Path(one).is_file()}
    beside = [path for path in contents if path.parent in named]
    if not beside or len(beside) == len(contents):
        return None
    folder = beside[0].parent
    return (
        f"{beside[0]} lies beside the reference {named[folder].name} and is taken as a content; "
        f"for all of them: --refs {folder}/, or the glob in quotes"
    )


def _with_masks(pictures: Sequence[Input], template: str | None) -> tuple[Listed, ...]:
    """References with their painted regions, which are looked at now.

    Raises:
        InputError: There is not one mask, one for several pictures, or one that cannot be used.
    """
    if template is None:
        return tuple(Listed(picture) for picture in pictures)
    _refuse_strangers("gallery.ref_masks", template, STYLE_FIELD)
    if STYLE_FIELD not in template and len(pictures) > 1:
        raise InputError(
            f"gallery.ref_masks {template} is one mask for {len(pictures)} references",
            fix=f"put {STYLE_FIELD} where their names differ, such as masks/{STYLE_FIELD}.png",
        )
    found = []
    for picture in pictures:
        path = Path(template.replace(STYLE_FIELD, picture.path.stem)).expanduser()
        mask = Input.of("mask", path) if path.exists() else None
        if mask is not None:
            _refuse_unusable(path, picture.path)
        found.append(Listed(picture, mask))
    if not any(one.mask for one in found):
        raise InputError(
            f"gallery.ref_masks {template}: no reference has such a mask",
            fix=f"{STYLE_FIELD} is a reference's name without its ending: {pictures[0].path.stem}",
        )
    return tuple(found)


def _refuse_unusable(mask: Path, picture: Path) -> None:
    try:
        paint.decode(mask, images.size_of(picture))
    except ItemError as error:
        raise InputError(error.what, fix=error.fix) from error


def mask(name: str | None, content: Path) -> Input | None:
    """The painted regions of one content.

    Raises:
        InputError: One mask is for all contents, and cannot be read.
    """
    if name is None:
        return None
    _refuse_strangers("gallery.mask", name, CONTENT_FIELD)
    if CONTENT_FIELD in name:
        # Of a folder of masks, one that is missing fails its own content and no other.
        return Input.of_mask(Path(name.replace(CONTENT_FIELD, content.stem)).expanduser())
    return Input.of("mask", painting.readable(Path(name).expanduser()))


def _refuse_strangers(key: str, name: str, field: str) -> None:
    for stranger in re.findall(r"\{\w*\}", name):
        if stranger != field:
            raise InputError(f"{key} {name}: {stranger} is no field", fix=f"only {field} is known")


def accelerator(recipe: Recipe) -> Input | None:
    name = recipe.gallery.accelerator
    if name is None:
        return None
    path = Path(name).expanduser()
    try:
        return Input.of("accelerator", painting.existing_lora(path))
    except StyleError as error:
        fix = "name a LoRA file, such as an LCM or Hyper-SD one, or null"
        raise type(error)(f"gallery.accelerator: {error.what}", fix=fix) from error
