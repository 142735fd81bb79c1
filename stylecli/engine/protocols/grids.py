"""Contents by styles: DiffStyler's grid of pictures, and StyleGallery's families of references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stylecli.artifacts import store
from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.engine import inputs
from stylecli.engine.protocols.tasks import HERE, OUT, TASKS, Shelf, Task, below, command, name_from
from stylecli.errors import InputError
from stylecli.tensors.seeds import derive


class Grid:
    """Every content in every style, each a single picture; see `tasks.Source`."""

    recipe = "eval-diffstyler"

    def __init__(self, contents: Path, styles: Path, folder: Path) -> None:
        """Look for pictures.

        Raises:
            InputError: There are none, or two of one name.
        """
        self._folder = folder
        self._contents, self._styles = _by_name(contents), _by_name(styles)
        self.left_out: Counter[str] = Counter()
        self.facts: Mapping[str, Any] = {
            "contents": _digests(self._contents.values()),
            "styles": _digests(self._styles.values()),
        }

    def count(self) -> int:
        """Each with each."""
        return len(self._contents) * len(self._styles)

    def tasks(self, shelf: Shelf) -> Iterator[Task]:
        """Content by content."""
        for content, picture in self._contents.items():
            for style, reference in self._styles.items():
                name = f"{content}__{style}"
                both = {
                    "content": name_from(self._folder, picture),
                    "style": name_from(self._folder, reference),
                    "output": f"{name}.png",
                }
                row = {**both, "id": name, "style": [both["style"]]}
                yield Task(run={TASKS: both}, row=row)

    def script(self) -> Sequence[str]:
        manifest = below(HERE, TASKS)
        return [command("style", "transfer", "--manifest", manifest, "-o", OUT)]


class Families:
    """Contents in families of references; see `tasks.Source`."""

    recipe = "eval-stylegallery"

    def __init__(
        self, contents: Path, families: Path, folder: Path, *, images: int | None, seed: int
    ) -> None:
        """Look for pictures.

        Args:
            images: Of each family so many contents, drawn anew; None is all.

        Raises:
            InputError: There are none, or two of one name; pictures lie outside of a family.
        """
        self._folder, self._images, self._seed = folder, images, seed
        self._contents = _by_name(contents)
        self._families = _families(families)
        self.left_out: Counter[str] = Counter()
        self.facts: Mapping[str, Any] = {
            "contents": _digests(self._contents.values()),
            "families": {name: _digests(own) for name, (_, own) in self._families.items()},
            "images": images,
            "seed": seed if images else None,
        }

    def count(self) -> int:
        """Of each family the same number."""
        contents = len(self._contents)
        return len(self._families) * min(contents, self._images or contents)

    def tasks(self, shelf: Shelf) -> Iterator[Task]:
        """Family by family."""
        for family, (_, references) in self._families.items():
            names = sorted(self._contents)
            if self._images is not None:
                names.sort(key=lambda name: derive(self._seed, "families", family, name))
                names = sorted(names[: self._images])
            for name in names:
                file, manifest = self._contents[name], _manifest(family)
                content = name_from((self._folder / manifest).parent, file)
                yield Task(
                    run={manifest: {"content": content, "output": f"{name}.png"}},
                    row={
                        "id": f"{family}/{name}",
                        "output": f"{family}/{name}.png",
                        "content": name_from(self._folder, file),
                        "style": [name_from(self._folder, one) for one in references],
                        "style_family": family,
                    },
                )

    def script(self) -> Sequence[str]:
        return [
            command(
                *("style", "gallery", "--refs", below(HERE, name_from(self._folder, folder))),
                *("--manifest", below(HERE, _manifest(family)), "-o", below(OUT, family)),
            )
            for family, (folder, _) in self._families.items()
        ]


def _manifest(family: str) -> str:
    return f"tasks/{family}.jsonl"


def _families(root: Path) -> dict[str, tuple[Path, list[Path]]]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder", fix="give a folder with one for each family")
    inside = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    loose = [path.name for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        raise InputError(
            f"{root}: {loose[0]} is in no family", fix="give a folder with one for each family"
        )
    found = {path.name: (path, inputs.expand([str(path)])) for path in inside if path.is_dir()}
    if not found:
        raise InputError(f"{root}: holds no folder", fix="give a folder with one for each family")
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """Pictures by what names of outputs will call them."""
    found: dict[str, Path] = {}
    for path in inputs.expand([str(folder)]):
        other = found.setdefault(path.stem, path)
        if other != path:
            raise InputError(f"two pictures have one name: {other} and {path}", fix="rename one")
    return found


def _digests(files: object) -> list[list[str]]:
    return [[file.name, store.file_sha256(file)] for file in files]  # type: ignore[attr-defined]
