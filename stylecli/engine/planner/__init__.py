"""What a run will take before anything is loaded, and settings that fit a memory."""

from __future__ import annotations

from stylecli.engine.planner.costs import Cost, Part
from stylecli.engine.planner.fit import Choice

__all__ = ["Choice", "Cost", "Part"]
