"""Every failure a user can meet, with the exit status of each (`docs/errors.md`).

    StyleError                  1  something we did not foresee
    ├── UsageError              2  a command line that cannot be carried out
    │   ├── RecipeError         2  a setting that is unknown, of the wrong type or out of range
    │   ├── InputError          2  an input that is missing or matches nothing
    │   └── ForeignPredictorError 2  the predictor of others, which cannot be used as it is
    ├── ItemError               3  one item failed; the others go on
    │   ├── ImageError          3  a picture that cannot be read, or cannot be used
    │   ├── DiskFullError       3  no room for the output; the run ends there
    │   └── OutputDiffersError  3  the output exists and was made from something else
    ├── BelowThresholdError     1  a figure is worse than was asked for
    ├── NotReproducedError      1  a file was made again and came out different
    ├── WeightsError            4  weights are missing, damaged or of another model
    ├── LockedError             5  another run holds the output folder
    └── MemoryExhaustedError    6  an item does not fit the memory; the others are done

Raised with what happened (naming the value, file or key as the user wrote it) and `fix`, something
to type or to change. `stylecli.cli.app.main` is the one place that turns them into an exit status.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The opening of a fix: the nearest of the known names, or nothing where none is near.

    >>> did_you_mean("lpip", ["lpips", "fid"])
    'did you mean lpips? '
    >>> did_you_mean("qwen", ["owen", "qwen2.5-vl-7b"])
    'did you mean qwen2.5-vl-7b? '
    """
    names = list(known)
    # Who stops typing early is nearer than any measure of letters says.
    begun = [one for one in names if len(name) > 2 and one.startswith(name)]
    near = sorted(begun, key=len)[:1] or difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}? " if near else ""


class StyleError(Exception):
    """Something nobody foresaw: a fault of this program, worth reporting."""

    exit_status: ClassVar[int] = 1
    code: ClassVar[str] = "unexpected"

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def as_row(self) -> dict[str, str]:
        """For programs: journals, reports and the summary of ``--json``."""
        return {"code": self.code, "what": self.what, "fix": self.fix}


class UsageError(StyleError):
    """A command line that cannot be carried out; nothing was done."""

    exit_status = 2
    code = "usage"


class RecipeError(UsageError):
    """A setting that is unknown, of the wrong type or out of range."""

    code = "recipe"


class InputError(UsageError):
    """An input that is missing, or that matches nothing."""

    code = "input"


class ForeignPredictorError(UsageError):
    """A predictor of LoRAs that another program made, and that cannot be used as it is."""

    code = "foreign_predictor"


class ItemError(StyleError):
    """One item failed; the run goes on and ends with status 3."""

    exit_status = 3
    code = "item"


class ImageError(ItemError):
    """A picture that cannot be read, or cannot be used."""

    code = "image"


class DiskFullError(ItemError):
    """The disk is full: the run ends, and what it did not reach is left for the next one."""

    code = "disk_full"


class OutputDiffersError(ItemError):
    """The output exists and was made from other inputs or settings."""

    code = "output_differs"


class BelowThresholdError(StyleError):
    """The work was done, and a figure is worse than was asked for."""

    code = "below_threshold"


class NotReproducedError(StyleError):
    """A file was made again from what it says of itself, and came out different."""

    code = "not_reproduced"


class WeightsError(StyleError):
    """Weights are missing, damaged or belong to another model."""

    exit_status = 4
    code = "weights"


class LockedError(StyleError):
    """Another run holds the output folder."""

    exit_status = 5
    code = "locked"


class MemoryExhaustedError(StyleError):
    """Out of memory after every fallback; what did fit is done."""

    exit_status = 6
    code = "memory"
