"""Times and numbers as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def span(times: Sequence[str]) -> str:
    """From the first of some ISO times to the last, the day said once where it is one."""
    if not times:
        return ""
    first, last = moment(times[0]), moment(times[-1])
    if first == last:
        return f"{first} UTC"
    (day, start), (last_day, end) = first.rsplit(", ", 1), last.rsplit(", ", 1)
    return f"{day}, {start} to {end} UTC" if day == last_day else f"{first} to {last} UTC"


def moment(text: str) -> str:
    """An ISO time as people write it.

    >>> moment("2026-11-21T09:38:58.660+00:00")
    '21 Nov 2026, 09:38'
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return "unknown"
    return f"{at.day} {MONTHS[at.month - 1]} {at.year}, {at:%H:%M}"


def figure(value: float) -> str:
    """Four digits.

    >>> figure(0.123456)
    '0.1235'
    """
    return f"{value:.4g}"
