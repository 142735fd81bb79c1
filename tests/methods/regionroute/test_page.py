"""The page's table of costs is the one that its script prints."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.small import script


def test_the_page_shows_the_costs_as_they_are() -> None:
    page = (ROOT / "docs" / "methods" / "regionroute.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- costs -->\n\n(.*?)\n\n<!-- /costs -->", page, re.DOTALL)
    table = script("make_route_costs").table()
    assert shown == table, "docs/images/make_route_costs.py prints the table anew"
