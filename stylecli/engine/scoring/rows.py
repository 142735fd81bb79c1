"""The numbers of one output: computed once, and found again by what they were computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stylecli.artifacts.features import FeatureStore, Vector
from stylecli.artifacts.store import digest
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.scoring.pictures import Case, Recent, Shot
from stylecli.engine.scoring.texts import Texts
from stylecli.engine.scoring.view import RowView
from stylecli.errors import ItemError
from stylecli.evaluation.metric import Metric, NoValueError
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.recipe.scoring import Evaluate

# VGG19's five taps of a 512 px picture are 160 MB.
KEPT_TAP_BYTES = 2**29
KEPT_TEXT_BYTES = 2**22
# Batches of cases looked at together: of four cases three may be copies whose vectors are known.
AHEAD = 4
# Pictures and extractors whose keys are remembered: a content comes once for every style.
REMEMBERED_KEYS = 2**14
# How far rounding may carry a score over the end of its range.
TOLERANCE = 1e-4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scored:
    """A case's numbers, and why some of them are not there.

    Attributes:
        reasons: Metric -> why it has no value.
        error: The first of the faults that make this a failed item.
    """

    case: Case
    values: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    error: ItemError | None = None


class Bench:
    """What all rows share: settings, metrics, networks and the store."""

    def __init__(
        self,
        settings: Evaluate,
        metrics: Sequence[Metric],
        networks: Networks,
        store: FeatureStore,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.networks = networks
        self.store = store
        self.recent_taps: Recent[list[Tensor]] = Recent(
            KEPT_TAP_BYTES, lambda taps: sum(tap.nbytes for tap in taps)
        )
        self._texts: Recent[Tensor] = Recent(KEPT_TEXT_BYTES, lambda vector: vector.nbytes)
        self._unusable: dict[str, ItemError] = {}
        self.read = Texts(networks.truncated)
        # What the store said of the block in hand, asked all at once.
        self._known: dict[str, Vector] = {}
        self._feature_keys: dict[tuple[str, str], str] = {}

    def score_all(self, cases: Iterable[Case]) -> Iterator[Scored]:
        """Every case, in order; pictures go through the embedding networks in full batches."""
        for block in batched(cases, AHEAD * self.settings.batch):
            keys = [self._keys(case) for case in block]
            self._known = self.store.get_many(key for own in keys for key in own.values())
            for extractor, roles in self._roles().items():
                self._fill(extractor, [s for case in block for r in roles for s in case.shots(r)])
            for case, own in zip(block, keys, strict=True):
                yield self._score(case, own)

    def _keys(self, case: Case) -> dict[str, str]:
        """Metric -> where the store keeps its number, of those that this case has columns for."""
        return {
            metric.name: self._key(metric, case)
            for metric in self.metrics
            if metric.compute is not None and all(map(case.item.has, metric.columns))
        }

    def _score(self, case: Case, keys: Mapping[str, str]) -> Scored:
        """Whole, or not at all: its numbers reach the store together."""
        view = RowView(self, case)
        values: dict[str, float] = {}
        new: dict[str, float] = {}
        reasons: dict[str, str] = {}
        errors: list[ItemError] = []
        for metric in self.metrics:
            lacking = [column for column in metric.columns if not case.item.has(column)]
            if lacking:
                reasons[metric.name] = f"the item has no {lacking[0]}"
                continue
            try:
                if metric.reads is not None:
                    self.read.look(metric, metric.reads(view))
                if metric.compute is None:
                    self._require(metric.fid, (case.output, *case.styles))
                elif (known := self._known.get(keys[metric.name])) is not None:
                    values[metric.name] = float(known[0])
                else:
                    new[keys[metric.name]] = values[metric.name] = self._value(metric, view)
            except NoValueError as nothing:
                reasons[metric.name] = str(nothing)
            except ItemError as error:
                # Too small for one network is not too small for the others.
                reasons[metric.name] = error.what
                errors.append(error)
            except (RuntimeError, ValueError, ArithmeticError, IndexError, MemoryError) as error:
                # Nor is a fault of ours, or a full memory, in one of them.
                said = f"{metric.name}: unexpected {type(error).__name__}: {error}"
                reasons[metric.name] = said.partition("\n")[0]
                errors.append(
                    ItemError(reasons[metric.name], fix="look at the picture, or report it")
                )
        if new:
            kept = {key: np.array([value], dtype=np.float32) for key, value in new.items()}
            self._known |= kept
            self.store.hold(kept)
        return Scored(case, values, reasons, errors[0] if errors else None)

    @staticmethod
    def _value(metric: Metric, view: RowView) -> float:
        assert metric.compute is not None  # noqa: S101  only row metrics come here
        with torch.no_grad():
            value = metric.compute(view)
        if not metric.low - TOLERANCE <= value <= metric.high + TOLERANCE:
            raise ItemError(
                f"{metric.name} is {value}, outside {metric.low} to {metric.high}",
                fix="look at the pictures",
            )
        # As the store will give it back next time: a float32.
        return float(torch.tensor(value, dtype=torch.float32))

    def _roles(self) -> dict[str, list[str]]:
        """Extractor -> whose vectors the metrics will ask for."""
        found: dict[str, list[str]] = {}
        for metric in self.metrics:
            for use in metric.uses:
                if NETWORKS[use].shown:
                    roles = ["output", *(c for c in metric.columns if c in ("content", "style"))]
                    found[use] = list(dict.fromkeys([*found.get(use, ()), *roles]))
        return found

    def _key(self, metric: Metric, case: Case) -> str:
        """Digest of all that decides a number."""
        of = {
            column: getattr(case.item, column)
            if isinstance(getattr(case.item, column), str)
            else [shot.key for shot in case.shots(column)]
            for column in metric.columns
        }
        return digest(
            {
                "metric": metric.name,
                "version": metric.version,
                "output": case.output.key,
                "of": of,
                "settings": {name: getattr(self.settings, name) for name in metric.settings},
                "weights": [self.networks.identity(use) for use in metric.uses],
                "device": self.networks.device.type,
            }
        )

    def feature_key(self, extractor: str, shot: Shot) -> str:
        """Where the store keeps a picture's vector."""
        known = self._feature_keys.get((extractor, shot.key))
        if known is not None:
            return known
        key = digest(
            {
                "extractor": extractor,
                "weights": self.networks.identity(extractor),
                "preprocessing": NETWORKS[extractor].shown,
                "picture": shot.key,
                "device": self.networks.device.type,
                "batch": self.settings.batch,
            }
        )
        if len(self._feature_keys) >= REMEMBERED_KEYS:
            self._feature_keys.clear()
        self._feature_keys[extractor, shot.key] = key
        return key

    def embed(self, extractor: str, shots: Sequence[Shot]) -> Float[Tensor, "k d"]:
        """Vectors of pictures, through the store.

        Raises:
            ItemError: One cannot be read.
        """
        keys = self._require(extractor, shots)
        return torch.stack([torch.from_numpy(self._known[key]) for key in keys])

    def _require(self, extractor: str, shots: Sequence[Shot]) -> list[str]:
        """The keys of pictures' vectors, all of which are known then.

        Raises:
            ItemError: One cannot be read.
        """
        keys = [self.feature_key(extractor, shot) for shot in shots]
        if any(key not in self._known for key in keys):
            self._fill(extractor, shots)
        for key in keys:
            if key not in self._known:
                raise self._unusable[key]
        return keys

    def embed_now(self, extractor: str, pixels: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "1 d"]:
        """The vector of a picture that nobody will ask for again."""
        prepared = PREPROCESS[NETWORKS[extractor].shown].apply(pixels)
        return self.networks.embed(extractor, prepared[None])

    def _fill(self, extractor: str, shots: Sequence[Shot]) -> None:
        """Compute what the store lacks.

        Every forward pass has the recipe's batch, its last one filled up by repetition, so that a
        vector does not depend on how many others were missing.
        """
        by_key = {self.feature_key(extractor, shot): shot for shot in shots}
        self._known |= self.store.get_many(key for key in by_key if key not in self._known)
        missing = [k for k in by_key if k not in self._known and k not in self._unusable]
        size = 1 if NETWORKS[extractor].any_size else self.settings.batch
        prepare = PREPROCESS[NETWORKS[extractor].shown].apply
        for keys in batched(missing, size):
            inputs = {}
            for key in keys:
                try:
                    inputs[key] = prepare(by_key[key].load())
                except ItemError as error:
                    self._unusable[key] = error
            if inputs:
                stacked = [*inputs.values()]
                stacked += [stacked[-1]] * (size - len(stacked))
                vectors = self.networks.embed(extractor, torch.stack(stacked))
                made: dict[str, Vector] = dict(zip(inputs, vectors.numpy(), strict=False))
                self._known |= made
                self.store.hold(made)

    def text(self, extractor: str, text: str) -> Float[Tensor, "1 d"]:
        """A text's unit vector; methods are asked with the same few texts over and over."""
        make = partial(self.networks.text, extractor, text)
        return self._texts.get((extractor, text), make)


def batched(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """The things in order, so many at a time.

    >>> list(batched("abc", 2))
    [['a', 'b'], ['c']]
    """
    iterator = iter(things)
    while block := list(islice(iterator, size)):
        yield block
