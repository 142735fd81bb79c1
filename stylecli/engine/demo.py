"""What `style demo` shows: every method on the model that ships, as lines that anybody can type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from stylecli.artifacts import files, images
from stylecli.artifacts.sheets import grid
from stylecli.errors import InputError, OutputDiffersError, UsageError

SHEET = "demo.png"
# Of the sheet's pictures, which are up to 192 px wide and as small as 64.
HEIGHT_PX = 128
# What parts regions, prompts and entries of a schedule on a command line.
SIGNS = frozenset("=@,")
# Names in the demo's folder, and what they are among the examples that ship.
PICTURES = {
    "cat.png": "chelsea.png",
    "brush.png": "style.png",
    "ink.png": "styles/ink.png",
    "scene.png": "scene.png",
    "pair.png": "pair.png",
    "places/meadow.png": "gallery/meadow.png",
    "places/sunset.png": "gallery/sunset.png",
    "night/goggles.png": "i2l/night/goggles.png",
    "night/left-arrow.png": "i2l/night/left-arrow-curving-right.png",
    "night/surfing.png": "i2l/night/person-surfing.png",
    "night/saxophone.png": "i2l/night/saxophone.png",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the demo.

    Attributes:
        title: What it shows; empty for what a later line needs.
        line: What follows ``style``; ``{at}`` is the demo's folder.
        pictures: Of the sheet's row, what goes in before what comes out.
    """

    title: str
    line: str
    pictures: tuple[str, ...] = ()

    def words(self, folder: Path) -> list[str]:
        """The line as a shell would part it."""
        return shlex.split(self.line.format(at=shlex.quote(folder.as_posix())))


_SMALL = "--set sampling.size=128 --steps 20"
STEPS: Sequence[Step] = (
    Step(
        "",
        "train-lora {at}/brush.png -o {at}/brush.safetensors --steps 60 --set lora.crop_px=64",
    ),
    Step(
        "transfer: the look of one picture",
        f"transfer {{at}}/cat.png --lora {{at}}/brush.safetensors -o {{at}}/painted.png {_SMALL}",
        ("cat.png", "brush.png", "painted.png"),
    ),
    Step(
        "i2l-predict: a LoRA from four pictures, in one pass",
        "i2l-predict {at}/night -o {at}/night.safetensors",
    ),
    Step(
        "i2l-predict: the look of four pictures in one pass",
        "generate -p airplane -p pizza --lora {at}/night.safetensors -o {at}/drawn/ "
        "--set sampling.weight=1 --set sampling.steps=25 --guidance 4 --size 64",
        (
            "night/goggles.png",
            "night/saxophone.png",
            "drawn/airplane__night.png",
            "drawn/pizza__night.png",
        ),
    ),
    Step(
        "mask-transfer: two looks, where words say",
        "mask-transfer {at}/scene.png --region text:house={at}/brush.safetensors "
        f"--region text:pizza={{at}}/night.safetensors -o {{at}}/regions.png {_SMALL}",
        ("scene.png", "regions.png"),
    ),
    Step(
        "switch: one look early, another late",
        "switch {at}/cat.png -o {at}/switched.png --schedule "
        f"{{at}}/night.safetensors:0%-30%,{{at}}/brush.safetensors:30%- {_SMALL}",
        ("cat.png", "switched.png"),
    ),
    Step(
        "gallery: regions find their like, nothing is learned",
        "gallery {at}/scene.png --refs {at}/places -o {at}/gallery.png "
        "--set sampling.size=128 --set gallery.steps=40",
        ("scene.png", "places/meadow.png", "places/sunset.png", "gallery.png"),
    ),
    Step(
        "route-apply: one thing by name, no mask",
        "route-apply {at}/pair.png -i 'make the mushroom in cyberpunk style' -o {at}/routed.png",
        ("pair.png", "routed.png"),
    ),
    Step(
        "",
        "transfer {at}/cat.png --style {at}/ink.png --method styleid -o {at}/styleid.png " + _SMALL,
    ),
    Step(
        "transfer --method styleid, attn-distill",
        "transfer {at}/cat.png --style {at}/ink.png --method attn-distill -o {at}/distilled.png "
        "--set sampling.size=128 --set distill.iterations=45",
        ("cat.png", "ink.png", "styleid.png", "distilled.png"),
    ),
)


def lay_out(folder: Path) -> None:
    """Put the example pictures into the demo's folder; those that are there stay.

    Raises:
        UsageError: The folder's name cannot stand in the demo's lines.
        InputError: The examples are not where they belong.
        OutputDiffersError: There is another picture of that name.
        ItemError: The folder cannot be written.
    """
    if found := sorted(set(folder.as_posix()) & SIGNS):
        raise UsageError(
            f"--output {folder}: {' '.join(found)} means something else in --region and --schedule",
            fix="choose a plainer name",
        )
    source = _examples()
    for name, example in PICTURES.items():
        data, target = (source / example).read_bytes(), folder / name
        if not target.exists():
            files.write_atomic(target, data)
        elif target.read_bytes() != data:
            raise OutputDiffersError(
                f"{target} is a picture of yours, where the demo puts one of its own",
                fix="choose an empty folder with --output",
            )


def sheet(folder: Path) -> UInt8[Tensor, "_h _w 3"]:
    """All steps on one page, a row for each: what goes in, then what comes out."""
    shown = [step for step in STEPS if step.pictures]
    return grid(
        [[_picture(folder / name) for name in step.pictures] for step in shown],
        row_labels=[step.title for step in shown],
        title="style demo: every method on the small model that ships, on this machine",
        notes=[
            "The model knows icons and a few photographs; it shows what the commands do. "
            "style recipes list names those that are made for pictures to hang on a wall."
        ],
    )


def _picture(path: Path) -> Tensor:
    found = images.to_float(images.read(path).pixels)
    height, width = found.shape[-2:]
    return images.scaled(found, (HEIGHT_PX, max(1, round(width * HEIGHT_PX / height))))


def _examples() -> Path:
    package = Path(__file__).resolve().parent.parent
    folder = package / "_examples"
    if not folder.is_dir():  # a checkout, not a wheel
        folder = package.parent / "docs" / "images"
    if not folder.is_dir():
        raise InputError(f"the example pictures are not in {package}", fix="reinstall the package")
    return folder
