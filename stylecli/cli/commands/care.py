"""Commands that look after the installation: recipes and the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from stylecli.cli.carrying import settings
from stylecli.cli.console import console, size
from stylecli.cli.options import DryRunOpt, SetOpt, examples, given
from stylecli.errors import RecipeError, UsageError


@examples("style recipes list", "style recipes list --json")
def recipes_list() -> None:
    """List the recipes that come with the package."""
    from stylecli.recipe.load import load, shipped

    names = shipped()
    width = max(map(len, names), default=0)
    for name in names:
        recipe = load(name).recipe
        console.result(
            {"recipe": name, "backbone": recipe.backbone.id, "description": recipe.description},
            text=f"{name:<{width}}  {recipe.description}",
        )


@examples(
    "style recipes show pocket-cpu > mine.yaml",
    "style recipes show sd21-base-24gb --resolved --set sampling.guidance=7.5",
)
def recipes_show(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME|FILE", parser=given, help="A shipped name, or a YAML file."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every value and where it came from.")
    ] = False,
    overrides: SetOpt = None,
) -> None:
    """Print a recipe, to read it or to start your own from it."""
    from stylecli.recipe.load import DEFAULTS, find
    from stylecli.recipe.text import render

    chosen = settings(name, overrides)
    is_file = chosen.name != DEFAULTS
    if is_file and not resolved and not console.json and not overrides:
        text = find(chosen.name)[0].read_text(encoding="utf-8-sig").rstrip("\n")
        console.result({}, text=text)
        return
    row = {
        "recipe": chosen.name,
        "values": chosen.recipe.model_dump(mode="json"),
        "origin": dict(chosen.origin),
    }
    console.result(row, text=render(chosen))


@examples("style recipes validate mine.yaml", "style recipes validate recipes/*.yaml -q")
def recipes_validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", parser=given, help="Recipes to check.")
    ],
) -> None:
    """Check recipes without running them: all faults at once, each with file and line."""
    from stylecli.recipe.load import load

    faults = []
    for file in files:
        try:
            load(file)
        except RecipeError as error:
            faults.append(error)
            row = {"recipe": file, "valid": False, "faults": error.what.splitlines()}
            console.result(row, text=f"wrong  {file}")
        else:
            console.result({"recipe": file, "valid": True}, text=f"valid  {file}")
    if faults:
        fixes = {error.fix for error in faults}
        raise RecipeError(
            "\n".join(error.what for error in faults),
            fix=fixes.pop() if len(fixes) == 1 else "correct each, and check them again",
        )


@examples("style cache list", "style cache list --json")
def cache_list() -> None:
    """Show what the cache holds, and where it is."""
    from stylecli.artifacts import cache

    limit = cache.size_limit()
    shelves = cache.shelves(cache.cache_dir())
    console.note(f"cache  {cache.cache_dir()}")
    console.note(
        f"holds  {size(sum(shelf.bytes for shelf in shelves))} of "
        f"{'any size' if limit is None else size(limit)} ({cache.SIZE})"
    )
    for shelf in shelves:
        console.result(
            {"kind": shelf.kind, "files": shelf.files, "bytes": shelf.bytes},
            text=f"{shelf.kind:<16}{shelf.files:>8} files {size(shelf.bytes):>12}",
        )


@examples("style cache prune --older-than 30", "style cache prune --max-gb 5 --dry-run")
def cache_prune(
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Remove what was unused so long."),
    ] = None,
    max_gb: Annotated[
        float | None,
        typer.Option("--max-gb", metavar="GB", min=0, help="Remove the longest unused beyond."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of it.")] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Remove files from the cache; whatever is needed again is made again."""
    from stylecli.artifacts import cache

    if older_than is None and max_gb is None and not everything:
        raise UsageError("nothing said to prune", fix="--older-than DAYS, --max-gb GB or --all")
    days = 0.0 if everything else older_than
    freed = 0
    for entry in cache.prunable(
        cache.cache_dir(),
        older_than_seconds=None if days is None else days * 86_400,
        max_bytes=None if max_gb is None else int(max_gb * 1e9),
    ):
        if not dry_run:
            entry.path.unlink(missing_ok=True)
        freed += entry.bytes
        row = {"output": str(entry.path), "bytes": entry.bytes, "removed": not dry_run}
        console.result(row)
    console.note(f"{'would free' if dry_run else 'freed'}  {size(freed)}")
