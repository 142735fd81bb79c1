"""Paints one content after another: masks, colours, inversion, sampling, and the paste at the end.

Everything is decided at two sizes: the content file's own, at which a composite keeps the pixels
that no region touches, and the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images
from stylecli.backbone.lora import LoraFile
from stylecli.engine.contents import Canvas, Inverter
from stylecli.engine.finder import CachedFinder
from stylecli.engine.painting import Area, Painting, Part, Stretch
from stylecli.engine.plan import Input
from stylecli.engine.regions import Masks, place
from stylecli.engine.session import Session
from stylecli.engine.style_words import StyleWords
from stylecli.engine.trajectories import View, together
from stylecli.engine.wardrobe import Wardrobe
from stylecli.errors import ItemError
from stylecli.methods import diffstyler
from stylecli.methods.diffstyler import Background, Look, Region
from stylecli.recipe.schema import Recipe, Sampling
from stylecli.tensors.regions import compose, composite

# A result with less spread than this, in [0, 1], holds nothing.
FLAT = 1e-3
# Stands in a prompt for the captions the LoRAs were trained with.
TRIGGER = "{trigger}"


@dataclass(frozen=True, slots=True)
class Painted:
    """A result and what it was made of.

    Attributes:
        pixels: The result.
        content: At the same size.
        masks: Of every area that has one, at the content file's size.
        details: Figures worth keeping.
    """

    pixels: UInt8[Tensor, "h w 3"]
    content: Float[Tensor, "3 h w"]
    masks: Sequence[Float[Tensor, "hc wc"]]
    details: Mapping[str, Any] = field(default_factory=dict)


class Painter:
    """A loaded model with the LoRAs it has met."""

    def __init__(self, session: Session, *, allow_download: bool = False) -> None:
        self.backbone = session.backbone
        self.recipe = session.recipe
        self.context = session.context
        self.finder = CachedFinder(session, allow_download=allow_download)
        self.words = StyleWords(session, allow_download=allow_download)
        self.inverter = Inverter(self.backbone, self.context)
        self._said: set[str] = set()
        self.wardrobe = Wardrobe(self.backbone, self.recipe, self.context)

    def try_on(self, paintings: Iterable[Painting]) -> None:
        """Load each LoRA file once, so that one that does not fit costs no item its work.

        Raises:
            UsageError: One does not fit this model.
            WeightsError: One cannot be read.
        """
        for painting in paintings:
            self.wardrobe.fetch(p for p in painting.parts if p.look.role == "lora")

    def paint(self, content: Input, painting: Painting, *, recipe: Recipe | None = None) -> Painted:
        """Restyle one content; see `paint_together`."""
        recipe = recipe or self.recipe
        canvas = self.inverter.open(content, recipe, whole=painting.has_masks)
        return self.paint_together([canvas], painting, recipe)[0]

    def paint_together(
        self, canvases: Sequence[Canvas], painting: Painting, recipe: Recipe, rows: int = 1
    ) -> list[Painted]:
        """Restyle contents of one size that ask for the same.

        Args:
            canvases: Several only where no area is found by words; with masks, of one file size.
            painting: What is painted where and when.
            recipe: Of the run, with other settings of inversion, injection or sampling; all that
                decides LoRAs and masks is the run's.
            rows: The model always sees so many contents, the last one filling up, so that results
                do not depend on which others there are.

        Raises:
            ItemError: A mask cannot be used, words match nothing, or the model gave nothing that
                can be seen.
        """
        sampling = recipe.sampling
        files = self.wardrobe.fetch(painting.parts)
        canvas = canvases[0]
        masks = place(
            painting,
            canvas.geometry,
            self.backbone.latent_px,
            sampling,
            self.recipe.masks,
            lambda words: self._find(canvas, words),
            self.context.reporter,
        )
        views = [canvas.view() for canvas in canvases]
        if sampling.start == "palette":
            views = [self._recoloured(canvas, painting, files, masks) for canvas in canvases]
        trajectory = self.inverter.invert(views, recipe, rows)
        start = None
        if sampling.start == "adain":
            start = self._start(trajectory.latents[-1], painting, masks, recipe)
        regions = [
            Region(looks=self.looks(area, files, sampling), share=share)
            for area, share in zip(painting.areas, masks.shares, strict=True)
        ]
        background = None
        if masks.background is not None:
            background = Background(
                share=masks.background,
                looks=_behind(sampling) if sampling.background == "denoise" else None,
                pin_until=sampling.pin_until,
            )
        label = f"paint {together([canvas.name for canvas in canvases])}"
        with self.context.reporter.task(label, sampling.steps) as task:
            latents = diffstyler.paint(
                self.backbone,
                self.wardrobe.adapters,
                trajectory,
                regions,
                recipe.injection,
                background=background,
                start=start,
                on_step=lambda: task.advance(1),
            )
        prompts = {look.prompt: None for region in regions for look in region.looks}
        decoded = self.backbone.decode(latents).cpu()[: len(canvases)]
        return [
            self._finished(canvas, masks, one[None], sampling, list(prompts))
            for canvas, one in zip(canvases, decoded, strict=True)
        ]

    def _find(self, canvas: Canvas, words: str) -> tuple[Tensor, dict[str, Any]]:
        assert canvas.picture is not None, "opened whole, because the painting has masks"  # noqa: S101
        return self.finder.find(canvas.picture, words)

    def looks(
        self, area: Area, files: Mapping[str, LoraFile], sampling: Sampling | None = None
    ) -> list[Look]:
        """What an area asks for at every step, under the run's settings or others."""
        found = []
        for stretch in area.stretches:
            look = Look(
                weights=self._weights(stretch.parts),
                prompt=self._prompt(area, stretch, files, sampling or self.recipe.sampling),
                negative=area.negative,
                guidance=area.guidance,
            )
            self._warn_of_a_cut(look.prompt)
            found += [look] * (stretch.stop - stretch.start)
        return found

    def _weights(self, parts: Sequence[Part]) -> dict[str, float]:
        weights: dict[str, float] = {}
        for part in parts:
            name = self.wardrobe.name(part)
            weights[name] = weights.get(name, 0.0) + part.weight
        return weights

    def _prompt(
        self, area: Area, stretch: Stretch, files: Mapping[str, LoraFile], sampling: Sampling
    ) -> str:
        """The stretch's own words, else the area's, else what the LoRAs were trained with.

        Words found from style pictures follow, where they are asked for.
        """
        found = (files[self.wardrobe.name(part)].trigger for part in stretch.parts)
        triggers = ", ".join(dict.fromkeys(trigger for trigger in found if trigger))
        own = stretch.prompt if stretch.prompt is not None else area.prompt
        if own is not None and TRIGGER in own and not triggers:
            self._warn_once(f"no LoRA says its caption, so {TRIGGER} in a prompt is nothing")
        said = triggers if own is None else own.replace(TRIGGER, triggers)
        if not sampling.prompt_from_style:
            return said
        pictures = [part.look for part in stretch.parts if part.look.role == "style"]
        words = [self.words.find(picture).text for picture in pictures]
        return ", ".join(text for text in (said, *words) if text)

    def _warn_of_a_cut(self, prompt: str) -> None:
        """Where the model will not read a prompt to its end."""
        tokenizer = self.backbone.tokenizer
        length = len(tokenizer(prompt).input_ids)
        if length > tokenizer.model_max_length:
            self._warn_once(
                f"a prompt has {length} tokens, and the model reads {tokenizer.model_max_length}: "
                f"{prompt[:40]}..."
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.context.reporter.warn(text)

    def _recoloured(
        self, canvas: Canvas, painting: Painting, files: Mapping[str, LoraFile], masks: Masks
    ) -> View:
        """The content with the colours of each area's first LoRAs, and what decides them."""
        recoloured, changes = [], []
        for area, mask in zip(painting.areas, masks.digests, strict=True):
            image, change = self._in_colours(canvas.image, area, files)
            recoloured.append(image)
            changes.append([mask, change])
        return canvas.view(masks.blend(recoloured, canvas.image), changes)

    def _in_colours(
        self, image: Tensor, area: Area, files: Mapping[str, LoraFile]
    ) -> tuple[Tensor, object]:
        parts = next((s.parts for s in area.stretches if s.parts), ())
        found = []
        for part in parts:
            colours = files[self.wardrobe.name(part)].colours
            if colours is None:
                self.context.reporter.warn(
                    f"{part.look.path.name} does not say which colours it learned; the content's "
                    "are kept"
                )
            elif part.weight:
                found.append((colours, abs(part.weight)))
        change = [[colours.to_json(), weight if len(found) > 1 else 1] for colours, weight in found]
        if not found:
            return image, change
        if len(found) == 1:
            return found[0][0].give(image), change
        total = sum(weight for _, weight in found)
        return sum((c.give(image) * (w / total) for c, w in found), torch.zeros_like(image)), change

    def _start(self, noise: Tensor, painting: Painting, masks: Masks, recipe: Recipe) -> Tensor:
        """The content's noise with the statistics of each area's strongest first style."""
        started = []
        for area in painting.areas:
            parts = next((s.parts for s in area.stretches if s.parts), ())
            style = max(parts, key=lambda part: abs(part.weight), default=None)
            if style is None:
                started.append(noise)
                continue
            canvas = self.inverter.open(style.look, recipe, whole=False)
            theirs = self.inverter.invert([canvas.view()], recipe).latents[-1]
            started.append(diffstyler.adain(noise, theirs))
        if masks.background is None and len(started) == 1:
            return started[0]
        shares = [share for share in masks.shares if share is not None]
        if masks.background is not None:
            started, shares = [*started, noise], [*shares, masks.background]
        return compose(started, shares)

    def _finished(
        self,
        canvas: Canvas,
        masks: Masks,
        image: Float[Tensor, "1 3 hp wp"],
        sampling: Sampling,
        prompts: Sequence[str],
    ) -> Painted:
        decoded = canvas.geometry.undo(image)[0]
        content = canvas.geometry.undo(canvas.image)[0]
        if float(decoded.std()) < FLAT <= float(content.std()):
            raise ItemError("the result is one flat colour", fix="use --dtype float32")
        if masks.covered is None or sampling.composite == "none" or canvas.picture is None:
            pixels = images.to_pixels(decoded)
        else:
            size = canvas.geometry.original
            pixels = composite(images.scaled(decoded, size), canvas.picture.pixels, masks.covered)
            content = images.to_float(canvas.picture.pixels)
        height, width = pixels.shape[:2]
        details = {"height": height, "width": width, "prompts": prompts, **masks.details}
        return Painted(pixels, content, masks.full, details)


def _behind(sampling: Sampling) -> list[Look]:
    """What the background is repainted with."""
    look = Look(
        weights={},
        prompt=sampling.background_prompt,
        negative=sampling.negative,
        guidance=sampling.guidance,
    )
    return [look] * sampling.steps
