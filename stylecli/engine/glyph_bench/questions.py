"""Contents, styles and true drawings, and the methods that answer.

A question is a thing drawn by one hand (content), another thing drawn by a hand that no training
saw (style), and the first thing as that second hand drew it (target). Things are held out too. The
answer is how much of the way from the content to the target a method goes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from stylecli.artifacts import glyphs, images
from stylecli.artifacts.files import to_json, write_atomic
from stylecli.artifacts.glyphs import FAMILIES, Family, Icon
from stylecli.engine import commands, restyle
from stylecli.engine.context import Reporter
from stylecli.engine.gallery import prepare
from stylecli.engine.i2l import predict
from stylecli.engine.i2l.references import References
from stylecli.engine.request import Contents, Destination, Prepared
from stylecli.errors import InputError, UsageError
from stylecli.recipe.schema import Recipe

FILL = 0.9
PICTURES, LORAS, PREDICTED, ITEMS = "pictures", "loras", "predicted", "items.jsonl"
# Answers by another algorithm than a LoRA's.
OF_SAMPLING = ("styleid", "attn-distill")
# Families of one designer: the closest that another hand comes to the target.
SIBLINGS: Mapping[str, str] = {
    "emojione": "emojione-v1",
    "emojione-v1": "emojione",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which questions, and who answers them.

    Attributes:
        icons: An npm `node_modules/@iconify-json`.
        source: The family that draws the contents.
        contents: How many things, in each held-out family.
        styles: How many styles of each family; questions take them in turn.
        references: How many pictures make one style.
        px: Side of every picture; a multiple of 64.
        methods: Who answers, by their names in `METHODS`.
    """

    icons: Path
    output: Path
    source: str = "noto"
    contents: int = 12
    styles: int = 2
    references: int = 1
    px: int = 64
    methods: Sequence[str] = ("diffstyler", "styleid", "attn-distill", "gallery")
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """One content, style and target.

    Attributes:
        style: Pictures of one hand, taken together.
        style_name: Tells the styles of a family apart.
        sibling: The target as a related family draws it.
    """

    family: str
    content: Icon
    style: tuple[Icon, ...]
    style_name: str
    target: Icon
    sibling: Icon | None

    @property
    def id(self) -> str:
        return f"{self.target.content}__{self.family}"

    def pictures(self) -> dict[str, Icon]:
        """Where in the benchmark's folder each picture is, and what it shows."""
        shown = {self.place("content"): self.content, self.place("target"): self.target}
        if self.sibling:
            shown[self.place("sibling")] = self.sibling
        return shown | dict(zip(self.references(), self.style, strict=True))

    def place(self, role: str) -> str:
        """Of the one picture of a role."""
        return f"{PICTURES}/{role}/{self.id}.png"

    def references(self) -> list[str]:
        """Of the pictures of the style; questions that share it share them."""
        return [f"{PICTURES}/style/{icon.family}__{icon.content}.png" for icon in self.style]


def questions(icons: Sequence[Icon], asked: Asked) -> list[Question]:
    """Things held out, in every held-out family; spread evenly over the alphabet.

    Style pictures are things too, drawn by the source as well and asked for by no question: a
    letter in a circle says little about a hand.

    Raises:
        UsageError: The source is no family, or one whose drawings are answers.
        InputError: The families share nothing.
    """
    if asked.source not in FAMILIES or FAMILIES[asked.source].is_held_out:
        trained = ", ".join(name for name, f in FAMILIES.items() if not f.is_held_out)
        raise UsageError(f"--source {asked.source!r} is not one of them", fix=f"known: {trained}")
    if asked.px % 64:
        raise UsageError(f"--px {asked.px} is not a multiple of 64", fix="such as --px 64")
    drawn: dict[str, dict[str, Icon]] = {name: {} for name in FAMILIES}
    for icon in icons:
        drawn[icon.family].setdefault(icon.content, icon)
    found = []
    for family in (name for name, f in FAMILIES.items() if f.is_held_out):
        own, contents = drawn[family], drawn[asked.source]
        shared = sorted(c for c in own.keys() & contents.keys() if glyphs.content_is_held_out(c))
        known = sorted(c for c in own.keys() & contents.keys() if c not in shared)
        if not shared or not known:
            raise InputError(
                f"{asked.source} and {family} share no thing", fix="choose another --source"
            )
        chosen = _spread(known, asked.styles * asked.references)
        styles = [
            tuple(own[name] for name in chosen[index :: asked.styles])
            for index in range(min(asked.styles, len(chosen)))
        ]
        siblings = drawn.get(SIBLINGS.get(family, ""), {})
        for index, name in enumerate(_spread(shared, asked.contents)):
            number = index % len(styles)
            found.append(
                Question(
                    family=family,
                    content=contents[name],
                    style=styles[number],
                    style_name=f"{family}-{number + 1}",
                    target=own[name],
                    sibling=siblings.get(name),
                )
            )
    return found


def _spread(names: Sequence[str], count: int) -> list[str]:
    """So many of the names, at even distances and away from both ends.

    >>> _spread(["a", "b", "c", "d"], 2)
    ['b', 'd']
    """
    count = min(count, len(names))
    return [names[(2 * index + 1) * len(names) // (2 * count)] for index in range(count)]


def draw(icon: Icon, px: int) -> Float[Tensor, "3 px px"]:
    """A drawing on white, its tight box filling nine tenths of the square, in [0, 1]."""
    rgba = torch.from_numpy(glyphs.render(icon.svg, 2 * px).copy()).permute(2, 0, 1).float() / 255
    inside = rgba[3] > 0
    if not inside.any():
        return torch.ones(3, px, px)
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    box = rgba[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = FILL * px / max(box.shape[1:])
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[2] * scale)))
    fitted = F.interpolate(box[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    canvas = torch.ones(3, px, px)
    top, left = (px - size[0]) // 2, (px - size[1]) // 2
    under = canvas[:, top : top + size[0], left : left + size[1]]
    # The colours are premultiplied.
    under.mul_(1 - fitted[3]).add_(fitted[:3])
    return canvas.clamp(0, 1)


def read(asked: Asked) -> list[Question]:
    """The questions; nothing is drawn yet.

    Raises:
        InputError: A family is missing; the fix is the npm command that fetches it.
        UsageError: The source is no family, or one whose drawings are answers.
    """
    return questions(glyphs.read_icons(asked.icons, _families(asked)), asked)


def write(asked: Asked, found: Sequence[Question]) -> None:
    """Draw every picture, and note who drew it; what is there of other questions is replaced."""
    for place, icon in {p: icon for q in found for p, icon in q.pictures().items()}.items():
        pixels = images.to_pixels(draw(icon, asked.px))
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(buffer, "PNG")
        path = asked.output / place
        # Left alone where it is the same: scores are found again by files.
        if not path.is_file() or path.read_bytes() != buffer.getvalue():
            write_atomic(path, buffer.getvalue())
    drawn_by = [
        f"* {name}: {f.author}, {f.licence}, npm `@iconify-json/{name}`"
        for name, f in _families(asked).items()
    ]
    text = "# Who drew these pictures\n\n" + "\n".join(drawn_by) + "\n"
    write_atomic(asked.output / "ATTRIBUTION.md", text.encode())


def write_items(asked: Asked, found: Sequence[Question]) -> None:
    """The manifest that is scored: every answer that is there, and the siblings."""
    rows = (row for row in _items(asked, found) if (asked.output / str(row["output"])).is_file())
    _write_rows(asked.output / ITEMS, rows)


def _families(asked: Asked) -> dict[str, Family]:
    return {
        name: family
        for name, family in FAMILIES.items()
        if family.is_held_out or name == asked.source
    }


def _items(asked: Asked, found: Sequence[Question]) -> Iterator[dict[str, object]]:
    for method in (*asked.methods, "sibling_family"):
        for q in found:
            if method == "sibling_family" and q.sibling is None:
                continue
            is_sibling = method == "sibling_family"
            yield {
                "id": q.id,
                "method": method,
                "output": q.place("sibling") if is_sibling else f"{method}/{q.id}.png",
                "content": q.place("content"),
                "style": q.references(),
                "target": q.place("target"),
                "style_family": q.family,
                "content_group": q.target.content,
            }


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    write_atomic(path, b"".join(to_json(row).encode() + b"\n" for row in rows))


def diffstyler(
    recipe: Recipe, asked: Asked, found: Sequence[Question], reporter: Reporter
) -> Iterator[Prepared]:
    """A LoRA of each style, then transfers with them; what is yielded is run before the next."""
    for name, pictures in _pictures(asked, found).items():
        yield commands.train_lora(recipe, pictures, _lora(asked, LORAS, name), reporter)
    looks = [{"lora": f"{LORAS}/{q.style_name}.safetensors"} for q in found]
    yield _transferred("diffstyler", recipe, asked, found, looks, reporter)


def i2l(
    recipe: Recipe, asked: Asked, found: Sequence[Question], reporter: Reporter
) -> Iterator[Prepared]:
    """The same with LoRAs that are predicted, and not learned."""
    for name, pictures in _pictures(asked, found).items():
        yield predict.predict(
            recipe,
            References.of(pictures),
            _lora(asked, PREDICTED, name),
            reporter,
        )
    looks = [{"lora": f"{PREDICTED}/{q.style_name}.safetensors"} for q in found]
    yield _transferred("i2l", recipe, asked, found, looks, reporter)


def _pictures(asked: Asked, found: Sequence[Question]) -> dict[str, list[str]]:
    """Of each style."""
    return {q.style_name: [str(asked.output / place) for place in q.references()] for q in found}


def _lora(asked: Asked, folder: str, name: str) -> Destination:
    return Destination(output=f"{asked.output / folder / name}.safetensors", wait=asked.wait)


def after_pictures(method: str) -> Answer:
    """A method that learns nothing, shown the first picture of each style."""

    def answer(
        recipe: Recipe, asked: Asked, found: Sequence[Question], reporter: Reporter
    ) -> Iterator[Prepared]:
        looks = [{"style": q.references()[0]} for q in found]
        yield _transferred(method, recipe, asked, found, looks, reporter)

    return answer


def gallery(
    recipe: Recipe, asked: Asked, found: Sequence[Question], reporter: Reporter
) -> Iterator[Prepared]:
    """StyleGallery, shown all pictures of each style; questions that share it are one run."""
    by_style: dict[str, list[Question]] = {}
    for q in found:
        by_style.setdefault(q.style_name, []).append(q)
    for name, group in by_style.items():
        manifest = asked.output / f"gallery.{name}.jsonl"
        rows = ({"content": q.place("content"), "output": f"{q.id}.png"} for q in group)
        _write_rows(manifest, rows)
        yield prepare.gallery(
            recipe,
            Contents(manifest=manifest),
            Destination(output=f"{asked.output / 'gallery'}/", wait=asked.wait),
            reporter,
            refs=[str(asked.output / place) for place in group[0].references()],
        )


def _transferred(
    method: str,
    recipe: Recipe,
    asked: Asked,
    found: Sequence[Question],
    looks: Iterable[Mapping[str, str]],
    reporter: Reporter,
) -> Prepared:
    """The answers of a method, each question's look by the columns of a manifest."""
    manifest = asked.output / f"{method}.jsonl"
    rows = (
        {"content": q.place("content"), "output": f"{q.id}.png", **look}
        for q, look in zip(found, looks, strict=True)
    )
    _write_rows(manifest, rows)
    own = method if method in OF_SAMPLING else "diffstyler"
    sampling = recipe.sampling.model_copy(update={"method": own})
    return restyle.transfer(
        recipe.model_copy(update={"sampling": sampling}),
        Contents(manifest=manifest),
        Destination(output=f"{asked.output / method}/", wait=asked.wait),
        reporter,
    )


Answer = Callable[[Recipe, Asked, Sequence[Question], Reporter], Iterator[Prepared]]
# Method -> how it answers; a new one is a row here.
METHODS: Mapping[str, Answer] = {
    "diffstyler": diffstyler,
    "i2l": i2l,
    "styleid": after_pictures("styleid"),
    "attn-distill": after_pictures("attn-distill"),
    "gallery": gallery,
}


def at_size(recipe: Recipe, px: int) -> Recipe:
    """The recipe for pictures of this side: nothing is scaled up, and nothing is cut off."""
    lora = recipe.lora.model_copy(update={"resolution": px, "crop": "center"})
    sampling = recipe.sampling.model_copy(update={"size": px})
    return recipe.model_copy(update={"lora": lora, "sampling": sampling})
