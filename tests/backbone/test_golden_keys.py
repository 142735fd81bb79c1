"""Names and shapes of every tensor of the full-size models: a library that renames one fails here.

Weights of the real models cannot be had in a test, so nothing else would tell before a user does.
``pytest --rewrite`` writes the lists anew; look at what changed before you commit it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from torch import Tensor, nn

from tests.backbone.full_size import PARTS, on_paper

GOLDEN = "tests/backbone/golden"
CASES = [(name, part) for name, parts in PARTS.items() for part in parts]


def listed(model: nn.Module) -> str:
    """`counted`, of a model."""
    return counted(model.state_dict())


def counted(state: Mapping[str, Tensor]) -> str:
    """A line for each name and shape; layers that differ in their numbers alone share one."""
    found: Counter[str] = Counter()
    for name, tensor in state.items():
        shape = "x".join(map(str, tensor.shape)) or "scalar"
        found[f"{re.sub(r'(?<=[.])[0-9]+(?=[.])', '#', name)} {shape}"] += 1
    return "".join(f"{line} *{count}\n" for line, count in sorted(found.items()))


@pytest.mark.parametrize(("name", "part"), CASES)
def test_every_tensor_is_called_as_in_the_published_files(
    name: str, part: str, committed: Callable[[str, str], None]
) -> None:
    make, parameters = PARTS[name][part]
    model = on_paper(make)
    assert sum(p.numel() for p in model.parameters()) == parameters
    committed(f"{GOLDEN}/{name}.{part}.txt", listed(model))


def test_the_list_tells_a_renamed_a_missing_and_a_reshaped_tensor() -> None:
    def tree(name: str, layers: int, width: int) -> nn.Module:
        return nn.Sequential(*(nn.ModuleDict({name: nn.Linear(width, 3)}) for _ in range(layers)))

    lists = {listed(tree(*case)) for case in (("a", 2, 4), ("b", 2, 4), ("a", 3, 4), ("a", 2, 5))}
    assert len(lists) == 4
    assert listed(tree("a", 2, 4)).splitlines() == [
        "0.a.bias 3 *1",
        "0.a.weight 3x4 *1",
        "1.a.bias 3 *1",
        "1.a.weight 3x4 *1",
    ]
    nested = nn.ModuleDict({"layers": tree("a", 3, 4)})
    assert listed(nested).splitlines() == ["layers.#.a.bias 3 *3", "layers.#.a.weight 3x4 *3"]
