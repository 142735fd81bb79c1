"""The import graph on the architecture page, drawn from what imports what."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable
from functools import cache

import grimp

from tests.conftest import ROOT

WIDTH, BOX, STEP, LEFT = 500, 34, 58, 190
# Of arcs: how far out one goes for each layer that it passes.
REACH = 26


def layers() -> list[list[str]]:
    """Top down, as import-linter holds them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (found,) = [one for one in contracts["contracts"] if one["type"] == "layers"]
    return [[name.strip() for name in layer.split("|")] for layer in found["layers"]]


@cache
def imports() -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """How many imports go from a package to another, and how many modules a package has."""
    graph = grimp.build_graph("stylecli")
    edges: Counter[tuple[str, str]] = Counter()
    modules: Counter[str] = Counter()
    for module in graph.modules:
        own = package(module)
        modules[own] += 1
        for target in graph.find_modules_directly_imported_by(module):
            if package(target) != own:
                edges[own, package(target)] += 1
    return edges, modules


def package(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def drawn() -> str:
    """Boxes, a row for each layer, and an arc from the side of who imports to whom."""
    edges, modules = imports()
    rows = layers()
    places: dict[str, tuple[float, float]] = {}
    parts = []
    for depth, names in enumerate(rows):
        for at, name in enumerate(names):
            wide = LEFT - 12 if len(names) > 1 else 2 * LEFT - 12
            x, y = 60 + at * LEFT, 12 + depth * STEP
            places[name] = (x + wide / 2, y)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{wide}" height="{BOX}" rx="5" class="box"/>'
                f'<text x="{x + wide / 2:g}" y="{y + 22}">{name} '
                f'<tspan class="count">{modules[name]}</tspan></text>'
            )
    for (source, target), count in sorted(edges.items()):
        if source not in places or target not in places:
            continue
        (x1, y1), (x2, y2) = places[source], places[target]
        depth = round((y2 - y1) / STEP)
        thick = 0.6 + min(count, 120) / 40
        side = 1 if x1 + x2 >= 2 * (60 + LEFT - 6) else -1
        bend = (x1 + x2) / 2 + side * REACH * depth
        parts.append(
            f'<path d="M{x1:g} {y1 + BOX:g} Q{bend:g} {(y1 + BOX + y2) / 2:g} {x2:g} {y2:g}" '
            f'stroke-width="{thick:.2g}"><title>{source} imports {target}: {count}</title></path>'
        )
    height = 12 + len(rows) * STEP
    style = (
        ".box{fill:#eceff1;stroke:#546e7a}text{font:14px sans-serif;text-anchor:middle}"
        ".count{fill:#78909c;font-size:12px}path{fill:none;stroke:#d9572b;stroke-opacity:.55}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="import graph of stylecli"><style>{style}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def test_the_import_graph_is_current(committed: Callable[[str, str], None]) -> None:
    committed("docs/images/imports.svg", drawn())


def test_all_arrows_point_down() -> None:
    depth = {name: at for at, names in enumerate(layers()) for name in names}
    edges, _ = imports()
    known = {pair for pair in edges if set(pair) <= depth.keys()}
    assert len(known) > len(depth)
    assert all(depth[source] < depth[target] for source, target in known)


def test_the_page_tells_of_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for names in layers() for name in names)
