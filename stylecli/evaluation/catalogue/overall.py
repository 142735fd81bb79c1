"""One number for a method beside the others: the mean of what all other metrics say.

Which metrics those are is the choice of whoever runs them, and several that ask the same thing
count as often as they are asked.
"""

from __future__ import annotations

from stylecli.evaluation.metric import Metric

OVERALL, OVERALL_Z = "overall", "overall_z"


def _of(name: str, text: str) -> Metric:
    return Metric(
        name=name,
        better="higher",
        definition=text,
        kind="overall",
        columns=(),
        settings=(),
    )


ROWS = (
    _of(OVERALL, "mean of the other metrics, each from 0 (worst method) to 1 (best)"),
    _of(OVERALL_Z, "mean of the other metrics, each in deviations between methods"),
)
