"""What raters are asked about the two pictures of an item."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stylecli.engine.scoring.item import Item
from stylecli.errors import InputError, UsageError

CONTENT, STYLE, OVERALL = "content", "style", "overall"
KNOWN = {
    CONTENT: "Which picture keeps more of the content?",
    STYLE: "Which picture has more of the style?",
    OVERALL: "Which picture do you like better as a whole?",
}
# How tables name them.
SHORT = {CONTENT: "content kept", STYLE: "style captured", OVERALL: "preferred overall"}
NEEDED: dict[str, Literal["content", "style"]] = {CONTENT: "content", STYLE: "style"}


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `key` is what votes call it."""

    key: str
    text: str

    @property
    def short(self) -> str:
        """For tables."""
        return SHORT.get(self.key, self.text)


def chosen(asked: Sequence[str]) -> list[Question]:
    """The questions: names of ours, or texts of one's own; all of ours by default.

    Raises:
        UsageError: One is asked twice.
    """
    own = 0
    found = []
    for text in [" ".join(text.split()) for text in asked] or KNOWN:
        if text in KNOWN:
            found.append(Question(text, KNOWN[text]))
            continue
        own += 1
        found.append(Question(f"own{own}", text))
    texts = [question.text for question in found]
    twice = next((text for at, text in enumerate(texts) if text in texts[:at]), None)
    if twice is not None:
        raise UsageError(f"the question {twice!r} is asked twice", fix="leave one out")
    return found


def check_needs(questions: Sequence[Question], items: Sequence[Item]) -> None:
    """Refuse to ask about what is not on the page.

    Raises:
        InputError: An item has no content, or no style, and a question is about it.
    """
    for question in questions:
        column = NEEDED.get(question.key)
        lacking = next((item for item in items if column and not item.has(column)), None)
        if lacking is not None:
            others = " ".join(f"--question {key}" for key in KNOWN if key != question.key)
            raise InputError(
                f"{lacking.place}  no {column}, and raters are asked about it",
                fix=f"give --{column} PATH or that column, or ask {others}",
            )


def check_silent(texts: Sequence[str], methods: Sequence[str]) -> None:
    """Refuse a text of the user's own that gives a method away.

    Raises:
        UsageError: It names one.
    """
    for text in texts:
        for method in methods:
            if re.search(rf"(?<!\w){re.escape(method)}(?!\w)", text, re.IGNORECASE):
                raise UsageError(
                    f"{text!r} names the method {method!r}, and raters would read it",
                    fix="say it in other words",
                )
