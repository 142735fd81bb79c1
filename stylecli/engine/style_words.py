"""A prompt found from a style picture by the backbone's own CLIP, once; then from the cache."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

from stylecli.artifacts import cache, files, images, store
from stylecli.engine.mask_backends import network_files
from stylecli.engine.plan import Input
from stylecli.engine.scoring.networks import Networks
from stylecli.engine.session import Session
from stylecli.errors import UsageError
from stylecli.evaluation.networks import NETWORKS
from stylecli.evaluation.pixels import PREPROCESS
from stylecli.methods import hard_prompt
from stylecli.methods.hard_prompt import HardPrompt, Language

# For folders of somebody's own: width of the prompt embeddings -> the CLIP they come from.
BY_WIDTH = {768: "clip-l14", 1024: "clip-h14"}
POCKET = "pocket-clip"
# Raised when a change of ours finds other words for the same pictures.
VERSION = 1


class StyleWords:
    """What finds the words of one style picture after another."""

    def __init__(self, session: Session, *, allow_download: bool) -> None:
        self._session = session
        self._allow_download = allow_download
        self._networks: Networks | None = None
        self._language: Language | None = None
        self._found: dict[str, HardPrompt] = {}

    def find(self, picture: Input) -> HardPrompt:
        """The words nearest to a picture; told of when they are first asked for.

        Raises:
            UsageError: This backbone's CLIP is not known.
            WeightsError: Its weights are not on this machine.
        """
        if picture.sha256 not in self._found:
            found = self._found[picture.sha256] = self._from_cache(picture)
            self._session.context.reporter.note(
                f"{picture.path.name} in words: {found.text} (cosine {found.score:.3f})"
            )
        return self._found[picture.sha256]

    def _from_cache(self, picture: Input) -> HardPrompt:
        name, settings = self._clip(), self._session.recipe.words
        networks = self._loaded(name)
        seed = self._session.recipe.sampling.seed
        device = self._session.context.device.type
        key = store.digest(
            [VERSION, picture.sha256, networks.identity(name), settings.model_dump(), seed, device]
        )
        path = cache.cached("words", key, ".json")
        if path.exists():
            try:
                return HardPrompt(**json.loads(path.read_bytes()))
            except (ValueError, TypeError):
                path.unlink()
        self._session.context.reporter.note(f"looking for the words of {picture.path.name}")
        shown = PREPROCESS[NETWORKS[name].shown].apply(images.read(picture.path).pixels)
        found = hard_prompt.find(
            self._spoken(name),
            networks.embed(name, shown[None]).to(networks.device),
            length=settings.length,
            steps=settings.steps,
            lr=settings.lr,
            starts=settings.starts,
            template=settings.template,
            seed=seed,
        )
        data = files.to_json(asdict(found)).encode()
        warn = self._session.context.reporter.warn
        cache.keep(path, partial(files.write_atomic, path, data), warn)
        return found

    def _clip(self) -> str:
        source = self._session.source
        if source.clip is not None:
            return source.clip
        width = int(self._session.backbone.unet.config.get("cross_attention_dim", 0))
        if width not in BY_WIDTH:
            raise UsageError(
                f"no CLIP is known that reads words as {source.name} does",
                fix="give --prompt yourself",
            )
        return BY_WIDTH[width]

    def _loaded(self, name: str) -> Networks:
        if self._networks is None:
            found = {} if name == POCKET else network_files(name, self._allow_download)
            self._networks = Networks(found, self._session.context.device)
        return self._networks

    def _spoken(self, name: str) -> Language:
        if self._language is None:
            clip = self._loaded(name).get(name)
            self._language = (
                Language.of_pocket(clip)
                if name == POCKET
                else Language.of_open_clip(clip.model, clip.tokenizer)
            )
        return self._language
