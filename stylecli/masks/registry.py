"""Names of mask backends -> how to make one, under which licence, and with which weights.

A package of somebody else's adds its own through the entry-point group ``stylecli.masks``: each
entry is a function that takes a `Setup` and returns a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from stylecli.backbone.registry import FLOWS, Source
from stylecli.errors import UsageError, did_you_mean
from stylecli.masks.base import MaskBackend, Setup
from stylecli.recipe.finding import Masks

GROUP = "stylecli.masks"
AUTO = "auto"
CLUSTERS, GROUNDED_SAM2 = "clusters", "grounded-sam2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of the table.

    Attributes:
        licence: Of the code and the default weights together, the strictest last.
        models: Hub ids of the default weights, the finder's first.
        uses_backbone: The diffusion model decides what is found.
    """

    create: Callable[[Setup], MaskBackend]
    licence: str
    about: str
    models: tuple[str, ...] = ()
    uses_backbone: bool = False


# Each imports its module when it is made, not when the table is read.
def _clusters(setup: Setup) -> MaskBackend:
    from stylecli.masks.clusters import clusters

    return clusters(setup)


def _grounded_sam2(setup: Setup) -> MaskBackend:
    from stylecli.masks.detectors import GroundedSam2

    return GroundedSam2(setup)


def _clipseg(setup: Setup) -> MaskBackend:
    from stylecli.masks.detectors import ClipSeg

    return ClipSeg(setup)


def _sam3(setup: Setup) -> MaskBackend:
    from stylecli.masks.detectors import Sam3

    return Sam3(setup)


def _sam_clip(setup: Setup) -> MaskBackend:
    from stylecli.masks.sam_clip import SamClip

    return SamClip(setup)


def _fastsam(setup: Setup) -> MaskBackend:
    from stylecli.masks.sam_clip import FastSam

    return FastSam(setup)


BACKENDS: Mapping[str, Entry] = {
    CLUSTERS: Entry(
        create=_clusters,
        licence="Apache-2.0",
        about="regions of the diffusion model's own features; nothing to download with pocket",
        uses_backbone=True,
    ),
    GROUNDED_SAM2: Entry(
        create=_grounded_sam2,
        licence="Apache-2.0",
        about="Grounding DINO finds boxes, SAM 2 what is in them; things and most stuff",
        models=("IDEA-Research/grounding-dino-tiny", "facebook/sam2.1-hiera-tiny"),
    ),
    "clipseg": Entry(
        create=_clipseg,
        licence="Apache-2.0",
        about="small; good for grass and sky, coarse at edges",
        models=("CIDAS/clipseg-rd64-refined",),
    ),
    "sam3": Entry(
        create=_sam3,
        licence="SAM License",
        about="the best masks from words; weights on request, under a licence of their own",
        models=("facebook/sam3",),
    ),
    "sam-clip": Entry(
        create=_sam_clip,
        licence="Apache-2.0, MIT",
        about="DiffStyler v1: SAM 2 cuts out everything, CLIP compares; slow",
        models=("facebook/sam2.1-hiera-tiny", "timm/vit_base_patch32_clip_224.openai"),
    ),
    "fastsam": Entry(
        create=_fastsam,
        licence="AGPL-3.0",
        about="the same with FastSAM; needs the package ultralytics and its weights by name",
        models=("FastSAM", "timm/vit_base_patch32_clip_224.openai"),
    ),
}


def resolve(name: str, source: Source) -> str:
    """What *auto* stands for with a backbone; any other name stays, once it is known.

    Raises:
        UsageError: No backend and no plug-in is called that, or it looks through another model.
    """
    if name == AUTO:
        return source.finder
    if name in BACKENDS and uses_backbone(name) and source.kind in FLOWS:
        raise UsageError(
            f"masks.backend {name} looks through a UNet, and {source.name} is a transformer",
            fix="--set masks.backend=grounded-sam2, or a mask file",
        )
    plugs = _plugs()
    if name not in BACKENDS and name not in plugs:
        known = [*BACKENDS, *sorted(plugs)]
        raise UsageError(
            f"no mask backend is called {name!r}",
            fix=f"{did_you_mean(name, known)}known: {AUTO}, {', '.join(known)}",
        )
    return name


def create(setup: Setup) -> MaskBackend:
    """The backend that `masks.backend` names; one that `resolve` has settled, so not *auto*.

    Raises:
        UsageError: Unknown, or a plug-in that cannot be made.
    """
    name = setup.settings.backend
    if name in BACKENDS:
        return BACKENDS[name].create(setup)
    plug = _plugs().get(name)
    if plug is None:
        raise UsageError(f"no mask backend is called {name!r}", fix=f"known: {', '.join(BACKENDS)}")
    try:
        backend: MaskBackend = plug.load()(setup)
    except Exception as error:  # somebody else's code may raise anything
        raise UsageError(
            f"the mask backend {name!r} of {plug.value} cannot be used: "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            fix="mend or uninstall its package, or use another --backend",
        ) from error
    missing = [part for part in ("name", "licence", "segment") if not hasattr(backend, part)]
    if missing:
        raise UsageError(
            f"the mask backend {name!r} of {plug.value} has no {missing[0]!r}",
            fix="mend its package: stylecli.masks.base.MaskBackend says what it needs",
        )
    return backend


def models(settings: Masks) -> tuple[str, ...]:
    """Hub ids or folders of what a backend will load, as far as the table and settings know."""
    defaults = BACKENDS[settings.backend].models if settings.backend in BACKENDS else ()
    given = (settings.model, settings.segmenter)
    padded = (*defaults, *(None,) * (len(given) - len(defaults)))
    chosen = [own or default for own, default in zip(given, padded, strict=True)]
    return tuple(name for name in chosen if name)


def licence(backend: MaskBackend, settings: Masks) -> str:
    """Of the backend; that of weights which settings name is theirs to know."""
    if settings.model or settings.segmenter:
        return f"{backend.licence}; of the weights named: see there"
    return backend.licence


def uses_backbone(name: str) -> bool:
    """Whether the diffusion model decides what is found; who knows what a plug-in does."""
    return BACKENDS[name].uses_backbone if name in BACKENDS else True


def _plugs() -> dict[str, EntryPoint]:
    # A plug-in never takes the place of a backend of ours.
    return {plug.name: plug for plug in entry_points(group=GROUP) if plug.name not in BACKENDS}
