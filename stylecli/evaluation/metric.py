"""What a metric is, and what it may ask of the output it scores.

``kind`` *row* gives a number for every output, *pool* one for every output that depends on all
others of its method, *set* one for all outputs of a method, *overall* one for a method beside the
others. What a row needs is named, not loaded: columns of the manifest, networks (dense, run per
pair of pictures) and extractors (one vector per picture, kept in a cache).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.evaluation.networks import NETWORKS

Better = Literal["higher", "lower"]
Distance = Literal["frechet", "frechet limit", "kid", "cmmd", "cmmd unbiased"]
PAIR = ("pair_size", "aspect")
MASKED = (*PAIR, "mask_polarity")
# Of the recipe section `evaluate`, those that change a number.
SETTINGS = (*MASKED, "rsm_fit", "rsm_template", "pref_prompt", "vlm_questions")


class NoValueError(Exception):
    """A row about which a metric has nothing to say, and why; the row did not fail."""


class Row(Protocol):
    """One output and what it is compared with; a metric touches only what it declared.

    Roles are ``output``, ``content``, ``style`` (of which there may be several) and ``target``.
    """

    def picture(self, role: str) -> Float[Tensor, "1 3 h w"]:
        """In [0, 1]; content and target at the output's size."""

    def pictures(self, role: str) -> Sequence[Float[Tensor, "1 3 _h _w"]]:
        """In [0, 1], each at its own size."""

    def pixels(self, role: str) -> UInt8[Tensor, "h w 3"]:
        """Bytes; content and target at the output's size."""

    def mask(self) -> Float[Tensor, "h w"]:
        """1 where the output was to be changed; at the output's size."""

    def words(self, column: str) -> str:
        """A text column of the manifest."""

    def embeddings(self, extractor: str, role: str) -> Float[Tensor, "k d"]:
        """One vector for every picture of a role."""

    def text(self, extractor: str, text: str) -> Float[Tensor, "1 d"]:
        """The unit vector of a text."""

    def crop_embedding(
        self, extractor: str, pixels: UInt8[Tensor, "h w 3"]
    ) -> Float[Tensor, "1 d"]:
        """The unit vector of a picture made on the way."""

    def taps(self, network: str, role: str) -> Sequence[Sequence[Float[Tensor, "1 _c _h _w"]]]:
        """For every picture of a role its features, layer by layer."""

    def network(self, name: str) -> Any:
        """A loaded network."""

    def setting(self, name: str) -> str:
        """A setting of the recipe section `evaluate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table.

    Attributes:
        version: Raised whenever the same pictures would give another number.
        columns: Of the manifest, beside `output`.
        uses: Networks and extractors, keys of `NETWORKS`.
        settings: Of the recipe section `evaluate` that change the number.
        scale: How the number is scaled, where authors differ.
        compute: For kind *row*; may raise `NoValueError`.
        reads: For those that read a text: which. It may touch words and settings, and no picture.
        fid: For *set* and *pool* metrics: the extractor whose features are compared.
        distance: For *set* metrics: of what kind.
        lpips: For ArtFID forms: the row metric of its content term.
        similar: The extractor whose cosines the number is made of: for these it can be said which
            families of references they tell apart.
        is_rate: Every row's number is 1 or 0, and theirs together a share.
        is_paired: For *set* metrics: a reference counts as often as outputs have it.
        also: Columns that it takes beside, under the settings of `evaluate`.
    """

    name: str
    better: Better
    definition: str
    kind: Literal["row", "pool", "set", "overall"] = "row"
    version: int = 1
    low: float = float("-inf")
    high: float = float("inf")
    columns: tuple[str, ...] = ("content",)
    uses: tuple[str, ...] = ()
    settings: tuple[str, ...] = PAIR
    scale: str = ""
    compute: Callable[[Row], float] | None = None
    reads: Callable[[Row], str] | None = None
    fid: str = ""
    distance: Distance = "frechet"
    lpips: str = ""
    similar: str = ""
    is_rate: bool = False
    is_paired: bool = False
    also: Callable[[Mapping[str, object]], tuple[str, ...]] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of weight files."""
        return tuple(dict.fromkeys(file for use in self.uses for file in NETWORKS[use].needs))

    @property
    def is_fitted(self) -> bool:
        """Whether it compares two Gaussians that features are fitted by."""
        return self.kind == "set" and self.distance == "frechet"

    def under(self, settings: Mapping[str, object]) -> Metric:
        """The same, as it is under these settings: its columns, and what it counts."""
        more = self.also(settings) if self.also else ()
        new = tuple(column for column in more if column not in self.columns)
        found = replace(self, columns=(*self.columns, *new)) if new else self
        if self.is_fitted and settings["fid_ref"] == "paired":
            definition = f"{self.definition}; styles as often as outputs have them"
            return replace(found, definition=definition, is_paired=True)
        return found


def of_content(name: str, better: Better, text: str, **rest: Any) -> Metric:
    return _metric(name, better, text, columns=("content",), **rest)


def of_style(name: str, better: Better, text: str, **rest: Any) -> Metric:
    return _metric(name, better, text, **{"columns": ("style",), "settings": (), **rest})


def of_region(name: str, better: Better, text: str, **rest: Any) -> Metric:
    return _metric(
        name, better, text, **{"columns": ("content", "mask"), "settings": MASKED, **rest}
    )


def of_target(name: str, better: Better, text: str, **rest: Any) -> Metric:
    return _metric(name, better, text, columns=("target",), **rest)


def _metric(name: str, better: Better, text: str, **rest: Any) -> Metric:
    return Metric(name=name, better=better, definition=text, **rest)
