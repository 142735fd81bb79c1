"""What each metric makes of one output: a stand-in row, whose every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.evaluation import metrics, palette
from stylecli.evaluation.catalogue import (
    content,
    leaks,
    regions,
    style,
    targets,
    taste,
    words,
)
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.evaluation.table import METRICS


def blend(x: float, y: float, z: float) -> Tensor:
    """A unit vector with these cosines to the axes, up to scale."""
    return torch.nn.functional.normalize(torch.tensor([[x, y, z]], dtype=torch.float32), dim=1)


@dataclass
class FakeRow:
    """A `Row` of given pictures and given vectors."""

    images: dict[str, list[Tensor]]
    vectors: dict[str, Tensor] = field(default_factory=dict)
    texts: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    region: Tensor | None = None
    networks: dict[str, Any] = field(default_factory=dict)
    pref: str = "content"

    def picture(self, role: str) -> Float[Tensor, "1 3 h w"]:
        return self.images[role][0]

    def pictures(self, role: str) -> Sequence[Tensor]:
        return self.images[role]

    def pixels(self, role: str) -> UInt8[Tensor, "h w 3"]:
        return (self.picture(role)[0].permute(1, 2, 0) * 255).round().to(torch.uint8)

    def mask(self) -> Float[Tensor, "h w"]:
        assert self.region is not None
        return self.region

    def words(self, column: str) -> str:
        return self.columns[column]

    def embeddings(self, extractor: str, role: str) -> Tensor:
        return self.vectors[role]

    def text(self, extractor: str, text: str) -> Tensor:
        return self.texts[text]

    def crop_embedding(self, extractor: str, pixels: Tensor) -> Tensor:
        # The mean colour of what is shown, as a direction.
        return torch.nn.functional.normalize(pixels.float().mean(dim=(0, 1))[None], dim=1)

    def taps(self, network: str, role: str) -> list[Sequence[Tensor]]:
        return [[image] for image in self.images[role]]

    def network(self, name: str) -> Any:
        return self.networks[name]

    def setting(self, name: str) -> str:
        known = {"rsm_fit": "square", "rsm_template": "{style} style", "pref_prompt": self.pref}
        return known[name]


def flat(red: float, green: float, blue: float, size: int = 24) -> Tensor:
    colour = torch.tensor([red, green, blue], dtype=torch.float32)
    return colour[None, :, None, None].expand(1, 3, size, size).clone()


def noise(seed: int, size: int = 24) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def middle(size: int = 24) -> Tensor:
    mask = torch.zeros(size, size)
    mask[8:16, 8:16] = 1
    return mask


def test_several_references_are_averaged() -> None:
    row = FakeRow(
        {"output": [noise(1)], "style": [noise(2), noise(3)]},
        {"output": blend(1, 0, 0), "style": torch.cat([blend(1, 0, 0), blend(0, 1, 0)])},
    )
    assert style.clip_i_style(row) == pytest.approx(0.5)
    assert style.pocket_clip_style(row) == pytest.approx(0.5)
    wanted = [float(palette.color_sw(noise(1), noise(seed))) for seed in (2, 3)]
    assert style.color_sw(row) == pytest.approx(sum(wanted) / 2)
    grams = [float(metrics.gram_rel([noise(1)], [noise(seed)])) for seed in (2, 3)]
    assert style.pocket_gram(row) == pytest.approx(sum(grams) / 2)


def test_words_are_those_of_their_column() -> None:
    row = FakeRow(
        {},
        {"output": blend(1, 0, 0)},
        {"a cat": blend(1, 1, 0), "oil": blend(0, 0, 1)},
        {"prompt": "a cat", "style_text": "oil"},
    )
    assert words.clip_text(row) == pytest.approx(0.5**0.5)
    assert words.clip_style(row) == words.clip_t_style(row) == pytest.approx(0)


class Rewarded(torch.nn.Linear):
    """Stands for ImageReward: keeps what it was shown, and what it was asked."""

    def forward(self, images: Tensor, texts: list[str]) -> Tensor:
        self.seen = images, texts
        return torch.tensor([-2.5])


@pytest.mark.parametrize(("pref", "asked"), [("content", "a cat"), ("content+style", "a cat, oil")])
def test_preference_is_asked_for_by_the_words_that_the_settings_say(pref: str, asked: str) -> None:
    network = Rewarded(1, 1)
    row = FakeRow(
        {"output": [flat(0.2, 0.4, 0.6)]},
        {"output": blend(1, 0, 0)},
        {asked: blend(1, 1, 0)},
        {"prompt": "a cat", "style_text": "oil"},
        networks={"pickscore": SimpleNamespace(temperature=90.0), "imagereward": network},
        pref=pref,
    )
    assert taste.pickscore(row) == pytest.approx(90 * 0.5**0.5)
    assert taste.hpsv2(row) == pytest.approx(100 * 0.5**0.5)
    assert taste.imagereward(row) == -2.5
    images, texts = network.seen
    assert texts == [asked]
    pixels = torch.tensor([51, 102, 153], dtype=torch.uint8).expand(24, 24, 3)
    assert torch.equal(images[0], PREPROCESS["clip224"].apply(pixels))


def test_a_mark_for_beauty_asks_no_words() -> None:
    row = FakeRow(
        {}, {"output": blend(0, 1, 0)}, networks={"aesthetic": lambda vectors: 5 * vectors[:, 1]}
    )
    assert taste.aesthetic(row) == pytest.approx(5)


def test_a_metric_that_reads_the_style_too_needs_its_column() -> None:
    both = {"pref_prompt": "content+style"}
    assert METRICS["hpsv2"].under(both).columns == ("prompt", "style_text")
    assert METRICS["hpsv2"].under({"pref_prompt": "content"}) is METRICS["hpsv2"]
    assert METRICS["clip_text"].under(both) is METRICS["clip_text"]


def test_region_scores_compare_what_they_say() -> None:
    output, content = flat(0, 0, 0), flat(0, 0, 0)
    output[:, 0], content[:, 1] = 1, 1
    row = FakeRow(
        {"output": [output], "content": [content]},
        texts={"red style": blend(1, 0, 0), "blue style": blend(0, 0, 1)},
        columns={"style_text": "red", "negative_style": "blue"},
        region=middle(),
    )
    # The output is red, the content green.
    assert regions.rsm(row) == pytest.approx((1 + 1) / 2, abs=1e-4)
    assert regions.rsm_contrast(row) == pytest.approx(0.5, abs=1e-4)
    assert regions.rsm_gain(row) == pytest.approx(0.5, abs=1e-4)


def test_leaks_are_positive_where_style_arrived_outside() -> None:
    content, style = flat(0.2, 0.2, 0.2), flat(0.9, 0.1, 0.1)
    leaked = torch.lerp(content, style, 0.5)
    row = FakeRow(
        {"output": [leaked], "content": [content], "style": [style]},
        {"output": blend(1, 1, 0), "content": blend(1, 2, 0), "style": blend(1, 0, 0)},
        {"a horse": blend(1, 0, 0)},
        {"style_content": "a horse"},
        region=middle(),
    )
    assert leaks.palette_leak(row) > 1
    assert leaks.region_leak(row) > 0.1
    assert leaks.style_content_leak(row) == pytest.approx(0.5**0.5 - 0.2**0.5)
    assert leaks.prompt_leak(row) == pytest.approx(0.5**0.5 - 0.2**0.5)
    row.images["output"] = [content]
    row.vectors["output"] = row.vectors["content"]
    assert leaks.palette_leak(row) == 0
    assert leaks.region_leak(row) == pytest.approx(0, abs=1e-6)
    assert leaks.style_content_leak(row) == 0
    assert leaks.prompt_leak(row) == 0


def test_what_lies_in_the_region_leaks_nowhere() -> None:
    content, style, mask = noise(1), flat(0.9, 0.1, 0.1), middle()
    output = torch.where(mask.bool(), style, content)
    row = FakeRow(
        {"output": [output], "content": [content], "style": [style]},
        {"style": blend(1, 0, 0)},
        region=mask,
    )
    assert leaks.palette_leak(row) == 0
    assert leaks.region_leak(row) == pytest.approx(0, abs=1e-6)


class Differences:
    """A distance whose value anyone can compute."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean(dim=(1, 2, 3))


def test_pocket_lpips_bg_is_per_share_of_background() -> None:
    content, mask = flat(0, 0, 0), middle()
    output = torch.full_like(content, 0.5)
    row = FakeRow(
        {"output": [output], "content": [content]},
        region=mask,
        networks={"pocket-lpips": Differences()},
    )
    # Half everywhere outside: the share of the region does not make it less.
    assert regions.pocket_lpips_bg(row) == pytest.approx(0.5)


def test_targets_are_compared_like_contents() -> None:
    row = FakeRow({"output": [noise(1)], "content": [noise(2)], "target": [noise(2)]})
    assert targets.t_ssim(row) == content.ssim(row)
    assert targets.t_edge(row) == content.edge_correlation(row)
    assert targets.t_palette(row) == pytest.approx(float(palette.color_sw(noise(1), noise(2))))


def test_a_score_touches_only_the_columns_it_declares() -> None:
    """Without the other pictures a fake row would raise."""
    everything = {
        "output": [noise(1)], "content": [noise(2)], "style": [noise(3)], "target": [noise(4)],
    }  # fmt: skip
    for metric in METRICS.values():
        if metric.compute is None or metric.uses:
            continue
        kept = {"output", *metric.columns}
        row = FakeRow({k: v for k, v in everything.items() if k in kept}, region=middle())
        value = metric.compute(row)
        assert metric.low <= value <= metric.high, metric.name
