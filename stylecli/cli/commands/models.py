"""`style models …` and `style doctor`: weights and the machine they run on."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli.carrying import settings
from stylecli.cli.console import console, size
from stylecli.cli.options import (
    OUTPUT,
    BackboneOpt,
    DeviceOpt,
    DtypeOpt,
    OverwriteOpt,
    RecipeOpt,
    WeightsDirOpt,
    examples,
    given_path,
)
from stylecli.errors import InputError, StyleError, UsageError, WeightsError

if TYPE_CHECKING:
    from stylecli.backbone.registry import Source

# What the names of metrics' weights begin with; backbones' have no such part.
METRICS = "metrics/"

NamesArg = Annotated[
    list[str], typer.Argument(metavar="NAME", help="Names from `style models list`.")
]
NameArg = Annotated[str, typer.Argument(metavar="NAME", help="A name from `style models list`.")]


@examples("style models list", "style models list --json")
def models_list(weights_dir: WeightsDirOpt = None) -> None:
    """List what can be loaded, its licence, and whether its weights are on this machine."""
    from stylecli.backbone import registry

    for source in registry.SOURCES.values():
        try:
            registry.snapshot(source)
            is_here = True
        except StyleError:
            is_here = False
        row = {
            "name": source.name,
            "kind": "backbone",
            "backbone": source.name,
            "present": is_here,
            "licence": source.licence,
            "repositories": list(source.repositories),
            "revision": source.revision,
        }
        origin = source.repositories[0] if source.repositories else "ships with the package"
        console.result(row, text=_line(source.name, is_here, source.licence, "", origin))
    _list_metrics(weights_dir)


@examples("style models pull sd15", "style models pull metrics/inception metrics/alexnet --json")
def models_pull(names: NamesArg, weights_dir: WeightsDirOpt = None) -> None:
    """Download weights, one after another, and check their hashes."""
    for name in names:
        if name.startswith(METRICS):
            from stylecli.engine import metric_weights

            metric_weights.named(name)
        else:
            _known(name, weights_dir)
    for name in names:
        _pull(name, weights_dir)


def _pull(name: str, weights_dir: Path | None) -> None:
    if name.startswith(METRICS):
        from stylecli.engine import metric_weights

        path = metric_weights.pull(metric_weights.named(name), weights_dir)
        parts = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        held = sum(part.stat().st_size for part in parts)
        console.note(size(held))
        row = {"name": name, "kind": "metric", "output": str(path), "bytes": held}
        console.result(row)
        return
    from stylecli.backbone import hashes, registry

    source = _known(name, weights_dir)
    if source.file is not None and source.beside is None:
        raise UsageError(f"{name} is a whole model already", fix="use it: --backbone " + name)
    folder = registry.snapshot(source, allow_download=True)
    verified = hashes.verify(source, folder)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    known = len(verified) if source.folder else len(source.sha256.keys() & verified)
    said = "hashes as recorded"
    if known < len(verified):
        said = f"hashes as the hub names them, {known or 'none'} recorded here"
    if not verified:
        said = "no hashes are recorded"
    console.note(f"{size(held)}, {said}")
    row = {"name": name, "kind": "backbone", "backbone": name}
    console.result({**row, "output": str(folder), "bytes": held})


@examples(
    "style models bundle sd15 metrics/alexnet -o weights.tar",
    "style models bundle flux1-kontext metrics/csd -o kontext.tar --weights-dir weights/",
)
def models_bundle(
    names: NamesArg,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=given_path,
            help="The bundle, a .tar.",
            rich_help_panel=OUTPUT,
        ),
    ],
    overwrite: OverwriteOpt = False,
    weights_dir: WeightsDirOpt = None,
) -> None:
    """Pack weights of this machine into one file, for a machine without a network."""
    from stylecli.engine import bundling

    for name in names:
        if not name.startswith(METRICS):
            _known(name, None)
    found = bundling.parcels(names, weights_dir)
    held = bundling.write(found, output.expanduser(), console, overwrite=overwrite)
    for parcel in found:
        console.note(f"{parcel.name}: {parcel.licence}")
    console.note(
        f"{size(held)}; there: tar -xf {output.name} -C DIR, and STYLE_WEIGHTS_DIR=DIR from then on"
    )
    row = {"output": str(output), "bytes": held, "names": [parcel.name for parcel in found]}
    console.result({**row, "licences": {p.name: p.licence for p in found}}, text=str(output))


@examples("style models verify pocket", "style models verify metrics/inception --json")
def models_verify(name: NameArg, weights_dir: WeightsDirOpt = None) -> None:
    """Read every weight file again and compare its hash with the recorded one.

    Of a .safetensors file it is told which model it is, and a transformer's tensors are counted.
    """
    if name.startswith(METRICS):
        from stylecli.engine import metric_weights

        path, digest = metric_weights.verify(metric_weights.named(name), weights_dir)
        row = {"file": str(path), "sha256": digest, "ok": True}
        console.result(row, text=f"ok  {path}")
        return
    from stylecli.backbone import hashes, registry

    source = _known(name, weights_dir)
    if source.file is not None:
        _verify_file(source.file)
        return
    folder = registry.snapshot(source)
    verified = hashes.verify(source, folder)
    if not verified:
        raise WeightsError(
            f"no hashes are recorded for {name}",
            fix=f"style models pull {name} fetches files that are named by theirs"
            if source.repositories
            else "reinstall the package",
        )
    for file, digest in verified.items():
        console.result({"file": file, "sha256": digest, "ok": True}, text=f"ok  {file}")


def _verify_file(file: Path) -> None:
    """Nothing is recorded of files that others made; what they hold is told, and their hash."""
    from stylecli.backbone import single_file, transformer_files

    found = single_file.identify(file)
    held = "a whole model"
    if found.is_transformer:
        transformer_files.check(file)
        held = "its transformer alone, all tensors of it"
    if found.doubt is not None:
        console.warn(f"{file.name} {found.doubt}")
    digest = single_file.sha256(file)
    row = {"file": str(file), "sha256": digest, "ok": True, "backbone": found.architecture}
    console.result({**row, "holds": held}, text=f"ok  {file}: {found.architecture}, {held}")


@examples("style doctor", "style doctor --backbone pocket --json")
def doctor(
    backbone: BackboneOpt = None,
    recipe: RecipeOpt = None,
    device: DeviceOpt = None,
    dtype: DtypeOpt = None,
) -> None:
    """Check the installation; with --backbone also what that model does on this machine."""
    from stylecli.engine.doctor import installation
    from stylecli.engine.session import Session
    from stylecli.engine.soundness import examine

    resolved = settings(
        recipe, None, {"backbone.id": backbone, "device.name": device, "device.dtype": dtype}
    )
    failed = []
    groups = [installation()]
    if backbone or recipe:
        groups.append(examine(Session.open(resolved.recipe, console)))
    for check in chain.from_iterable(groups):
        console.result(check.row(), text=str(check))
        if check.is_ok is False:
            failed.append(check)
    if failed:
        raise StyleError(
            f"{len(failed)} checks failed: {', '.join(check.name for check in failed)}",
            fix=failed[0].fix,
        )


def _list_metrics(weights_dir: Path | None) -> None:
    from stylecli.evaluation import published, weights

    for wanted in published.WEIGHTS.values():
        try:
            file = str(weights.find(wanted, weights_dir))
        except WeightsError:
            file = None
        name, origin = f"{METRICS}{wanted.name}", wanted.repository or wanted.url
        row = {
            "name": name,
            "kind": "metric",
            "present": file is not None,
            "licence": wanted.licence,
            "repositories": [wanted.repository] if wanted.repository else [],
            "revision": None,
            "url": weights.origin(wanted),
            "megabytes": wanted.megabytes,
            "what": wanted.what,
            "file": file,
        }
        held = f"{wanted.megabytes} MB"
        console.result(row, text=_line(name, file is not None, wanted.licence, held, origin))


def _line(name: str, is_here: bool, licence: str, held: str, origin: str) -> str:
    state = "here" if is_here else "missing"
    return f"{name:<25}  {state:<7}  {licence:<26}  {held:>7}  {origin}"


def _known(name: str, weights_dir: Path | None) -> Source:
    from stylecli.backbone import registry
    from stylecli.evaluation.published import WEIGHTS

    if name not in registry.SOURCES and name in WEIGHTS:
        raise InputError(f"no backbone is called {name!r}", fix=f"did you mean {METRICS}{name}?")
    source = registry.find(name)
    if source.folder is not None and source.name not in registry.SOURCES:
        raise UsageError(
            f"{name} is a folder, with no recorded hashes",
            fix=f"known: {', '.join(registry.SOURCES)}",
        )
    if weights_dir is not None:
        raise UsageError(
            f"{name} is a backbone, and --weights-dir is for weights of metrics",
            fix="leave it out; $STYLE_WEIGHTS_DIR holds backbones too",
        )
    return source
