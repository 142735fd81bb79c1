"""Options that commands take together, each bundle a frozen dataclass that knows what it is for.

A command that makes files names a few bundles and its own options. `parameters` spreads their
fields out for Typer, and `gathered` puts what was given back into them; the one caller of both is
`stylecli.cli.app`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from stylecli.cli import carrying
from stylecli.cli.options import (
    BackboneOpt,
    ContentArg,
    DeviceOpt,
    DtypeOpt,
    ManifestOpt,
    NameOpt,
    NulOpt,
    OutputOpt,
    OverwriteOpt,
    RecipeOpt,
    SeedOpt,
    SetOpt,
    StripOpt,
)

if TYPE_CHECKING:
    from stylecli.engine.request import Contents
    from stylecli.recipe.load import Resolved


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Pictures to work on."""

    content: ContentArg = None
    manifest: ManifestOpt = None
    nul: NulOpt = False

    def contents(self) -> Contents:
        """The same for the engine; a list on standard input is read when it is asked for."""
        from stylecli.engine import request

        return request.Contents(
            arguments=self.content or [],
            manifest=self.manifest,
            # Once, however often the command is prepared.
            stdin=cache(sys.stdin.read),
            nul=self.nul,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The recipe, and the machine."""

    recipe: RecipeOpt = None
    overrides: SetOpt = None
    backbone: BackboneOpt = None
    device: DeviceOpt = None
    dtype: DtypeOpt = None

    def resolved(self, flags: Mapping[str, object]) -> Resolved:
        """The recipe of this run; `flags` are the command's own, as `carrying.settings` has them.

        Raises:
            RecipeError: Every fault, each with its place.
        """
        return carrying.settings(self.recipe, self.overrides, {**self._flags(), **flags})

    def _flags(self) -> dict[str, object]:
        return {
            "backbone.id": self.backbone,
            "device.name": self.device,
            "device.dtype": self.dtype,
        }


@dataclass(frozen=True, kw_only=True)
class Seeded(Settings):
    """Settings of work in which chance has a part."""

    seed: SeedOpt = None

    def _flags(self) -> dict[str, object]:
        return super()._flags() | {"sampling.seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a result goes."""

    output: OutputOpt
    overwrite: OverwriteOpt = False
    strip: StripOpt = False


@dataclass(frozen=True, kw_only=True)
class Outputs(Output):
    """Where results go, and what they are called."""

    name: NameOpt = None


def of(command: Callable[..., None]) -> list[type[Any]]:
    """The bundles that a command names."""
    return [p.annotation for p in _declared(command) if _is_bundle(p.annotation)]


def parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    """A command's parameters as Typer reads them, each bundle replaced by its fields."""
    found: list[inspect.Parameter] = []
    for parameter in _declared(command):
        bundle = parameter.annotation
        if not _is_bundle(bundle):
            found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(bundle, include_extras=True)
        found += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=hints[field.name],
            )
            for field in fields(bundle)
        ]
    return found


def gathered(command: Callable[..., None], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a command out of what Typer parsed for its `parameters`."""
    return {
        parameter.name: parameter.annotation(
            **{field.name: given[field.name] for field in fields(parameter.annotation)}
        )
        if _is_bundle(parameter.annotation)
        else given[parameter.name]
        for parameter in _declared(command)
    }


def _is_bundle(annotation: Any) -> bool:
    return is_dataclass(annotation)


def _declared(command: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(command, eval_str=True).parameters.values())
