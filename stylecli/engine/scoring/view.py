"""What a metric sees of a case: pictures, maps and vectors, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts import images
from stylecli.engine.scoring.pictures import Case, Shot, paired, region
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import PREPROCESS, shorter_side

if TYPE_CHECKING:
    from stylecli.engine.scoring.rows import Bench

POCKET_TAPS_PX = 256


class RowView:
    """`stylecli.evaluation.metric.Row` over a case; decodes and computes on demand."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self._bench, self._case = bench, case
        self._device = bench.networks.device
        self._pairs: dict[str, UInt8[Tensor, "h w 3"]] = {}

    def picture(self, role: str) -> Float[Tensor, "1 3 h w"]:
        return images.to_tensor(self.pixels(role)).to(self._device)

    def pictures(self, role: str) -> list[Float[Tensor, "1 3 _h _w"]]:
        return [images.to_tensor(s.load()).to(self._device) for s in self._case.shots(role)]

    def pixels(self, role: str) -> UInt8[Tensor, "h w 3"]:
        if role not in self._pairs:
            output = self._case.output.load()
            # At 512 the output is scaled with its partner, or alone where it has none.
            partner = next(iter(self._case.shots(role)), self._case.output)
            pair = paired(output, partner.load(), self._bench.settings, role)
            self._pairs.update({"output": pair[0], role: pair[1]})
        return self._pairs[role]

    def mask(self) -> Float[Tensor, "h w"]:
        (shot,) = self._case.shots("mask")
        height, width = self.pixels("output").shape[:2]
        found = region(shot.load(), (height, width), self.setting("mask_polarity"))
        return found.to(self._device)

    def words(self, column: str) -> str:
        return str(getattr(self._case.item, column))

    def embeddings(self, extractor: str, role: str) -> Float[Tensor, "k d"]:
        return self._bench.embed(extractor, self._case.shots(role))

    def text(self, extractor: str, text: str) -> Float[Tensor, "1 d"]:
        return self._bench.text(extractor, text)

    def crop_embedding(
        self, extractor: str, pixels: UInt8[Tensor, "h w 3"]
    ) -> Float[Tensor, "1 d"]:
        return self._bench.embed_now(extractor, pixels)

    def taps(self, network: str, role: str) -> list[Sequence[Float[Tensor, "1 _c _h _w"]]]:
        recent = self._bench.recent_taps
        return [
            recent.get((network, shot.key), partial(self._taps, network, shot))
            for shot in self._case.shots(role)
        ]

    def network(self, name: str) -> Any:
        return self._bench.networks.get(name)

    def setting(self, name: str) -> str:
        return str(getattr(self._bench.settings, name))

    def _taps(self, network: str, shot: Shot) -> list[Tensor]:
        model, picture, about = self.network(network), shot.load(), NETWORKS[network]
        if about.tapped:
            image = PREPROCESS[about.tapped].apply(picture)[None].to(self._device)
            found = model.taps(image, about.taps)
            return [found[name] for name in about.taps]
        image = images.to_tensor(picture).to(self._device)
        if min(picture.shape[:2]) > POCKET_TAPS_PX:
            size = shorter_side(picture.shape[:2], POCKET_TAPS_PX)
            image = torch.nn.functional.interpolate(
                image, size, mode="bicubic", antialias=True
            ).clamp(0, 1)
        features: list[Tensor] = model.features(image)
        return features
