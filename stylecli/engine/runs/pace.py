"""How fast runs go and how long they take, in numbers and as people say it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

# A longer wait for an item than this, and than so many times what it took, was a pause.
PAUSE_SECONDS, PAUSE_TIMES = 600.0, 10.0


def per_minute(started: str, finished: Sequence[tuple[str, float]]) -> float | None:
    """How fast a run makes items, from when it finished which; nights asleep do not count.

    From the first that was finished on, because before it the model was loaded: those that were
    finished with it are counted by none of the time.

    Args:
        started: When the run began.
        finished: When each item was, and the seconds it took.
    """
    rows = sorted((at, seconds) for text, seconds in finished if (at := stamp(text)) is not None)
    if not rows:
        return None
    made, spent = 0, 0.0
    for (before, _), (at, seconds) in itertools.pairwise(rows):
        if at > rows[0][0] and at - before <= max(PAUSE_SECONDS, PAUSE_TIMES * seconds):
            made += 1
            spent += at - before
    began = stamp(started)
    if not made and began is not None:
        # All at once: nothing else to go by than when the run began.
        made, spent = len(rows), rows[-1][0] - began
    return made / spent * 60 if spent > 0 else None


def stamp(text: str) -> float | None:
    """An ISO time in seconds since 1970, UTC where it does not say; None where it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC).timestamp()


def rate(items_per_minute: float | None) -> str:
    """How fast, in the largest unit in which it is at least one.

    >>> rate(0.3), rate(10), rate(90), rate(None)
    ('18 an hour', '10 a minute', '1.5 a second', '')
    """
    if not items_per_minute:
        return ""
    for name, minutes in (("a second", 1 / 60), ("a minute", 1.0)):
        if items_per_minute * minutes >= 1:
            return f"{items_per_minute * minutes:.3g} {name}"
    return f"{items_per_minute * 60:.3g} an hour"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.25), duration(42.4), duration(125), duration(7300)
    ('4.2 s', '42 s', '2 min 05 s', '2 h 01 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
