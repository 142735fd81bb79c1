"""Help pages: flags without a type, and a page of one screen beside one that shows everything."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from stylecli.cli import options

HELP_NAMES = ["-h", "--help"]
_SHOWS_ALL = "stylecli.shows_all"


class _PlainFlags:
    """Help pages without a type beside every flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


class Leaf(_PlainFlags, TyperCommand):
    """A command. Options for unattended work are completed and read like all others."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page, without the panel that is for ``--help-all``."""
        rare = [p for p in self.params if getattr(p, "rich_help_panel", None) == options.RARE]
        has_more = any(p.name == "help_all" for p in self.params)
        for param in rare:
            param.hidden = has_more and not ctx.meta.get(_SHOWS_ALL)  # type: ignore[attr-defined]
        try:
            super().format_help(ctx, formatter)
        finally:
            for param in rare:
                param.hidden = False  # type: ignore[attr-defined]


class Group(_PlainFlags, TyperGroup):
    """A command that only holds others."""


def _show_all(ctx: typer.Context, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        ctx.meta[_SHOWS_ALL] = True
        typer.echo(ctx.get_help())
        raise typer.Exit


HelpAllOpt = Annotated[
    bool,
    typer.Option(
        "--help-all",
        is_eager=True,
        callback=_show_all,
        help="Show all options, those for unattended runs too.",
    ),
]
