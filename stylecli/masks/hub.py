"""Published networks of transformers: found on this machine, loaded whole, let go together.

A name is a folder, a place below ``$STYLE_WEIGHTS_DIR``, or a hub id that is looked up in the hub's
cache. The hub itself is asked only where downloads were allowed. Everything runs in float32: the
finders are small beside a diffusion model, and a box that is off by a cell costs the whole region.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from stylecli.errors import WeightsError
from stylecli.masks.base import Setup

FETCH = "`style masks CONTENT -o DIR --allow-download`, with the words wanted,"


class Loaded(NamedTuple):
    """A frozen network on its device, and what prepares its inputs, if that was asked for."""

    model: Any
    processor: Any


class Networks:
    """The networks of one backend; each is loaded when first asked for."""

    def __init__(self, setup: Setup, *, fetch: str = FETCH) -> None:
        """Nothing is loaded yet.

        Args:
            fetch: The command that downloads what is missing, for messages.
        """
        self.setup = setup
        self._fetch = fetch
        self._loaded: dict[str, Loaded] = {}

    def get(self, name: str, model: type[Any], processor: type[Any] | None = None) -> Loaded:
        """A network by hub id or folder.

        Args:
            name: Which.
            model: Its class.
            processor: None where the caller prepares its inputs.

        Raises:
            WeightsError: It is not on this machine, or not all of it is in its file.
        """
        if name not in self._loaded:
            self._loaded[name] = self._load(name, model, processor)
        return self._loaded[name]

    def close(self) -> None:
        """Let go of all of them, so that a diffusion model has the memory."""
        self._loaded.clear()

    def _load(self, name: str, model: type[Any], processor: type[Any] | None) -> Loaded:
        from transformers.utils import logging

        logging.disable_progress_bar()
        place = _place(name)
        offline = {"local_files_only": not self.setup.allow_download}
        try:
            network, told = model.from_pretrained(
                place,
                use_safetensors=True,  # a pickle can run code
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # but told of, and refused below by name
                **offline,
            )
            prepared = processor.from_pretrained(place, **offline) if processor else None
        except Exception as error:  # the libraries raise many kinds for what is missing or damaged
            raise _missing(name, place, error, self._fetch, self.setup.allow_download) from error
        # What a file has beyond this network is of no concern: SAM's checkpoints hold their video
        # tracker too.
        mismatched = [key if isinstance(key, str) else key[0] for key in told["mismatched_keys"]]
        if faults := sorted({*told["missing_keys"], *mismatched}):
            raise WeightsError(
                f"{name}: tensor {faults[0]} is missing or of another shape"
                + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""),
                fix=f"give weights of a {model.__name__}; nothing was filled in at random",
            )
        network.eval().requires_grad_(False).to(self.setup.device)
        return Loaded(network, prepared)


def shown(name: str) -> str:
    """A model's name for files that others will read: of a folder no more than its own name.

    >>> shown("facebook/sam3"), shown("/data/mine/sam3")
    ('facebook/sam3', 'sam3')
    """
    return Path(name).name if _is_path(name) else name


def look_for(name: str, *, fetch: str = FETCH) -> None:
    """See that a network may be on this machine, without reading its weights.

    Raises:
        WeightsError: There is no such folder, or no such model in the hub's cache.
    """
    from huggingface_hub import try_to_load_from_cache

    place = _place(name)
    if Path(place).is_dir():
        return
    if _is_path(name) or not isinstance(try_to_load_from_cache(name, "config.json"), str):
        raise _missing(name, place, FileNotFoundError(), fetch, allow_download=False)


def _is_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1 or Path(name).is_dir()


def _place(name: str) -> str:
    if _is_path(name):
        return str(Path(name).expanduser())
    own = os.environ.get("STYLE_WEIGHTS_DIR")
    if own and (Path(own) / name / "config.json").is_file():
        return str(Path(own) / name)
    return name


def _missing(
    name: str, place: str, error: Exception, fetch: str, allow_download: bool
) -> WeightsError:
    if _is_path(name) and not Path(place).is_dir():
        return WeightsError(
            f"there is no folder {name}", fix="give a folder, or a hub id such as facebook/sam3"
        )
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if _is_path(name) or place != name:
        return WeightsError(
            f"{name} cannot be loaded: {reason}",
            fix="give a folder with config.json, model.safetensors and the processor's files",
        )
    if allow_download:
        return WeightsError(
            f"the weights of {name} could not be fetched: {reason}",
            fix=f"see https://huggingface.co/{name}; where access is granted on request, ask "
            "there and log in with `hf auth login`",
        )
    return WeightsError(
        f"the weights of {name} are not on this machine (config.json, model.safetensors and the "
        "processor's files)",
        fix=f"{fetch} fetches them; or put them at $STYLE_WEIGHTS_DIR/{name}",
    )
