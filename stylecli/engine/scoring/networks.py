"""Networks and extractors by name, loaded when first used and never without their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylecli.artifacts.store import digest
from stylecli.backbone.registry import ASSETS
from stylecli.errors import WeightsError
from stylecli.evaluation import published, weights
from stylecli.evaluation.metric import Metric
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.perceptual import load_pocket_clip, load_pocket_lpips

POCKET = ASSETS / "pocket"


@dataclass(frozen=True, slots=True)
class Found:
    """Weight files that are on this machine, and what is said of those that are not.

    Attributes:
        files: Name of a weight file -> where it is.
        missing: Name of a weight file -> why it cannot be used.
        unusable: Those of them that are there, and are not what they are named for.
    """

    files: Mapping[str, Path]
    missing: Mapping[str, WeightsError]
    unusable: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        metrics: Sequence[Metric],
        folder: Path | None,
        pull: Callable[[published.Weights], Path] | None = None,
    ) -> Found:
        """Look for everything the metrics need, loading nothing.

        Args:
            metrics: What is to be computed.
            folder: ``--weights-dir``.
            pull: Fetches a missing file, where that was allowed.
        """
        files: dict[str, Path] = {}
        missing: dict[str, WeightsError] = {}
        for name in dict.fromkeys(need for metric in metrics for need in metric.needs):
            wanted = published.WEIGHTS[name]
            try:
                try:
                    files[name] = weights.find(wanted, folder)
                except WeightsError:
                    if pull is None:
                        raise
                    files[name] = pull(wanted)
                weights.check(wanted, files[name])
            except WeightsError as error:
                missing[name] = error
        unusable = frozenset(files.keys() & missing.keys())
        return cls({n: f for n, f in files.items() if n not in unusable}, missing, unusable)


class Networks:
    """Loaded networks; each is loaded once and stays on its device."""

    def __init__(self, files: Mapping[str, Path], device: torch.device) -> None:
        self._files = files
        # Sums of squares are taken in float64, which MPS does not have.
        self.device = torch.device("cpu") if device.type == "mps" else device
        if self.device.type == "cuda":
            # A score is worth more digits than the ten bits of TF32.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        self._loaded: dict[str, Any] = {}
        self._identities: dict[str, str] = {}

    def get(self, name: str) -> Any:
        """A network, in evaluation mode.

        Raises:
            WeightsError: Its file is damaged, or of another network.
        """
        if name not in self._loaded:
            network = self._load(name)
            module = getattr(network, "model", network)
            module.to(self.device)
            self._loaded[name] = network
        return self._loaded[name]

    @torch.no_grad()
    def embed(self, name: str, batch: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Vectors of preprocessed pictures, on the CPU."""
        network, pictures = self.get(name), batch.to(self.device)
        if name == "pocket-embedding":
            found = network.embedding(pictures)
        elif hasattr(network, "image_features"):
            found = network.image_features(pictures)
        else:
            found = network(pictures)
            if name == "dinov2":
                found = torch.nn.functional.normalize(found, dim=1)
        vectors: Tensor = found.float().cpu()
        return vectors

    @torch.no_grad()
    def text(self, name: str, text: str) -> Float[Tensor, "1 d"]:
        """The unit vector of a text."""
        vector: Tensor = self.get(name).text_features([text])
        return vector.float().cpu()

    def truncated(self, name: str, texts: Sequence[str]) -> int:
        """How many texts a network does not read to their end; it is not loaded for that."""
        network = NETWORKS[name]
        assert network.truncated is not None  # noqa: S101  asked only of those that read
        return network.truncated([self._files[need] for need in network.needs], texts)

    def identity(self, name: str) -> str:
        """Digest of the weights behind a name; part of every key in the cache."""
        # Asked for by every metric of every row, and the same throughout.
        if name not in self._identities:
            self._identities[name] = self._identify(name)
        return self._identities[name]

    def _identify(self, name: str) -> str:
        own = {"pocket-lpips": "lpips", "pocket-embedding": "lpips", "pocket-clip": "clip"}
        if name in own:
            # Its tokenizer and its shape decide as much as its weights.
            files = sorted(file for file in (POCKET / own[name]).iterdir() if file.is_file())
            return digest([weights.fingerprint(file) for file in files])
        parts = [
            weights.check(published.WEIGHTS[need], self._files[need])
            for need in NETWORKS[name].needs
        ]
        if name.startswith("lpips-"):
            parts.append(f"heads of lpips {version('lpips')}")
        return "+".join(parts)

    def _load(self, name: str) -> Any:
        if name in ("pocket-lpips", "pocket-embedding"):
            return load_pocket_lpips(POCKET / "lpips")
        if name == "pocket-clip":
            return load_pocket_clip(POCKET / "clip")
        network = NETWORKS[name]
        files = [self._files[need] for need in network.needs]
        if network.open is not None:
            return network.open(files)
        assert network.load is not None  # noqa: S101  pocket's were dealt with
        tables = [
            _table(published.WEIGHTS[need], path)
            for need, path in zip(network.needs, files, strict=True)
        ]
        return network.load(tables, str(files[0]))


def _table(wanted: published.Weights, path: Path) -> Mapping[str, Any]:
    if path.suffix == weights.VOCABULARY:
        weights.check(wanted, path)
        return weights.read_vocabulary(path)
    return weights.read(wanted, path)
