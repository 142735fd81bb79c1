"""A page that works from a disk: one file, whose script and style it names by their hashes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stylecli.artifacts.files import replacing, to_json
from stylecli.engine.report import words
from stylecli.engine.runs import pace
from stylecli.errors import UsageError

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "report"
# By which a page of ours is known; every template's head has it.
MARK, HEAD_BYTES = b'content="style report"', 2_000


def write(page: Path, name: str, styles: Sequence[str], told: Mapping[str, Any]) -> None:
    """Fill the template and the script of a name, with these style sheets, piece by piece.

    Raises:
        ItemError: The page cannot be written; one that was there is as it was.
    """
    script = (ASSETS / f"{name}.js").read_text("utf-8")
    style = "\n".join((ASSETS / sheet).read_text("utf-8") for sheet in styles)
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": words.moment,
        "duration": pace.duration,
        "figure": words.figure,
    }
    parts = environment.get_template(f"{name}.html.j2").generate(
        **told,
        script=Markup(script),  # noqa: S704  ours
        style=Markup(style),  # noqa: S704  ours
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    with replacing(page) as stream:
        for part in parts:
            # A name that is not valid UTF-8 is shown with question marks.
            stream.write(part.encode("utf-8", "replace"))


def check_place(page: Path) -> Path:
    """A name that a page may be written to.

    Raises:
        UsageError: It is not one of a page, or another file has it.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{page}: a report is a page", fix="give a name that ends in .html")
    if page.exists():
        with page.open("rb") as stream:
            if MARK not in stream.read(HEAD_BYTES):
                raise UsageError(
                    f"{page} exists and is not a report of ours", fix="choose another --output"
                )
    return page


def json_text(value: object) -> str:
    """JSON that can stand in a script element; `to_json` has no letters beyond ASCII."""
    text = to_json(value)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def script_data(value: object) -> Markup:
    """The same, for a template."""
    return Markup(json_text(value))  # noqa: S704  escaped for scripts


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
