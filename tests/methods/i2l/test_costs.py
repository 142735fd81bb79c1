"""The page's table of costs is the one that its script prints."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from tests import small
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return small.script("make_i2l_costs")


@pytest.mark.slow
def test_the_page_shows_the_costs_as_they_are(script: ModuleType) -> None:
    page = (ROOT / "docs" / "methods" / "i2l.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- costs -->\n\n(.*?)\n\n<!-- /costs -->", page, re.DOTALL)
    assert shown == script.table(), "docs/images/make_i2l_costs.py prints the table anew"


@pytest.mark.parametrize(
    ("number", "said"),
    [(430e6, "430 MFLOP"), (4.49e9, "4.5 GFLOP"), (61e12, "61 TFLOP"), (999e12, "1.0 PFLOP")],
)
def test_operations_are_said_to_two_digits(script: ModuleType, number: float, said: str) -> None:
    assert script.flops(number) == said
