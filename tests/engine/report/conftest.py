"""Folders as runs leave them, made by hand, and a browser to read the page with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from stylecli.engine.report import page
from tests.cli.conftest import draw

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


LOCAL = ("file:", "data:")


class Nobody:
    """A reporter that nobody hears."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Nobody]:
        yield self

    def advance(self, n: int = 1) -> None: ...


@dataclass
class Run:
    """A folder of outputs with its journal."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        name: str,
        *inputs: tuple[str, Path],
        status: str = "done",
        recipe: Mapping[str, Any] | None = None,
        picture: bool = True,
        **more: Any,
    ) -> Path:
        """One item; its result is a picture of its own unless it failed."""
        seed = len(self.rows)
        file = self.folder / name
        if status == "done" and picture:
            note = PngImagePlugin.PngInfo()
            note.add_text("style", json.dumps({"recipe": recipe or {}, "model": {"id": "tiny"}}))
            draw(file, seed + 100, (60, 40))
            with Image.open(file) as image:
                image.save(file, pnginfo=note)
        named = [{"role": role, "name": path.name, "sha256": sha256(path)} for role, path in inputs]
        self.rows.append(
            {
                "finished": f"2026-03-04T05:{seed // 60 % 60:02d}:{seed % 60:02d}.000+00:00",
                "schema_version": 1,
                "key": hashlib.sha256(f"{name}{seed}".encode()).hexdigest(),
                "command": "transfer",
                "status": status,
                "output": name,
                "seconds": 1.5 + seed,
                "seed": 2**62 + seed,
                "inputs": named,
                "error": None,
                "details": {},
                **more,
            }
        )
        return file

    def save(self, *others: Mapping[str, Any], name: str = "runs.jsonl") -> Path:
        lines = [json.dumps(row) for row in [*others, *self.rows]]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text("\n".join(lines) + "\n")
        return self.folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "f" * 64


def write(outputs: Sequence[Path], **wanted: Any) -> Path:
    """A report; returns its page."""
    asked = page.Wanted(outputs=[str(one) for one in outputs], **wanted)
    return page.write(asked, Nobody()).page


def data(made: Path, name: str = "data") -> Any:
    """What the page holds for its script."""
    text = made.read_text("utf-8")
    start = text.index(f'<script type="application/json" id="{name}">')
    inner = text[text.index(">", start) + 1 : text.index("</script>", start)]
    return json.loads(inner)


def failure(what: str, fix: str = "copy it again", code: str = "image") -> dict[str, Any]:
    return {"status": "failed", "error": {"code": code, "what": what, "fix": fix}}


def many(folder: Path, count: int) -> Path:
    """A run of so many items that share a few pictures, every tenth of them failed."""
    run = Run(folder)
    contents = [draw(folder / "in" / f"photo {n}.png", n) for n in range(10)]
    styles = [draw(folder / "in" / f"look {n}.png", 50 + n) for n in range(5)]
    digests = {path: sha256(path) for path in [*contents, *styles]}
    random = np.random.default_rng(0)
    first = draw(folder / "out-0.png", 777)
    known = sha256(first)
    for n in range(count):
        content, style = contents[n % 10], styles[n % 5]
        name = f"out-{n}.png"
        clock = f"{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}"
        if n:
            (folder / name).hardlink_to(first)
        error = {"code": "image", "what": f"photo {n}.png is damaged", "fix": "copy it again"}
        run.rows.append(
            {
                "finished": f"2026-03-04T{clock}+00:00",
                "key": hashlib.sha256(name.encode()).hexdigest(),
                "command": "transfer" if n % 3 else "switch",
                "status": "failed" if n % 10 == 9 else "done",
                "output": name,
                "seconds": float(random.uniform(1, 60)),
                "seed": n,
                "inputs": [
                    {"role": "content", "name": content.name, "sha256": digests[content]},
                    {"role": "style", "name": style.name, "sha256": digests[style]},
                ],
                "error": error if n % 10 == 9 else None,
                "details": {"kept": float(random.random())},
                "sha256": known,
                "bytes": first.stat().st_size,
            }
        )
    return run.save()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, with nothing that would go to the network by itself."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("this machine has no chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Browser) -> Iterator[Any]:
    """Open a page of ours; whatever it asks for beyond files, or complains of, fails the test."""
    pages: list[Page] = []
    wrong: list[str] = []

    def opened(made: Path, *, complains: bool = True, **options: Any) -> Page:
        one = browser.new_page(**options)
        pages.append(one)
        one.on("pageerror", lambda error: wrong.append(str(error)))
        if complains:
            one.on("console", lambda said: said.type == "error" and wrong.append(said.text))
            one.on("request", lambda asked: asked.url[:5] in LOCAL or wrong.append(asked.url))
        one.goto(made.absolute().as_uri())
        one.wait_for_selector("#items > *")
        return one

    yield opened
    for one in pages:
        one.close()
    assert wrong == []
