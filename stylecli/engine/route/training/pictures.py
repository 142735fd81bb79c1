"""Sheets for people: what an expert makes of held-out pictures by now, and where it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts import images, sheets, store
from stylecli.backbone.experts import Experts
from stylecli.engine.route.data import items
from stylecli.engine.route.data.items import Sample
from stylecli.engine.route.training.steps import Material, looking

COLUMNS = (
    "picture", "wanted", "model alone", "where it looks", "with the expert", "where it looks",
)  # fmt: skip
# A picture, and where the style's words looked, on average over the steps of sampling.
Drawn = tuple[Float[Tensor, "3 h w"], Float[Tensor, "gh gw"]]


class Pictures:
    """Held-out pictures edited from the same noise, by the model alone once and for all."""

    def __init__(
        self,
        style_id: str,
        experts: Experts,
        material: Material,
        samples: Sequence[Sample],
        seed: int,
    ) -> None:
        """Choose the rows: the first of these pairs."""
        self._samples = tuple(samples[: material.settings.validation.images])
        self._style_id, self._experts, self._material = style_id, experts, material
        self._seed = seed
        self._base: Mapping[str, Drawn] = {}

    @torch.no_grad()
    def draw(self, file: Path) -> None:
        """Write a sheet of the expert as it is.

        Raises:
            ItemError: It cannot be written.
        """
        if not self._base:
            with self._experts.none():
                self._base = {sample.id: self._edited(sample) for sample in self._samples}
        rows = []
        for sample in self._samples:
            size = self._material.encoded.size(sample)
            before, after = (
                images.scaled(items.picture(one), size) for one in (sample.source, sample.target)
            )
            base, base_looks = self._base[sample.id]
            with self._experts.only(self._style_id):
                own, own_looks = self._edited(sample)
            looks = [sheets.heated(before, heat) for heat in (base_looks, own_looks)]
            rows.append([before, after, base, looks[0], own, looks[1]])
        labels = [sample.prompt for sample in self._samples]
        sheet = sheets.grid(rows, row_labels=labels, column_labels=COLUMNS)
        file.parent.mkdir(parents=True, exist_ok=True)
        store.save_image(file, sheet, None)

    def _edited(self, sample: Sample) -> Drawn:
        editor, encoded = self._material.editor, self._material.encoded
        settings = self._material.settings
        reference = encoded.source(sample).to(editor.device)
        grid = editor.grid(reference)
        maps: list[Tensor] = []
        with looking(editor, settings.loss, always=True) as probe:
            assert probe is not None  # noqa: S101 - it was asked for
            probe.watch([[phrase.tokens for phrase in encoded.asked(sample)]], grid)
            latents = editor.edit(
                reference,
                encoded.text(sample.prompt),
                seeds=[self._seed],
                steps=settings.apply.steps,
                guidance=settings.apply.guidance,
                image_guidance=settings.apply.image_guidance,
                after=lambda _, __: maps.append(probe.maps()[0].mean(dim=1).cpu()),
            )
        drawn = editor.decode(latents)[0].float().cpu().clamp(0, 1)
        return drawn, torch.stack(maps).mean(dim=0).view(grid)
