"""The committed mutants are of today's code; whether tests catch them is `nox -s mutants`."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tests.mutants.__main__ import FEWEST, Mutant, mutants, mutate

ALL = mutants()


def test_there_are_enough_of_them() -> None:
    assert len(ALL) >= FEWEST
    assert len(set(ALL)) == len(ALL)


@pytest.mark.parametrize("mutant", ALL, ids=str)
def test_a_mutant_changes_one_line_and_names_a_test(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutate(text, mutant)
    assert sum(a != b for a, b in zip(text.splitlines(), changed.splitlines(), strict=True)) == 1
    compile(changed, mutant.file, "exec")
    file, _, test = mutant.test.partition("::")
    assert f"def {test.split('::')[-1].partition('[')[0]}(" in (ROOT / file).read_text()
