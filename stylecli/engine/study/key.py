"""`key.json`: which picture of the page is whose, and what the page was when it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylecli.artifacts.files import to_json
from stylecli.engine.study.design import Design
from stylecli.engine.study.questions import Question
from stylecli.errors import InputError

SCHEMA_VERSION = 1
KEY, PAGE, PICTURES = "key.json", "index.html", "pictures"
COPY = "content_copy"
MADE_ANEW = "copy the folder again from where `style study make` wrote it"


@dataclass(frozen=True, slots=True)
class Pair:
    """What the two pictures of an item are.

    Attributes:
        task: Id of the results, as a manifest has it.
        first: Method; A, unless the rater's place is swapped. `COPY` is the content itself.
        sha256: Of the two files they were made from.
    """

    task: str
    first: str
    second: str
    sha256: tuple[str, str]

    def chosen(self, choice: str, *, is_swapped: bool) -> str | None:
        """The method behind A or B; None is a tie."""
        if choice == "tie":
            return None
        return self.second if (choice == "B") != is_swapped else self.first


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Everything that is not for raters.

    Attributes:
        study: By which votes know their page.
        methods: Ours first.
        files: Name below the folder -> SHA-256, of the page and of its pictures.
    """

    study: str
    methods: tuple[str, ...]
    questions: tuple[Question, ...]
    ties: bool
    design: Design
    pairs: Mapping[str, Pair]
    files: Mapping[str, str]

    @property
    def ours(self) -> str:
        return self.methods[0]

    def text(self) -> str:
        """As it is written."""
        return to_json({"schema_version": SCHEMA_VERSION, **asdict(self)}) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Key:
        """The key of a study whose page and pictures are as they were made.

        Raises:
            InputError: No study, no key, or one that is damaged; a file that is missing or changed.
        """
        file = folder / KEY
        try:
            data = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            is_there = isinstance(error, ValueError)
            why = "is damaged" if is_there else getattr(error, "strerror", None) or "is missing"
            raise InputError(
                f"{file}: {why}; without the key votes say nothing", fix=MADE_ANEW
            ) from error
        try:
            if data.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError
            key = cls(**_typed(data))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file} is not a key of `style study make`", fix=MADE_ANEW) from error
        for name, expected in key.files.items():
            if _sha256(folder / name) != expected:
                state = "has changed since" if (folder / name).is_file() else "is missing"
                raise InputError(f"{folder / name} {state}: votes belong to it", fix=MADE_ANEW)
        return key


def _typed(data: dict[str, Any]) -> dict[str, Any]:
    design = data["design"]
    return data | {
        "methods": tuple(data["methods"]),
        "questions": tuple(Question(**question) for question in data["questions"]),
        "design": Design(
            seed=design["seed"],
            items=tuple(design["items"]),
            copies=tuple(design["copies"]),
            per_rater=design["per_rater"],
        ),
        "pairs": {
            item: Pair(pair["task"], pair["first"], pair["second"], tuple(pair["sha256"]))
            for item, pair in data["pairs"].items()
        },
    }


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
