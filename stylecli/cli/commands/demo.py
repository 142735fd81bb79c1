"""`style demo`: one line of every method, carried out."""

from __future__ import annotations

import shlex
from pathlib import Path

from stylecli.cli.console import console
from stylecli.cli.options import FolderOpt, examples
from stylecli.errors import ItemError


@examples("style demo", "style demo -o first-look/ -q")
def demo(output: FolderOpt = Path("style-demo")) -> None:
    """Try every method on the model that ships, in a minute or two. Run it again to resume.

    Each line is shown as you would type it, and demo.png has all results on one page.
    """
    from stylecli.artifacts import store
    from stylecli.cli.app import invoke
    from stylecli.engine import demo as steps

    folder = output.expanduser()
    steps.lay_out(folder)
    mode = {"--json": console.json, "--quiet": console.quiet, "--debug": console.debug}
    flags = [flag for flag, is_on in mode.items() if is_on]
    for number, step in enumerate(steps.STEPS, 1):
        words = step.words(folder)
        console.note(f"{number}/{len(steps.STEPS)}  $ style {shlex.join(words)}")
        invoke([*words, *flags])
        if console.counts["failed"]:
            raise ItemError(
                f"the demo ends at: style {shlex.join(words)}",
                fix="as said above, or begin anew with another --output",
            )
    target = folder / steps.SHEET
    store.save_image(target, steps.sheet(folder), {"command": "demo"})
    console.result({"output": str(target), "status": "done"})
