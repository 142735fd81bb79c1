"""The metrics: what each is, what it needs, and which way is better. A new one is one row here.

``kind`` *row* gives a number for every output, *set* one for all outputs of a method. What a row
needs is named, not loaded: columns of the manifest, networks (dense, run per pair of pictures) and
extractors (one vector per picture, kept in a cache).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stylecli.errors import UsageError, did_you_mean
from stylecli.evaluation import scores
from stylecli.evaluation.scores import Row

# Networks and extractors -> the files of `weights.WEIGHTS` they are filled from; pocket's ship.
NEEDS: Mapping[str, tuple[str, ...]] = {
    "lpips-alex": ("alexnet",),
    "lpips-vgg": ("vgg16",),
    "vgg19": ("vgg19",),
    "inception": ("inception",),
    "art-inception": ("artfid",),
    "clip-b32": ("clip-b32",),
    "clip-l14": ("clip-l14",),
    "clip-h14": ("clip-h14",),
    "dinov2": ("dinov2-base",),
    "pocket-lpips": (),
    "pocket-embedding": (),
    "pocket-clip": (),
}
SETTINGS = ("pair_size", "aspect", "mask_polarity", "rsm_fit", "rsm_template")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table.

    Attributes:
        version: Raised whenever the same pictures would give another number.
        columns: Of the manifest, beside `output`.
        uses: Networks and extractors, keys of `NEEDS`.
        settings: Of the recipe section `evaluate` that change the number.
        scale: How the number is scaled, where authors differ.
        compute: For kind *row*.
        fid: For *set* metrics: the extractor whose features are compared.
        lpips: For ArtFID forms: the row metric of its content term.
    """

    name: str
    better: Literal["higher", "lower"]
    definition: str
    kind: Literal["row", "set"] = "row"
    version: int = 1
    low: float = float("-inf")
    high: float = float("inf")
    columns: tuple[str, ...] = ("content",)
    uses: tuple[str, ...] = ()
    settings: tuple[str, ...] = ("pair_size", "aspect")
    scale: str = ""
    compute: Callable[[Row], float] | None = None
    fid: str = ""
    lpips: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of weight files."""
        return tuple(dict.fromkeys(file for use in self.uses for file in NEEDS[use]))


def _content(name: str, better: Literal["higher", "lower"], text: str, **rest: object) -> Metric:
    return _metric(name, better, text, columns=("content",), **rest)


def _style(name: str, better: Literal["higher", "lower"], text: str, **rest: object) -> Metric:
    return _metric(name, better, text, **{"columns": ("style",), "settings": (), **rest})


def _region(name: str, better: Literal["higher", "lower"], text: str, **rest: object) -> Metric:
    settings = ("pair_size", "aspect", "mask_polarity")
    return _metric(
        name, better, text, **{"columns": ("content", "mask"), "settings": settings, **rest}
    )


def _target(name: str, better: Literal["higher", "lower"], text: str, **rest: object) -> Metric:
    return _metric(name, better, text, columns=("target",), **rest)


def _metric(name: str, better: Literal["higher", "lower"], text: str, **rest: object) -> Metric:
    return Metric(name=name, better=better, definition=text, **rest)  # type: ignore[arg-type]


_RSM = ("pair_size", "aspect", "mask_polarity", "rsm_fit", "rsm_template")
_ROWS = (
    # How much of the content is left.
    _content("lpips", "lower", "LPIPS v0.1, AlexNet, to the content", low=0, uses=("lpips-alex",),
             compute=scores.lpips),
    _content("lpips_vgg", "lower", "LPIPS v0.1, VGG16, to the content", low=0, uses=("lpips-vgg",),
             compute=scores.lpips_vgg),
    _content("lpips_gray", "lower", "LPIPS of the luma planes: layout without colour", low=0,
             uses=("lpips-alex",), compute=scores.lpips_gray),
    _content("lpips_spatial", "lower", "mean of the LPIPS map at full size", low=0,
             uses=("lpips-alex",), compute=scores.lpips_spatial),
    _content("ssim", "higher", "structural similarity of luma, Gaussian window of 11", low=-1,
             high=1, compute=scores.ssim),
    _content("psnr", "higher", "peak signal to noise in dB", compute=scores.psnr),
    _content("mse", "lower", "mean squared error", low=0, high=1, scale="[0, 1]",
             compute=scores.mse),
    _content("edge_correlation", "higher", "Pearson correlation of Sobel magnitudes", low=-1,
             high=1, compute=scores.edge_correlation),
    _content("delta_e", "lower", "mean CIE76 colour difference to the content", low=0,
             compute=scores.delta_e),
    _content("pocket-lpips", "lower", "pocket's perceptual distance to the content", low=0,
             uses=("pocket-lpips",), compute=scores.pocket_lpips),
    # How much of the style has arrived.
    _style("gram", "lower", "Gram matrices of VGG19 relu1_1..5_1, mean squared difference", low=0,
           uses=("vgg19",), scale="F F^T / (h w), ImageNet-normalised input", compute=scores.gram),
    _style("gram_rel", "lower", "the same per layer, relative to both norms", low=0,
           uses=("vgg19",), compute=scores.gram_rel),
    _style("style_match", "higher", "one-to-one matching (Hungarian) of 256 VGG19 blocks", low=-1,
           high=1, uses=("vgg19",), compute=scores.style_match),
    _style("style_match_nn", "higher", "the same, each block with its nearest", low=-1, high=1,
           uses=("vgg19",), compute=scores.style_match_nn),
    _style("color_hist", "lower", "Hellinger distance of RGB-uv histograms", low=0, high=1,
           settings=("pair_size", "aspect"), compute=scores.color_hist),
    _style("color_sw", "lower", "sliced Wasserstein distance in CIELAB, 64 directions", low=0,
           settings=("pair_size", "aspect"), compute=scores.color_sw),
    _style("clip_i_style", "higher", "CLIP ViT-L/14 image cosine to the style", low=-1, high=1,
           uses=("clip-l14",), compute=scores.clip_i_style),
    _style("pocket-gram", "lower", "relative Gram distance on pocket-lpips features", low=0,
           uses=("pocket-lpips",), compute=scores.pocket_gram),
    _style("pocket-clip-style", "higher", "pocket-clip image cosine to the style", low=-1, high=1,
           uses=("pocket-clip",), compute=scores.pocket_clip_style),
    # What the words say.
    _style("clip_text", "higher", "CLIP ViT-L/14 cosine to the prompt", low=-1, high=1,
           columns=("prompt",), uses=("clip-l14",), compute=scores.clip_text),
    _style("clip_t_style", "higher", "CLIP ViT-L/14 cosine to the words for the style", low=-1,
           high=1, columns=("style_text",), uses=("clip-l14",), compute=scores.clip_t_style),
    _style("pocket-clip-text", "higher", "pocket-clip cosine to the prompt", low=-1, high=1,
           columns=("prompt",), uses=("pocket-clip",), compute=scores.pocket_clip_text),
    # Regions (RegionRoute).
    _region("rsm", "higher", "CLIP ViT-B/32 cosine of the region's crop to the style words, halved "
            "and raised by 1/2", low=0, high=1, columns=("mask", "style_text"), settings=_RSM,
            uses=("clip-b32",), compute=scores.rsm),
    _region("rsm_contrast", "higher", "rsm minus rsm of the negative style", low=-1, high=1,
            columns=("mask", "style_text", "negative_style"), settings=_RSM, uses=("clip-b32",),
            compute=scores.rsm_contrast),
    _region("rsm_gain", "higher", "rsm minus rsm of the content", low=-1, high=1,
            columns=("content", "mask", "style_text"), settings=_RSM, uses=("clip-b32",),
            compute=scores.rsm_gain),
    _region("pocket-rsm", "higher", "rsm by pocket-clip", low=0, high=1,
            columns=("mask", "style_text"), settings=_RSM, uses=("pocket-clip",),
            compute=scores.pocket_rsm),
    _region("lpips_bg", "lower", "LPIPS map averaged over the background", low=0,
            uses=("lpips-alex",), compute=scores.lpips_bg),
    _region("lpips_bg_strict", "lower", "the same with the content pasted into the region first",
            low=0, uses=("lpips-alex",), compute=scores.lpips_bg_strict),
    _region("lpips_bg_band", "lower", "the same without 16 px around the region", low=0,
            uses=("lpips-alex",), compute=scores.lpips_bg_band),
    _region("pocket-lpips-bg", "lower", "pocket-lpips with the content pasted into the region, per "
            "share of background", low=0, uses=("pocket-lpips",),
            compute=scores.pocket_lpips_bg),
    _region("mse_bg", "lower", "squared error, mean over background pixels and channels", low=0,
            high=1, scale="[0, 1]", compute=scores.mse_bg),
    _region("mse_bg_pm1", "lower", "mse_bg for values in [-1, 1]", low=0, high=4, scale="[-1, 1]",
            compute=scores.mse_bg_pm1),
    _region("mse_bg_sum", "lower", "mse_bg summed over channels", low=0, high=3,
            scale="[0, 1], channels summed", compute=scores.mse_bg_sum),
    _region("psnr_bg", "higher", "PSNR of the background in dB", compute=scores.psnr_bg),
    _region("bg_shift", "lower", "how far the background moved, in pixels (phase correlation)",
            low=0, compute=scores.bg_shift),
    # What of the style should not have arrived.
    _style("style_content_leak", "lower", "how much nearer than the content the output is to what "
           "the style depicts (DINOv2)", low=0, high=2, columns=("content", "style"),
           uses=("dinov2",), compute=scores.style_content_leak),
    _style("prompt_leak", "lower", "CLIP cosine to the words for the style's subject, output minus "
           "content", low=-2, high=2, columns=("content", "style_content"), uses=("clip-l14",),
           compute=scores.prompt_leak),
    _region("palette_leak", "lower", "how much nearer to the style's colours the background came "
            "(color_sw)", columns=("content", "style", "mask"), compute=scores.palette_leak),
    _region("region_leak", "lower", "CLIP ViT-B/32 cosine of the background to the style, output "
            "minus content, region filled with its mean colour", low=-2, high=2,
            columns=("content", "style", "mask"), uses=("clip-b32",), compute=scores.region_leak),
    _style("pocket-leak", "lower", "style_content_leak by pocket-clip", low=0, high=2,
           columns=("content", "style"), uses=("pocket-clip",), compute=scores.pocket_leak),
    # How far from the true picture, where there is one.
    _target("t_lpips", "lower", "LPIPS, AlexNet, to the target", low=0, uses=("lpips-alex",),
            compute=scores.t_lpips),
    _target("t_lpips_vgg", "lower", "LPIPS, VGG16, to the target", low=0, uses=("lpips-vgg",),
            compute=scores.t_lpips_vgg),
    _target("t_ssim", "higher", "structural similarity to the target", low=-1, high=1,
            compute=scores.t_ssim),
    _target("t_edge", "higher", "correlation of edges with the target's", low=-1, high=1,
            compute=scores.t_edge),
    _target("t_palette", "lower", "color_sw to the target", low=0, compute=scores.t_palette),
    _target("t-pocket-lpips", "lower", "pocket-lpips to the target", low=0, uses=("pocket-lpips",),
            compute=scores.t_pocket_lpips),
)  # fmt: skip


METRICS_OF_ROWS: Mapping[str, Metric] = {metric.name: metric for metric in _ROWS}


def _set(name: str, text: str, fid: str, *, lpips: str = "", low: float = 0) -> Metric:
    columns = ("content", "style") if lpips else ("style",)
    return Metric(
        name=name,
        better="lower",
        definition=text,
        kind="set",
        low=low,
        columns=columns,
        uses=(fid, *(METRICS_OF_ROWS[lpips].uses if lpips else ())),
        settings=(),
        scale="x 1000" if name.endswith("kid") else "",
        fid=fid,
        lpips=lpips,
    )


_MINUS = float("-inf")
_SETS = (
    _set("fid", "Fréchet distance of Inception features, outputs to styles", "inception"),
    _set("fid_inf", "fid in the limit of many outputs, from 8000", "inception", low=_MINUS),
    _set("kid", "unbiased polynomial-kernel distance of the same", "inception", low=_MINUS),
    _set("fid_art", "Fréchet distance of art-Inception features", "art-inception"),
    _set("artfid", "(1 + mean lpips) (1 + fid_art)", "art-inception", lpips="lpips", low=1),
    _set("pocket-fid", "Fréchet distance of pocket-lpips embeddings", "pocket-embedding"),
    _set("pocket-kid", "kid of the same", "pocket-embedding", low=_MINUS),
    _set("pocket-artfid", "(1 + mean pocket-lpips) (1 + pocket-fid)", "pocket-embedding",
         lpips="pocket-lpips", low=1),
)  # fmt: skip

METRICS: Mapping[str, Metric] = {**METRICS_OF_ROWS, **{metric.name: metric for metric in _SETS}}

_FREE = ("ssim", "psnr", "edge_correlation", "delta_e", "color_hist", "color_sw")
_POCKET = (
    "pocket-lpips",
    "pocket-gram",
    "pocket-clip-style",
    "pocket-clip-text",
    "pocket-fid",
    "pocket-kid",
    "pocket-artfid",
)
PRESETS: Mapping[str, tuple[str, ...]] = {
    "core": ("lpips", *_FREE, "fid", "kid", "clip_i_style", *_POCKET),
    "pocket": (*_FREE, *_POCKET),
    "diffstyler": ("artfid", "fid_art", "fid", "kid", "lpips", "clip_i_style", "clip_t_style"),
    "stylegallery": ("style_match", "gram", "gram_rel", "fid_art", "fid", "kid", "lpips", "artfid"),
    "regionroute": (
        *("rsm", "rsm_contrast", "rsm_gain", "lpips_bg", "lpips_bg_strict", "lpips_bg_band"),
        *("mse_bg", "mse_bg_pm1", "mse_bg_sum", "psnr_bg", "bg_shift"),
        *("pocket-rsm", "pocket-lpips-bg"),
    ),
    "leakage": ("style_content_leak", "prompt_leak", "palette_leak", "region_leak", "pocket-leak"),
    "paired": tuple(name for name in METRICS if name.startswith(("t_", "t-"))),
    "all": tuple(METRICS),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Metrics to compute, in order; those asked for by name must be computable."""

    metrics: tuple[Metric, ...]
    named: frozenset[str] = field(default_factory=frozenset)


def choose(preset: str, words: Sequence[str] = ()) -> Chosen:
    """A preset with metrics added (``name``) or left out (``-name``); names alone replace it.

    Raises:
        UsageError: An unknown name.

    >>> [metric.name for metric in choose("core", ["ssim", "fid"]).metrics]
    ['ssim', 'fid']
    >>> "lpips" in [metric.name for metric in choose("core", ["-lpips"]).metrics]
    False
    """
    for word in words:
        lookup(word.lstrip("+-"))
    plain = [word for word in words if word[0] not in "+-"]
    dropped = {word[1:] for word in words if word[0] == "-"}
    added = [word[1:] for word in words if word[0] == "+"]
    names = dict.fromkeys([*(plain or PRESETS[preset]), *added])
    kept = tuple(METRICS[name] for name in names if name not in dropped)
    if not kept:
        raise UsageError("no metric is left", fix="`style evaluate --metrics list` shows them")
    return Chosen(kept, frozenset([*plain, *added]) - dropped)


def lookup(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UsageError: There is none; the nearest is suggested.
    """
    if name in METRICS:
        return METRICS[name]
    hint = did_you_mean(name, METRICS)
    raise UsageError(
        f"no metric is called {name!r}", fix=f"{hint}`style evaluate --metrics list` shows them"
    )
