"""The page for raters: one file that asks the network for nothing and sends nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stylecli.artifacts.files import to_json
from stylecli.engine.study.design import digest
from stylecli.engine.study.key import PICTURES
from stylecli.engine.study.pictures import SUFFIX

ASSETS = Path(__file__).resolve().parents[2] / "assets"
TITLE = "Which picture is better?"
CONSENT = (
    "I take part of my own free will, may stop at any time, and agree that my answers are used "
    "for research."
)
STUDY_DIGITS = 16
# What people take for one question, as a promise of how long it will be.
ANSWER_SECONDS = 5
STYLES = ("report/report.css", "study/study.css")


@dataclass(frozen=True, slots=True)
class Texts:
    """What people read before they begin.

    Attributes:
        instructions: Paragraphs, with an empty line between; None: the page's own.
    """

    title: str
    instructions: str | None
    consent: str


def render(
    texts: Texts, told: Mapping[str, Any], pictures: Mapping[str, bytes], *, beside: bool
) -> tuple[str, bytes]:
    """The name by which votes know the page, and the page.

    Args:
        told: For the script; pictures in it are keys of `pictures`.
    """
    # One look for all pages of ours; what differs comes after.
    style = "".join((ASSETS / name).read_text("utf-8") for name in STYLES)
    script = (ASSETS / "study/study.js").read_text("utf-8")
    environment = Environment(
        loader=FileSystemLoader(ASSETS / "study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    count = told["perRater"] + sum(told["checks"])
    # Random names sort at random: their order tells nothing either.
    sources = {name: _source(name, pictures[name], beside=beside) for name in sorted(pictures)}

    def page(study: str) -> str:
        return template.render(
            title=texts.title,
            paragraphs=[part.strip() for part in (texts.instructions or "").split("\n\n") if part],
            consent=texts.consent,
            count=count,
            minutes=max(1, round(count * len(told["questions"]) * ANSWER_SECONDS / 60)),
            ties=told["ties"],
            data=Markup(_json({**told, "study": study})),  # noqa: S704  escaped for scripts
            pictures=Markup(_json(sources)),  # noqa: S704  the same
            script=Markup(script),  # noqa: S704  ours
            style=Markup(style),  # noqa: S704  ours
            script_hash=_hash(script),
            style_hash=_hash(style),
        )

    # Of all that raters see, so that votes on one page are never counted for another.
    seen = hashlib.sha256(b"".join(pictures[name] for name in sources)).hexdigest()
    study = digest(page(""), seen)[:STUDY_DIGITS]
    return study, page(study).encode()


def _source(name: str, data: bytes, *, beside: bool) -> str:
    if beside:
        return f"./{PICTURES}/{name}{SUFFIX}"
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _json(value: object) -> str:
    """JSON that can stand in a script element; `to_json` has no letters beyond ASCII."""
    text = to_json(value)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
