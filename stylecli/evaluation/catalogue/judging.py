"""What a vision-language model says of a restyled region (RegionRoute, RSE-Score, Q1 to Q4).

It is told the style's name and shown the output alone: of a style that has no name it knows
nothing. Each question is asked of the style that was wanted (Q1, Q2) and of another one (Q3, Q4),
because a judge that says yes to everything must be found out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from stylecli.evaluation.catalogue.asking import own_pixels
from stylecli.evaluation.judges import questions
from stylecli.evaluation.judges.answers import Answer
from stylecli.evaluation.metric import Metric, NoValueError, Row, of_style

NETWORK = "qwen2.5-vl"
# Why a row has no value: never a no.
UNANSWERED = "the judge would say neither yes nor no"
# Of rows whose question is asked again in other words, one in so many.
ASKED_AGAIN = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """One of the four questions.

    Attributes:
        about: Key of `judges/questions.yaml`.
        style: The column that names the style.
    """

    about: Literal["region", "background"]
    style: Literal["style_text", "negative_style"]

    def columns(self, settings: Mapping[str, object]) -> tuple[str, ...]:
        """What it needs to be asked: who says "the object" need not know what it is."""
        is_named = self.about == "region" and settings["vlm_questions"] == "named"
        return ("region_text",) if is_named else ()

    def put(self, row: Row, *, is_turned: bool = False) -> Answer:
        """Ask it about a row's output.

        Raises:
            NoValueError: The answer was neither yes nor no.
        """
        text = questions.question(
            row.setting("vlm_questions"),
            self.about,
            object_=row.words("region_text"),
            style=row.words(self.style),
            is_turned=is_turned,
        )
        found: Answer = row.network(NETWORK).answer(own_pixels(row), text)
        if found.is_missing:
            raise NoValueError(UNANSWERED)
        return found


Q1, Q2 = Asked("region", "style_text"), Asked("background", "style_text")
Q3, Q4 = Asked("region", "negative_style"), Asked("background", "negative_style")


def hard(asked: Asked, row: Row) -> float:
    return float(asked.put(row).is_yes)


def soft(asked: Asked, row: Row) -> float:
    return asked.put(row).yes


def located(row: Row) -> float:
    """The style is where it was wanted, and not where it was not."""
    return float(Q1.put(row).is_yes and not Q2.put(row).is_yes)


def consistent(row: Row) -> float:
    """The answer to Q1 does not depend on which of yes and no is named first."""
    drawn = hashlib.blake2b(row.words("id").encode(), digest_size=8).digest()
    if int.from_bytes(drawn, "big") % ASKED_AGAIN:
        raise NoValueError(f"one row in {ASKED_AGAIN} is asked again")
    return float(Q1.put(row).is_yes == Q1.put(row, is_turned=True).is_yes)


def _of(
    name: str,
    better: Literal["higher", "lower"],
    text: str,
    asked: Asked,
    compute: Callable[[Row], float],
    *,
    columns: tuple[str, ...] = (),
    is_rate: bool = True,
) -> Metric:
    return of_style(
        name,
        better,
        text,
        version=questions.version(),
        low=0,
        high=1,
        columns=(*columns, asked.style),
        settings=("vlm_questions",),
        uses=(NETWORK,),
        compute=compute,
        is_rate=is_rate,
        also=asked.columns,
    )


_SAID = "share of outputs of which Qwen2.5-VL says"
_ASKED = {
    "vlm_q1": (Q1, "that the object is in the style"),
    "vlm_q2": (Q2, "that the background is in the style"),
    "vlm_q3": (Q3, "that the object is in another style"),
    "vlm_q4": (Q4, "that the background is in another style"),
}
ROWS = (
    *(
        _of(name, "higher" if asked is Q1 else "lower", f"{_SAID} {text}", asked,
            partial(hard, asked))
        for name, (asked, text) in _ASKED.items()
    ),
    _of("vlm_loc", "higher", f"{_SAID} yes to vlm_q1 and no to vlm_q2", Q1, located),
    *(
        _of(f"{name}_soft", "higher" if asked is Q1 else "lower",
            f"how likely Qwen2.5-VL says {text}", asked, partial(soft, asked), is_rate=False)
        for name, (asked, text) in _ASKED.items()
    ),
    _of(
        "vlm_consistency",
        "higher",
        "share of a tenth of the outputs for which vlm_q1 stays when no is named before yes",
        Q1,
        consistent,
        columns=("id",),
    ),
)  # fmt: skip
