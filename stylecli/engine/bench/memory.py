"""The most memory one side takes above what was there before, in a process of its own.

A process keeps memory that it once had, so sides that share one hide each other. Run as a program,
this module measures one side and prints what it found.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from stylecli.engine.bench import gallery, sides
from stylecli.engine.bench import scene as scenes
from stylecli.engine.bench.timing import Watch, wait
from stylecli.engine.session import Session
from stylecli.errors import StyleError
from stylecli.recipe.schema import Recipe

# Of a transfer; beside them there is `gallery`, under the recipe's settings of that name.
SIDES = ("ours", "plain")
# glibc hands large blocks back to the system when they are freed, so what a warm-up had is gone.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
SAMPLE_SECONDS = 0.005
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(recipe: Recipe, side: str, size: tuple[int, int], *, blank: bool = False) -> int | None:
    """Bytes above the loaded model and its LoRA while one picture is made; None: they ran out.

    Args:
        recipe: Everything about the run.
        side: One of `SIDES`, or `gallery`.
        size: Width and height in pixels.
        blank: On random weights.

    Raises:
        StyleError: The other process failed for another reason.
    """
    asked: dict[str, object] = {"recipe": recipe.model_dump(mode="json"), "side": side}
    asked |= {"size": size, "blank": blank}
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=os.environ | GIVE_BACK,
        check=False,
    )
    if done.returncode == -9:  # what the system does to who takes too much
        return None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise StyleError(f"measuring the memory of {side} failed: {said[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    return None if found is None else int(found)


def above(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that `work` takes at its peak above what is taken now; None: there are not so many."""
    gc.collect()
    wait(device)
    try:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            work()
            return torch.cuda.max_memory_allocated(device) - before
        with _resident() as read:
            work()
            return read()
    except (torch.cuda.OutOfMemoryError, MemoryError):
        return None


@contextmanager
def _resident() -> Iterator[Callable[[], int]]:
    """Bytes of this process beyond those at the start, at the most.

    Linux keeps the mark itself, and lets a process set it back. `ru_maxrss` would not do: a process
    inherits that of its parent.
    """
    if not STATUS.is_file():
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        yield lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * unit
        return
    before = _status("VmRSS")
    seen = [before]
    try:
        CLEAR.write_text("5")
        keeps_mark = True
    except OSError:
        keeps_mark = False
    with nullcontext() if keeps_mark else _sampled(seen):
        yield lambda: (_status("VmHWM") if keeps_mark else max(seen)) - before


@contextmanager
def _sampled(seen: list[int]) -> Iterator[None]:
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(SAMPLE_SECONDS):
            seen.append(_status("VmRSS"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _status(field: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


class _Silent:
    """A reporter for a process that nobody listens to."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def task(self, label: str, total: int) -> Any:
        return nullcontext(self)

    def advance(self, n: int = 1) -> None: ...


def _run(scene: scenes.Scene, side: str) -> Callable[[Watch], object]:
    if side == "gallery":
        return lambda watch: gallery.ours(scene, watch, scene.recipe.gallery)
    return sides.Plain(scene) if side == "plain" else lambda watch: sides.ours(scene, watch)


def _measured(recipe: Recipe, side: str, size: tuple[int, int], *, blank: bool) -> int | None:
    session = Session.open(recipe, _Silent(), blank=blank)
    scene = scenes.real(session.backbone, recipe, size)
    device = session.context.device
    run = _run(scene, side)

    def picture() -> None:
        watch = Watch(device)
        sides.vae(scene, watch)
        run(watch)

    # Kernels are chosen and kept at first use, which is no part of a picture.
    for rows in (1, 2, 3):
        sides.one_pass(scene, Watch(device), rows, 1)
    sides.vae(scene, Watch(device))
    return above(picture, device)


def main() -> None:
    """Read what is asked on standard input; the last line of standard output is the answer."""
    asked = json.load(sys.stdin)
    recipe = Recipe.model_validate(asked["recipe"])
    width, height = asked["size"]
    found = _measured(recipe, asked["side"], (width, height), blank=asked["blank"])
    sys.stdout.write(json.dumps({"peak_bytes": found}) + "\n")


if __name__ == "__main__":
    main()
