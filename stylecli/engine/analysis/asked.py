"""What was asked of an analysis: where in the model to look, and the line that asks it again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylecli.artifacts.locate import IMAGE_SUFFIXES
from stylecli.backbone.levels import Levels
from stylecli.backbone.taps import Tap
from stylecli.errors import UsageError
from stylecli.recipe.load import load
from stylecli.recipe.schema import Recipe

Kind = Literal["pca", "similarity"]
# The layers of DiffStyler's table 1; its figure shows them all.
LAYERS: Mapping[Kind, str] = {"pca": "all", "similarity": "2,5,7"}
# Of the recipe, what decides features besides the options of the command itself.
DECISIVE: Mapping[str, tuple[str, ...]] = {
    "sampling": ("size", "steps", "timesteps", "weight"),
    "inversion": ("steps", "pairing", "refine_iters"),
    "device": ("dtype",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed.

    Attributes:
        contents: Pictures of no LoRA's domain: files, folders, globs, ``-``.
        domains: ``PICTURES=LORA`` each: pictures of that LoRA's own domain.
        loras: More LoRAs.
        styles: Pictures to learn more LoRAs from: files, folders, globs.
        timesteps: Of the 1000 of training.
        layers: Numbers and ranges; None is the kind's own choice.
    """

    kind: Kind
    contents: Sequence[str] = ()
    stdin: Callable[[], str] | None = None
    nul: bool = False
    domains: Sequence[str] = ()
    loras: Sequence[Path] = ()
    styles: Sequence[str] = ()
    manifest: Path | None = None
    timesteps: Sequence[int] = (540,)
    layers: str | None = None
    tap: Tap = "residual"

    @property
    def learns(self) -> bool:
        """Whether a LoRA may be learned from a picture, so that it matters how."""
        looks = [Path(split(domain)[1]) for domain in self.domains]
        is_picture = any(look.suffix.lower() in IMAGE_SUFFIXES for look in looks)
        return bool(self.styles) or self.manifest is not None or is_picture

    def line(self, recipe: Recipe, contents: Sequence[str], output: str) -> str:
        """The command that makes it again; what lies outside the current folder is named bare.

        Args:
            recipe: Of the run.
            contents: Those to name.
            output: As it is to be typed.
        """
        words = ["style", "analyze", "features", *map(_bare, contents), "--kind", self.kind]
        for domain in self.domains:
            words += ["--domain", "=".join(map(_bare, split(domain)))]
        words += [word for lora in self.loras for word in ("--lora", _bare(str(lora)))]
        words += [word for style in self.styles for word in ("--style", _bare(style))]
        words += ["--manifest", _bare(str(self.manifest))] if self.manifest else []
        words += [word for timestep in self.timesteps for word in ("--t", str(timestep))]
        words += ["--layers", self.layers or LAYERS[self.kind], "--tap", self.tap]
        words += ["--prompt", recipe.sampling.prompt] if recipe.sampling.prompt else []
        words += ["--backbone", Path(recipe.backbone.id).name, "--seed", str(recipe.sampling.seed)]
        return shlex.join([*words, *_changes(recipe, learns=self.learns), "-o", output])


@dataclass(frozen=True, slots=True)
class Level:
    """A place on the way to noise: the one that was asked for, and the nearest that is visited.

    Attributes:
        step: Counted from the noisiest, as in sampling.
    """

    asked: int
    timestep: int
    step: int

    def __str__(self) -> str:
        return f"t {self.asked} -> {self.timestep}, step {self.step}"


def nearest(levels: Levels, timesteps: Sequence[int]) -> list[Level]:
    """The visited level nearest to each timestep, the cleaner of two; each level once.

    >>> nearest(Levels((1, 21, 41), (1.0, 0.9, 0.8, 0.7)), [22, 31, 999])
    [Level(asked=22, timestep=21, step=1), Level(asked=999, timestep=41, step=0)]
    """
    found: dict[int, Level] = {}
    for asked in timesteps:
        index = min(range(len(levels)), key=lambda i: abs(levels.timesteps[i] - asked))
        timestep = levels.timesteps[index]
        found.setdefault(timestep, Level(asked, timestep, len(levels) - 1 - index))
    return list(found.values())


def numbers(text: str, count: int) -> tuple[int, ...]:
    """Layers from ``2,5,7``, ``4-11`` or ``all``, in the order the model runs them.

    Raises:
        UsageError: Not of that form, or a layer that the model does not have.
    """
    allowed = f"the decoder of this model has layers 0 to {count - 1}"
    if text.strip() == "all":
        return tuple(range(count))
    found: set[int] = set()
    for word in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*", word, re.ASCII)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(
                f"--layers {text!r}: {word.strip()!r} is no layer",
                fix=f"such as 2,5,7 or 4-7 or all; {allowed}",
            )
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if max(found) >= count:
        raise UsageError(f"--layers {text}: there is no layer {max(found)}", fix=allowed)
    return tuple(sorted(found))


def split(domain: str) -> tuple[str, str]:
    """``PICTURES=LORA``; the last ``=`` counts.

    Raises:
        UsageError: One of the two is missing.
    """
    pictures, _, look = domain.rpartition("=")
    if not (pictures and look):
        raise UsageError(
            f"--domain {domain!r} is not PICTURES=LORA", fix="such as icons/=icons.safetensors"
        )
    return pictures, look


def _bare(name: str) -> str:
    """A name without folders of this machine: one that says how to get there keeps its last part.

    >>> _bare("icons/cat.png"), _bare("/home/me/cat.png"), _bare("../cat.png"), _bare("~/cat.png")
    ('icons/cat.png', 'cat.png', 'cat.png', 'cat.png')
    """
    path = Path(name)
    leaves = path.is_absolute() or ".." in path.parts or name.startswith("~")
    return path.name if leaves else str(path)


def _changes(recipe: Recipe, *, learns: bool) -> list[str]:
    """What of the recipe is not as the backbone's own recipe has it."""
    usual = load(flags={"backbone.id": recipe.backbone.id}).recipe
    learning = tuple(type(recipe.lora).model_fields) if learns else ()
    words = []
    for section, keys in {**DECISIVE, "lora": learning}.items():
        mine = getattr(recipe, section).model_dump(mode="json")
        theirs = getattr(usual, section).model_dump(mode="json")
        for key in keys:
            if mine[key] != theirs[key]:
                text = mine[key] if isinstance(mine[key], str) else json.dumps(mine[key])
                words += ["--set", f"{section}.{key}={text}"]
    return words
