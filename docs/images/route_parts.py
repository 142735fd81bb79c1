"""What an editor makes of the questions, and the figures of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import route_rival
import route_rows
import torch
from jaxtyping import Float
from route_world import KINDS, STYLES, Question, World
from torch import Tensor
from torch.nn import functional as F

from stylecli.backbone import lora
from stylecli.backbone.editors.unet_edit import UnetEdit
from stylecli.backbone.experts import Experts as Adapters
from stylecli.engine.route import experts
from stylecli.evaluation import perceptual, regional
from stylecli.methods.regionroute import measures
from stylecli.methods.regionroute.grids import on_grid
from stylecli.methods.regionroute.spans import locate
from stylecli.methods.regionroute.styles import WHOLE, Style, instruct
from stylecli.recipe.route import Apply
from stylecli.tensors.seeds import derive

BATCH = 16
# Of a picture of 64 px; an eighth of it on either side of the edge.
BAND_PX = 8
# Scenes of each kind, with an instruction for either of two things.
SCENES = {"seen": 60, "unseen": 60, "alias": 30} | dict.fromkeys(KINDS[3:], 18)
ABLATED = {"seen": 24, "unseen": 24}
# In the mean of pixels in [0, 1]; less is no edit, wherever it is.
LEAST_CHANGE = 0.02


Said = tuple[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One of two things of a scene, in a style."""

    question: Question
    thing: int
    style: Style

    @property
    def said(self) -> Said:
        """The instruction, and where in it the style stands."""
        made = instruct(self.question.called[self.thing], self.style)
        return made.prompt, made.style_span

    @property
    def whole(self) -> Said:
        """Likewise, of all of the picture."""
        start = WHOLE.index("{style}")
        return WHOLE.format(style=self.style.text), (start, start + len(self.style.text))

    @property
    def id(self) -> str:
        return f"{self.question.id}-{self.thing}"

    def who(self, way: str, by: str) -> dict[str, str]:
        """Of which edit a row is, and whose work."""
        known = {"id": self.id, "kind": self.question.kind, "style": self.style.id}
        return {"way": way, "by": by, **known}


class Studio:
    """An editor with experts, and what judges it."""

    def __init__(self, editor: UnetEdit, clip: Path, lpips: Path, apply: Apply) -> None:
        self.editor, self._apply = editor, apply
        self._adapters = Adapters(editor.model)
        self._clip = perceptual.load_pocket_clip(clip)
        self._lpips = perceptual.load_pocket_lpips(lpips)
        self._files: dict[str, str] = {}

    def take_up(self, folder: Path) -> tuple[str, ...]:
        """The experts of a folder, instead of those before; their styles."""
        for one in self._adapters.ids:
            self._adapters.remove(one)
        found = experts.read(folder)
        for expert in found.experts:
            tensors, header, _ = lora.opened(found.file(expert.id))
            self._adapters.load(expert.id, tensors, header)
            self._files[expert.id] = hashlib.sha256(found.file(expert.id).read_bytes()).hexdigest()
        return self._adapters.ids

    def by(self, style_id: str | None) -> str:
        """Whose work an edit is: of the editor alone, or with an expert, and how it was asked."""
        expert = [self._files[style_id][:16]] if style_id else []
        apply = self._apply
        asked = f"{apply.steps}:{apply.guidance:g}:{apply.image_guidance:g}"
        return " ".join([self.editor.fingerprint, *expert, asked])

    @torch.inference_mode()
    def edited(
        self, some: Sequence[Asked], said: Sequence[Said], style_id: str | None
    ) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"], Float[Tensor, "b gh gw"]]:
        """Pictures, what the autoencoder makes of them before, and where the style's words looked.

        Args:
            style_id: Of the expert; None is the model alone.
        """
        editor = self.editor
        pictures = torch.stack([one.question.picture for one in some])
        reference = editor.encode_image(pictures)
        at_work = self._adapters.none() if style_id is None else self._adapters.only(style_id)
        grid, maps = editor.grid(reference), []
        prompts = [prompt for prompt, _ in said]
        tokens = [locate(editor.tokenizer, *one, editor.text_length) for one in said]
        with at_work, editor.probing() as probe:
            probe.watch([[own] for own in tokens], grid)
            latents = editor.edit(
                reference,
                editor.encode_prompt(prompts),
                seeds=[derive("route proof", one.question.id) for one in some],
                steps=self._apply.steps,
                guidance=self._apply.guidance,
                image_guidance=self._apply.image_guidance,
                after=lambda *_: maps.append(probe.maps()[..., 0]),
            )
            result = editor.decode(latents).clamp(0, 1)
            rebuilt = editor.decode(reference).clamp(0, 1)
        return result, rebuilt, torch.stack(maps).mean(dim=0).view(len(some), *grid)

    @torch.inference_mode()
    def rebuilt(self, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
        """What the autoencoder makes of a picture."""
        return self.editor.decode(self.editor.encode_image(picture[None]))[0].clamp(0, 1)

    @torch.inference_mode()
    def judged(
        self,
        one: Asked,
        result: Float[Tensor, "3 h w"],
        rebuilt: Float[Tensor, "3 h w"],
        looked: Float[Tensor, "gh gw"] | None,
    ) -> dict[str, Any]:
        """All figures of an edit; `distance` and `error` are shares of what they were before it.

        What changed is counted from `rebuilt`: the autoencoder's own loss is no edit.

        Args:
            looked: None where nobody looked for the thing; the figures of attention are then NaN.
        """
        asked, other, style = one.question, 1 - one.thing, one.style
        before, truth = asked.picture, asked.truth(one.thing, style)
        mask, region = asked.mask(one.thing), asked.region(one.thing, style)
        change = (result - rebuilt).abs().mean(dim=0)
        inside, outside = (_mean(change, asked.mask(thing)) for thing in (one.thing, other))
        top, left, bottom, right = regional.rsm_box(region)
        box = (..., slice(top, bottom), slice(left, right))
        far, near = (self._apart(each[box], truth[box]) for each in (before, result))
        error_far, error_near = (
            _mean((each - truth).square().mean(dim=0), region) for each in (before, result)
        )
        text, image = self._clip.text_features([f"{style.text} style"]), result[box]
        cosine = float((self._clip.image_features(image[None]) * text).sum())
        pasted = regional.paste_inside(result[None], before[None], region)
        hard = (region >= 0.5).float()
        mass = iou = math.nan
        if looked is not None:
            cells = on_grid(mask[None], (looked.shape[0], looked.shape[1]))
            maps = looked.flatten()[None]
            mass, iou = (float(each(maps, cells)) for each in (measures.inside_mass, measures.iou))
        band = regional.outside_band(hard, BAND_PX) * regional.outside_band(1 - hard, BAND_PX)
        return {
            "inside": inside,
            "other": outside,
            "is_local": inside >= max(2 * outside, LEAST_CHANGE),
            "distance": near / max(far, 1e-6),
            "error": error_near / max(error_far, 1e-6),
            "is_nearer": near < far,
            "rsm": regional.rsm(cosine),
            "lpips_bg": self._apart(pasted[0], before),
            "mse_bg": regional.mse_bg(result[None], before[None], hard),
            "seam": _mean((result - truth).abs().mean(dim=0), band),
            "mass": mass,
            "iou": iou,
        }

    @torch.inference_mode()
    def compared(
        self,
        before: Float[Tensor, "3 h w"],
        rebuilt: Float[Tensor, "3 h w"],
        result: Float[Tensor, "3 h w"],
        truth: Float[Tensor, "3 h w"],
    ) -> dict[str, Any]:
        """How near an edit of all of a picture comes to the truth."""
        far, near = self._apart(before, truth), self._apart(result, truth)
        return {
            "distance": near / max(far, 1e-6),
            "is_nearer": near < far,
            "change": float((result - rebuilt).abs().mean()),
        }

    def _apart(self, one: Tensor, other: Tensor) -> float:
        size = (perceptual.NATIVE_PX, perceptual.NATIVE_PX)
        pair = [F.interpolate(each[None], size, mode="bilinear") for each in (one, other)]
        return float(self._lpips.distance(pair[0], pair[1]))


def editor_part(world: World, studio: Studio, folders: Mapping[str, Path], work: Path) -> None:
    """All of a picture, by the model alone: what experts build on."""
    del folders
    _carried_out("base", WHOLLY, asked(world, ABLATED)[::2], studio, work / "editor")


def main_part(world: World, studio: Studio, folders: Mapping[str, Path], work: Path) -> None:
    """Every kind of scene with the experts that ship."""
    studio.take_up(folders[SHIPPED])
    _carried_out(SHIPPED, BY_EXPERT, asked(world, SCENES), studio, work / "main")


def ablation(world: World, studio: Studio, folders: Mapping[str, Path], work: Path) -> None:
    """The same scenes with other experts, with none, and as a whole under the true mask."""
    some = asked(world, ABLATED)
    for name, way in ALONE.items():
        _carried_out(name, way, some, studio, work / "ablation")
    for name, folder in folders.items():
        known = studio.take_up(folder)
        own = [one for one in some if one.style.id in known]
        _carried_out(name, BY_EXPERT, own, studio, work / "ablation")


def rival(world: World, studio: Studio, folders: Mapping[str, Path], work: Path) -> None:
    """The same scenes by `mask-transfer`, which is told where by the true mask."""
    del folders
    file = work / "ablation.jsonl"
    done = {(row["way"], row["id"], row.get("by")) for row in route_rows.read(file)}
    for style in STYLES:
        own = [one for one in asked(world, ABLATED) if one.style is style]
        regions = [one.question.region(one.thing, style) for one in own]
        pairs = [(one.id, one.question.picture, at) for one, at in zip(own, regions, strict=True)]
        by, results = route_rival.answers(world, style, pairs, work / "rival")
        for one, region, result in zip(own, regions, results, strict=True):
            if (RIVAL, one.id, by) in done:
                continue
            before, truth = one.question.picture, one.question.truth(one.thing, style)
            rebuilt = torch.lerp(before, studio.rebuilt(before), region)
            figures = studio.judged(one, result, rebuilt, None)
            route_rows.save(work / "ablation" / RIVAL / f"{one.id}.png", before, result, truth)
            route_rows.note(file, one.who(RIVAL, by), figures)


@dataclass(frozen=True, slots=True)
class Way:
    """How pictures are edited.

    Attributes:
        is_expert: Each by its style's, and not by the model alone.
        is_whole: What is said is of all of the picture.
        is_spliced: Of the answer that part is taken which was asked for.
    """

    is_expert: bool = False
    is_whole: bool = False
    is_spliced: bool = False

    def expert(self, one: Asked) -> str | None:
        """Whose work it is."""
        return one.style.id if self.is_expert else None

    def said(self, one: Asked) -> Said:
        """What is asked for."""
        return one.whole if self.is_whole else one.said


BY_EXPERT, WHOLLY = Way(is_expert=True), Way(is_whole=True)
# What needs no experts.
ALONE: Mapping[str, Way] = {"base": Way(), "splice": Way(is_whole=True, is_spliced=True)}
# What is done by another command, and what those that ship are called.
RIVAL, SHIPPED = "mask-transfer", "both"


def asked(world: World, counts: Mapping[str, int]) -> list[Asked]:
    """Styles take turns; both things of a scene are asked for the same one."""
    return [
        Asked(question, thing, STYLES[number % len(STYLES)])
        for kind, count in counts.items()
        for number, question in enumerate(world.ask(kind, k) for k in range(count))
        for thing in (0, 1)
    ]


def _carried_out(name: str, way: Way, some: Sequence[Asked], studio: Studio, folder: Path) -> None:
    """Edits that are not in the file yet, by this editor and expert, with their pictures."""
    file = folder.with_suffix(".jsonl")
    done = {(row["way"], row["id"], row.get("by")) for row in route_rows.read(file)}
    todo = [one for one in some if (name, one.id, studio.by(way.expert(one))) not in done]
    for style_id, group in _batches(todo, way.expert):
        said = [way.said(one) for one in group]
        answers = zip(group, *studio.edited(group, said, style_id), strict=True)
        for one, result, rebuilt, looked in answers:
            question, before = one.question, one.question.picture
            whole = way.is_whole and not way.is_spliced
            truth = question.whole(one.style) if whole else question.truth(one.thing, one.style)
            if way.is_spliced:
                region = question.region(one.thing, one.style)
                result, rebuilt = (torch.lerp(before, x, region) for x in (result, rebuilt))
            figures = (
                studio.compared(before, rebuilt, result, truth)
                if whole
                else studio.judged(one, result, rebuilt, looked)
            )
            route_rows.save(folder / name / f"{one.id}.png", before, result, truth)
            route_rows.note(file, one.who(name, studio.by(style_id)), figures)
        print(name, len(todo), style_id, flush=True)  # noqa: T201 - what is being done


def _batches(
    some: Sequence[Asked], expert_of: Callable[[Asked], str | None]
) -> Iterator[tuple[str | None, list[Asked]]]:
    for style_id in dict.fromkeys(expert_of(one) for one in some):
        own = [one for one in some if expert_of(one) == style_id]
        for first in range(0, len(own), BATCH):
            yield style_id, own[first : first + BATCH]


def _mean(values: Float[Tensor, "h w"], weights: Float[Tensor, "h w"]) -> float:
    return float((values * weights).sum() / weights.sum().clamp(min=1e-6))


PARTS: Mapping[str, Callable[[World, Studio, Mapping[str, Path], Path], None]] = {
    "editor": editor_part,
    "main": main_part,
    "ablation": ablation,
    "rival": rival,
}
