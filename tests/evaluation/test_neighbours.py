"""Similarity without hubs, and the gap between families, against loops over all pairs."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from torch import Tensor

from stylecli.evaluation.neighbours import csls, gaps


def vectors(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + 0.5


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def near(a: Tensor, pool: Tensor, nearest: int) -> float:
    return fmean(sorted((cosine(a, b) for b in pool), reverse=True)[:nearest])


@pytest.mark.parametrize("block", [2, 5, 100])
@pytest.mark.parametrize("nearest", [1, 3, 10])
def test_csls_is_its_definition_whatever_the_tiles(block: int, nearest: int) -> None:
    outputs, references = vectors(13, 4, 1), vectors(7, 4, 2)
    pairs = torch.tensor([[i, i % 7] for i in range(13)] + [[0, 5], [12, 0], [0, 5]])
    found = csls(outputs, references, pairs, nearest=nearest, block=block)
    for (i, j), value in zip(pairs.tolist(), found.tolist(), strict=True):
        a, b = outputs[i], references[j]
        expected = 2 * cosine(a, b) - near(a, references, nearest) - near(b, outputs, nearest)
        assert value == pytest.approx(expected, abs=1e-12)


def test_a_reference_near_to_everything_loses_its_advantage() -> None:
    """By cosine all outputs are nearest to the hub; freed of it, only its own output is."""
    hub = torch.tensor([1.0, 1.0, 0.0])
    references = torch.stack([hub, torch.tensor([1.0, 0, 1.2]), torch.tensor([0, 1.0, 1.2])])
    outputs = torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [1.0, 1.0, 0.0]])
    assert [max(range(3), key=lambda j: cosine(o, references[j])) for o in outputs] == [0, 0, 0]
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    freed = csls(outputs, references, pairs, nearest=1).reshape(3, 3)
    assert freed.argmax(dim=1).tolist() == [1, 2, 0]


def test_a_repeated_length_or_order_changes_nothing() -> None:
    outputs, references = vectors(6, 4, 3), vectors(5, 4, 4)
    pairs = torch.tensor([[2, 1], [5, 4]])
    found = csls(outputs, references, pairs)
    torch.testing.assert_close(csls(3 * outputs, references / 7, pairs), found)
    turned = csls(outputs.flip(0), references, torch.tensor([[3, 1], [0, 4]]))
    torch.testing.assert_close(turned, found)


def gap_by_hand(
    references: Tensor, families: list[str], family: str, *, corrected: bool, nearest: int
) -> tuple[float, float]:
    rows = range(len(families))

    def similar(i: int, j: int) -> float:
        found = cosine(references[i], references[j])
        if not corrected:
            return found
        r = [near(references[k], references[[q for q in rows if q != k]], nearest) for k in (i, j)]
        return 2 * found - r[0] - r[1]

    own = [i for i in rows if families[i] == family]
    within = fmean(similar(i, j) for i in own for j in own if i != j)
    across = max(
        fmean(similar(i, j) for i in own for j in rows if families[j] == other)
        for other in set(families) - {family}
    )
    return within, across


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("block", [3, 100])
def test_the_gap_is_its_definition(corrected: bool, block: int) -> None:
    references = vectors(12, 4, 5)
    families = ["ink", "oil", "oil", "ink", "pop"] * 2 + ["ink", "alone"]
    found = gaps(references, families, corrected=corrected, nearest=3, block=block)
    # One reference has nothing to agree with; but others may be too near to it.
    assert sorted(found) == ["ink", "oil", "pop"]
    assert found["ink"].n == 5
    for family, gap in found.items():
        within, across = gap_by_hand(references, families, family, corrected=corrected, nearest=3)
        assert gap.within == pytest.approx(within, abs=1e-12)
        assert gap.across == pytest.approx(across, abs=1e-12)
        assert gap.value == pytest.approx(within - across, abs=1e-12)


def test_families_that_lie_apart_have_a_gap_and_mixed_ones_none() -> None:
    apart = torch.cat([torch.eye(6)[:1] + 0.1 * vectors(4, 6, 6), torch.eye(6)[1:2] * 9 + 0.1])
    apart = torch.cat([apart, torch.eye(6)[1:2] * 9 + 0.1 * vectors(3, 6, 7)])
    families = ["a"] * 4 + ["b"] * 4
    assert all(gap.value > 0.1 for gap in gaps(apart, families).values())
    same = vectors(1, 6, 8).repeat(8, 1)
    assert all(abs(gap.value) < 1e-12 for gap in gaps(same, families).values())
    assert {gap.nearest for gap in gaps(same, families).values()} == {"a", "b"}


def test_one_family_has_no_other_to_be_told_from() -> None:
    assert gaps(vectors(4, 3, 9), ["a"] * 4) == {}
    assert gaps(torch.zeros(0, 3), []) == {}
