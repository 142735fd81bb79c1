"""Job arrays: what was typed reaches every task, and the tasks' parts are all of the work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.runs import shards, slurm
from stylecli.errors import UsageError

SBATCH = """\
#!{python}
import os, pathlib, re, subprocess, sys
assert sys.argv[1] == "--parsable" and len(sys.argv) == 3
text = pathlib.Path(sys.argv[2]).read_text()
assert subprocess.run(["bash", "-n", sys.argv[2]]).returncode == 0
last = int(re.search("^#SBATCH --array=1-(.+)$", text, re.M)[1])
for task in range(1, last + 1):
    array = dict(TASK_ID=task, TASK_MIN=1, TASK_MAX=last, TASK_COUNT=last)
    slurm = {{f"SLURM_ARRAY_{{name}}": str(number) for name, number in array.items()}}
    environ = os.environ | slurm
    subprocess.run(["bash", sys.argv[2]], env=environ, check=True, stdin=subprocess.DEVNULL)
print("4711;somewhere")
"""
PYTHON = """\
#!{python}
import json, os, pathlib, sys
assert sys.argv[1:3] == ["-m", "stylecli"]
slurm = {{name: value for name, value in os.environ.items() if name.startswith("SLURM_")}}
said = json.dumps([sys.argv[3:], slurm])
pathlib.Path("tasks", os.environ["SLURM_ARRAY_TASK_ID"]).write_text(said)
"""
SAID = '#!/bin/sh\nprintf \'%s\\0\' "$@" > "$SAID"\n'

Program = Callable[[str, str], None]

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
own = slurm.OPTIONS | slurm.FLAGS | slurm.STDIN | {"--"}
typed = words.filter(
    lambda word: word.partition("=")[0] not in own and not re.match("--shard|-[0q]*n", word)
)
left_out = st.sampled_from(
    [
        ["--submit", "slurm"],
        ["--submit=slurm"],
        ["--tasks", "8"],
        ["--tasks=8"],
        ["--sbatch", "--gres=gpu:1"],
        ["--sbatch=mem=8G"],
        ["--dry-run"],
        ["-n"],
    ]
)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a program of our own on the path, alone with bash."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.defpath}")
    monkeypatch.chdir(tmp_path)

    def make(name: str, text: str) -> None:
        file = bin_folder / name
        file.write_text(text.format(python=sys.executable) if "python" in text else text)
        file.chmod(0o755)

    return make


def read_by_slurm(line: str) -> str:
    """The argument of a ``#SBATCH`` line as Slurm's own parser takes it apart."""
    assert line.startswith("#SBATCH ")
    rest, argument, quote = list(line.removeprefix("#SBATCH ")), "", ""
    while rest:
        char = rest.pop(0)
        if char == "\\":
            argument += rest.pop(0)
        elif quote:
            argument, quote = (argument, "") if char == quote else (argument + char, quote)
        elif char in "\"'":
            quote = char
        elif char.isspace() or char == "#":
            return argument
        else:
            argument += char
    return argument


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("#SBATCH ")]


@pytest.mark.slow
def test_every_task_gets_what_was_typed_and_a_part_of_its_own(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("sbatch", SBATCH)
    program("python", PYTHON)
    monkeypatch.setattr(slurm.sys, "executable", str(tmp_path / "bin" / "python"))
    (tmp_path / "tasks").mkdir()
    argv = ["transfer", "my photos/ä'\"$HOME`ls`.png", "-o", "out dir/", "--submit", "slurm",
            "--tasks", "3", "--sbatch=mem=8G", "--set", "sampling.prompt=a\nb", "--",
            "-dash.png", "--dry-run"]  # fmt: skip
    folder = Path("out dir")
    text = slurm.script(argv, tasks=3, options=["mem=8G"], name="x", folder=folder)
    assert slurm.submit(text, folder) == "4711"
    parts = []
    for task in ("1", "2", "3"):
        said, environ = json.loads((tmp_path / "tasks" / task).read_text())
        assert said == ["transfer", argv[1], "-o", "out dir/", "--set", "sampling.prompt=a\nb",
                        "--shard", "auto", "--", "-dash.png", "--dry-run"]  # fmt: skip
        parts.append(shards.parse("auto", environ))
    assert parts == [(1, 3), (2, 3), (3, 3)]
    assert (folder / slurm.LOGS).is_dir(), "Slurm does not make it"


@pytest.mark.slow
@given(pieces=st.lists(st.one_of(left_out, typed.map(lambda word: [word])), max_size=8))
def test_any_words_survive_the_shell_and_what_speaks_of_submitting_does_not(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("bash")
    (folder / "python").write_text(SAID)
    (folder / "python").chmod(0o755)
    argv = [word for piece in pieces for word in piece]
    kept = [piece[0] for piece in pieces if piece[0].partition("=")[0] not in own | {"-n"}]
    with pytest.MonkeyPatch.context() as here:
        here.setattr(slurm.sys, "executable", str(folder / "python"))
        text = slurm.script(["transfer", *argv], tasks=1, options=[], name="x", folder=Path("out"))
    environ = {"PATH": f"{folder}{os.pathsep}{os.defpath}", "SAID": str(folder / "said")}
    subprocess.run(["bash", "-c", text], env=environ, check=True)
    said = (folder / "said").read_bytes().decode().split("\0")[:-1]
    assert said == ["-m", "stylecli", "transfer", *kept, "--shard", "auto"]


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("-n", []),
        ("-qn", ["-q"]),
        ("-nq", ["-q"]),
        ("-0nq", ["-0q"]),
        ("-qno", ["-qo"]),
        # What follows a letter that takes a value is the value.
        ("-on", ["-on"]),
        ("-qon", ["-qon"]),
        ("-nnnn", []),
        ("--name", ["--name"]),
    ],
)
def test_flags_of_one_letter_are_told_apart_in_one_word(word: str, kept: list[str]) -> None:
    text = slurm.script(["invert", word], tasks=1, options=[], name="x", folder=Path("out"))
    line = text.splitlines()[-1].removeprefix("exec ")
    assert shlex.split(line)[3:] == ["invert", *kept, "--shard", "auto"]


@pytest.mark.slow
@given(
    name=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=20),
    folder=st.text(st.sampled_from("aé %#'\"$(-"), min_size=1, max_size=12),
)
def test_slurm_reads_the_names_that_were_meant(name: str, folder: str) -> None:
    text = slurm.script(["transfer"], tasks=1, options=[], name=name, folder=Path(folder))
    job_name, _, output = map(read_by_slurm, lines(text))
    assert job_name == f"--job-name={name}"
    means = {"%%": "%", "%A": "7", "%a": "1"}
    file = re.sub("%.", lambda found: means[found[0]], output.removeprefix("--output="))
    assert file == f"{Path(folder)}/{slurm.LOGS}/7_1.log"


def test_options_follow_what_is_decided_here_so_that_they_win() -> None:
    text = slurm.script(
        ["invert"],
        tasks=40,
        options=["array=1-40%8", "--gres=gpu:1", "-p fast"],
        name="x",
        folder=Path("out"),
    )
    assert lines(text)[1] == "#SBATCH --array=1-40"
    assert lines(text)[3:] == [
        "#SBATCH --array=1-40%8",
        "#SBATCH --gres=gpu:1",
        "#SBATCH -p fast",
    ]
    assert text.index("#SBATCH -p fast") < text.index("set -euo pipefail\nexec ")


@pytest.mark.parametrize(
    ("argv", "tasks", "options", "what"),
    [
        (["x"], 1, ["mem=8G\ntouch here"], "line break"),
        (["x"], 1, ["mem=8G\rtouch here"], "line break"),
        (["x"], 1, [" -- "], "empty"),
        (["x"], 0, [], "--tasks 0"),
        (["x", "--shard", "1/2"], 1, [], "--shard"),
        (["x", "--shard=1/2"], 1, [], "--shard"),
        (["x", "-"], 1, [], "stdin"),
        (["x", "--", "-"], 1, [], "stdin"),
        (["x", "--prompts", "-"], 1, [], "stdin"),
        (["x", "--prompts=-"], 1, [], "stdin"),
    ],
)
def test_what_cannot_be_one_array_is_refused(
    argv: list[str], tasks: int, options: list[str], what: str
) -> None:
    with pytest.raises(UsageError, match=what) as refused:
        slurm.script(argv, tasks=tasks, options=options, name="x", folder=Path("out"))
    assert refused.value.fix


def test_a_folder_that_would_break_a_line_is_refused() -> None:
    with pytest.raises(UsageError, match="line break"):
        slurm.script(["x"], tasks=1, options=[], name="x", folder=Path("a\n#SBATCH --uid=0"))


def test_without_slurm_the_script_is_written_and_the_user_told_how(
    program: Program, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no sbatch on this machine") as refused:
        slurm.submit("#!/bin/bash\n", Path("out dir"))
    assert refused.value.fix.endswith(f"sbatch {shlex.quote('out dir/submit.sbatch')}")
    assert (tmp_path / "out dir" / "submit.sbatch").read_text() == "#!/bin/bash\n"


def test_a_refusal_of_slurm_is_told_in_its_words(program: Program) -> None:
    program("sbatch", "#!/bin/sh\necho 'sbatch: error: no partition x' >&2; exit 1\n")
    with pytest.raises(UsageError, match="no partition x") as refused:
        slurm.submit("#!/bin/bash\n", Path("out"))
    assert "sbatch out/submit.sbatch" in refused.value.fix
