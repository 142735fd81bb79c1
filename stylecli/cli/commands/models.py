"""`style models …` and `style doctor`: weights and the machine they run on."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from stylecli.cli.console import console, size
from stylecli.cli.options import BackboneOpt, DeviceOpt, DtypeOpt, RecipeOpt, examples, settings
from stylecli.errors import StyleError, UsageError, WeightsError

if TYPE_CHECKING:
    from stylecli.backbone.registry import Source

NameArg = Annotated[str, typer.Argument(metavar="NAME", help="A name from `style models list`.")]


@examples("style models list", "style models list --json")
def models_list() -> None:
    """List the backbones, their licences, and whether their weights are on this machine."""
    from stylecli.backbone import registry

    for source in registry.SOURCES.values():
        try:
            registry.snapshot(source)
            is_here = True
        except StyleError:
            is_here = False
        row = {
            "backbone": source.name,
            "present": is_here,
            "licence": source.licence,
            "repositories": list(source.repositories),
            "revision": source.revision,
        }
        origin = source.repositories[0] if source.repositories else "ships with the package"
        state = "here   " if is_here else "missing"
        console.result(row, text=f"{source.name:<10}  {state}  {source.licence:<26}  {origin}")


@examples("style models pull sd15", "style models pull sd21-base --json")
def models_pull(name: NameArg) -> None:
    """Download a backbone's weights and check their hashes."""
    from stylecli.backbone import registry

    source = _known(name)
    folder = registry.snapshot(source, allow_download=True)
    verified = registry.verify(source, folder)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    console.note(f"{size(held)}, {'hashes as recorded' if verified else 'no hashes are recorded'}")
    console.result({"backbone": name, "output": str(folder), "bytes": held})


@examples("style models verify pocket", "style models verify sd15 --json")
def models_verify(name: NameArg) -> None:
    """Read every weight file again and compare its hash with the recorded one."""
    from stylecli.backbone import registry

    source = _known(name)
    folder = registry.snapshot(source)
    verified = registry.verify(source, folder)
    if not verified:
        raise WeightsError(f"no hashes are recorded for {name}", fix="reinstall the package")
    for file, digest in verified.items():
        console.result({"file": file, "sha256": digest, "ok": True}, text=f"ok  {file}")


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


def _known(name: str) -> Source:
    from stylecli.backbone import registry

    source = registry.find(name)
    if name not in registry.SOURCES:
        raise UsageError(
            f"{name} is a folder, with no recorded hashes",
            fix=f"known: {', '.join(registry.SOURCES)}",
        )
    return source
