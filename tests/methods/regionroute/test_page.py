"""The page's table of costs is the one that its script prints."""

from __future__ import annotations

import importlib.util
import re

from tests.conftest import ROOT

SCRIPT = ROOT / "docs" / "images" / "make_route_costs.py"


def test_the_page_shows_the_costs_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("make_route_costs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "methods" / "regionroute.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- costs -->\n\n(.*?)\n\n<!-- /costs -->", page, re.DOTALL)
    assert shown == script.table(), "docs/images/make_route_costs.py prints the table anew"
