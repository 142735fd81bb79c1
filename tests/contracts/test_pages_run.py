"""Pages to follow from top to bottom: every block of them runs, in order, in one empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What a page needs that a reader brings along: file -> an example of ours, or how it is made.
BROUGHT = {
    "tutorial.md": {},
    "interop.md": {
        "photo.png": "docs/images/chelsea.png",
        "from-the-net.safetensors": "stylecli/assets/experts/pocket/pixel_art.safetensors",
    },
}
# Pages whose LoRA comes from an earlier page.
PREPARED = {"interop.md": "style train-lora photo.png -o brush.safetensors"}
# The same commands, with less to do.
QUICK = {
    "STYLE_LORA__STEPS": "2",
    "STYLE_LORA__RESOLUTION": "64",
    "STYLE_LORA__CROP_PX": "64",
    "STYLE_SAMPLING__SIZE": "64",
    "STYLE_GALLERY__STEPS": "2",
}


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", BROUGHT)
def test_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    program = tools / "style"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stylecli "$@"\n')
    program.chmod(0o755)
    folder = tmp_path / "reader"
    folder.mkdir()
    for name, source in BROUGHT[page].items():
        shutil.copyfile(ROOT / source, folder / name)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    world = os.environ | QUICK | {"PATH": path, "PYTHONPATH": str(ROOT)}
    if page in PREPARED:
        subprocess.run(["sh", "-ec", PREPARED[page]], cwd=folder, env=world, check=True)
    for kind, block in blocks(page):
        runner = ["sh", "-ec"] if kind == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*runner, block], cwd=folder, env=world, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    lines = "".join(block for kind, block in blocks(page) if kind == "sh").splitlines()
    typed = "\n".join(line for line in lines if "--dry-run" not in line)
    for name in re.findall(r" -o ([\w.-]+\.(?:png|safetensors|html))\b", typed):
        assert (folder / name).stat().st_size, name


def test_messages_of_the_page_on_trouble_are_said() -> None:
    """What stands in bold code there begins, or goes on, a message of the program."""
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "stylecli").rglob("*.py"))
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\*\*`([^`]+)`\*\*", page, re.MULTILINE)
    others = {"operator torchvision::nms does not exist", "style: command not found"}
    ours = [message for message in messages if message not in others]
    assert len(ours) > 5
    assert [message for message in ours if message not in source] == []
