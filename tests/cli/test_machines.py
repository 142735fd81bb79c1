"""What programs are told of a run: an event log, figures for Prometheus, a word after a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stylecli import __version__
from stylecli.cli import events, notify, prometheus
from stylecli.cli.app import COMMANDS, main
from stylecli.cli.console import console
from stylecli.errors import LockedError, StyleError
from tests.cli.conftest import draw, start
from tests.conftest import ROOT, Outcome, Style

pytestmark = pytest.mark.slow

UNATTENDED = ["transfer", "mask-transfer", "switch", "gallery", "masks", "generate", "train-lora",
              "invert", "analyze features", "i2l-predict", "i2l-train", "route-apply",
              "route-train"]  # fmt: skip
Row = dict[str, Any]
Ends = Callable[[], object]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not console.is_heard, "a listener was left open"


@dataclass
class Work:
    """Stands in for the engine: yields rows, then ends somehow."""

    statuses: list[str] = field(default_factory=lambda: ["done"])
    end: Ends = lambda: None
    begun: int = 0

    def prepare(self, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(
            plan=SimpleNamespace(jobs=self.statuses),
            notes=["as understood"],
            todo=lambda: len(self.statuses) - self.statuses.count("skipped"),
            run=self.run,
        )

    def run(self) -> Iterator[SimpleNamespace]:
        self.begun += 1
        for number, status in enumerate(self.statuses):
            error = {"code": "image", "what": f"{number}.png is torn", "fix": "mend it"}
            row = {
                "status": status,
                "output": f"out/{number}.png",
                "error": error if status == "failed" else None,
            }
            yield SimpleNamespace(
                row=lambda row=row: row, status=status, job=SimpleNamespace(output=row["output"])
            )
        self.end()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """What `style invert` does instead of inverting."""
    stand_in = Work()
    monkeypatch.setattr("stylecli.engine.commands.invert", stand_in.prepare)
    return stand_in


@pytest.fixture
def invert(style: Style, work: Work) -> Callable[..., Outcome]:
    return lambda *more: style("invert", "a.png", "-o", "out/", *more)


def raising(error: BaseException) -> Ends:
    def end() -> object:
        raise error

    return end


def receiving(number: int) -> Ends:
    return lambda: os.kill(os.getpid(), number)


def read(log: Path) -> list[Row]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def figures(file: Path) -> dict[tuple[str, ...], float]:
    """Name and the values of its labels -> figure."""
    families = text_string_to_metric_families(file.read_text(encoding="utf-8"))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


# The event log.


def test_a_log_tells_the_run_from_start_to_summary(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    work.statuses = ["done", "skipped", "failed", "pending"]
    log = tmp_path / "events.jsonl"
    assert invert("--log-json", log).status == 3
    told = read(log)
    assert [row["event"] for row in told] == [
        "start", "note", "plan", "item", "item", "note", "summary"
    ]  # fmt: skip
    assert {row["schema_version"] for row in told} == {1}
    assert len({row["invocation"] for row in told}) == 1
    assert [row["time"] for row in told] == sorted(row["time"] for row in told)
    begin, _, plan, *items, _, summary = told
    assert (begin["command"], begin["version"]) == ("invert", __version__)
    assert (plan["items"], plan["todo"]) == (4, 3)
    assert [row["status"] for row in items] == ["done", "failed"]
    assert items[1]["error"]["what"] == "2.png is torn"
    assert summary["counts"] == {"done": 1, "skipped": 1, "failed": 1, "pending": 1, "items": 4}
    assert summary["error"] == {"code": "items_failed"}
    assert summary["seconds"] >= 0


def test_a_log_grows_by_what_was_done_and_not_by_what_there_is(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    log = tmp_path / "events.jsonl"
    sizes = []
    for count in (1, 500):
        log.unlink(missing_ok=True)
        work.statuses = [*["skipped"] * count, *["pending"] * count]
        assert invert("--log-json", log).status == 0
        assert read(log)[-1]["counts"] == {"skipped": count, "pending": count, "items": 2 * count}
        sizes.append(log.stat().st_size)
    assert sizes[1] - sizes[0] < 30


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (lambda: None, 0, None),
        (raising(LockedError("held", fix="wait")), 5, "locked"),
        (raising(StyleError("odd")), 1, "unexpected"),
        (raising(RuntimeError("odd")), 1, "unexpected"),
        (raising(BrokenPipeError(32, "Broken pipe")), 1, "unexpected"),
        (raising(SystemExit(0)), 1, "unexpected"),
        (raising(KeyboardInterrupt()), 130, "interrupted"),
        (receiving(signal.SIGINT), 130, "interrupted"),
        (receiving(signal.SIGTERM), 143, "interrupted"),
        (receiving(signal.SIGHUP), 143, "interrupted"),
    ],
)
def test_however_a_run_ends_there_is_one_summary_and_it_is_last(
    end: Ends,
    status: int,
    code: str | None,
    invert: Callable[..., Outcome],
    work: Work,
    tmp_path: Path,
) -> None:
    work.end = end
    log = tmp_path / "events.jsonl"
    done = invert("--log-json", log, "--json")
    told = read(log)
    assert [row["event"] for row in told].count("summary") == 1
    last = told[-1]
    assert done.status == status == last["exit_status"] == done.summary["exit_status"]
    assert (last["error"] or {}).get("code") == code
    assert last["counts"] == {"done": 1, "items": 1}


@pytest.mark.parametrize(
    "line",
    [
        "invert --nonsense --log-json {log} -o out/",
        "invert --log-json={log}",
        "invert a.png -o out/ --log-json {log} --limit many",
        "transfer --strip --log-json {log} -o",
        "transfer a.png -o out/ --log-json {log} --notify '",
        "generate --count 0 --log-json {log} -o x.png",
        "invert a.png -o out/ -qn --log-json {log} --prometheus {folder}/none/x.prom",
    ],
)
def test_a_line_that_is_refused_has_a_summary_too(line: str, style: Style, tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    words = line.format(log=log, folder=tmp_path).split()
    assert style(*words).status == 2
    told = read(log)
    assert [row["event"] for row in told] == ["start", "error", "summary"]
    assert (told[0]["command"], told[2]["exit_status"]) == (words[0], 2)
    assert told[2]["error"]["what"] == told[1]["what"]


def test_a_log_is_only_what_follows_its_option(
    invert: Callable[..., Outcome], style: Style, tmp_path: Path
) -> None:
    picture = draw(tmp_path / "a.png")
    before = picture.read_bytes()
    # Typer reads the second word as the value of --name, and so must whoever looks ahead.
    assert invert("--name", "--log-json", picture).status == 0
    assert invert("--", "--log-json", picture).status == 0
    assert style("recipes", "list", "--log-json", picture).status == 2
    assert picture.read_bytes() == before


@given(st.lists(st.sampled_from(
    ["invert", "a", "-o", "-", "--", "--json", "--log-json", "--limit", "-q0n", "--notify", "'",
     "--prometheus", "--help", "--engine", "--=", "--name=", "", "é"]
)))  # fmt: skip
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_is_too_odd_to_look_ahead_in(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    capsys.readouterr()
    # Always wrong, so that nothing is done and no file is made.
    status = main(["invert", *words, "--no-such-option"])
    said = capsys.readouterr().err
    assert status in (0, 2)
    assert "Traceback" not in said
    assert "unexpected" not in said


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none/events.jsonl", "cannot be written: No such file or directory"),
        ("folder", "cannot be written: Is a directory"),
        ("runs.jsonl", "has the name of a journal"),
        ("runs-1-of-2.jsonl", "has the name of a journal"),
    ],
)
def test_a_log_that_cannot_be_is_refused_before_the_work(
    name: str, what: str, invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    done = invert("--log-json", tmp_path / name, "--json")
    assert (done.status, work.begun) == (2, 0)
    assert done.err.splitlines()[0] == f"error  --log-json {tmp_path / name} {what}"
    assert done.summary["error"]["code"] == "usage"


def test_standard_output_is_no_event_log(style: Style) -> None:
    done = style("invert", "a.png", "-o", "out/", "--log-json", "-")
    assert (done.status, "name a file" in done.err) == (2, True)
    assert not Path("-").exists()


WRITER = """
import sys
from pathlib import Path
from stylecli.cli.events import EventLog
log = EventLog(Path(sys.argv[1]), print)
for number in range(400):
    log.hear("note", {"number": number, "text": sys.argv[2] * 3000})
log.close()
"""


def test_lines_of_two_processes_never_mix(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    command = [sys.executable, "-c", WRITER, str(log)]
    writers = [subprocess.Popen([*command, letter], cwd=ROOT) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    for letter in "ab":
        rows = [row for row in read(log) if row["text"] == letter * 3000]
        assert [row["number"] for row in rows] == list(range(400))
        assert len({row["invocation"] for row in rows}) == 1
    assert len(read(log)) == 800


def test_a_disk_that_was_full_costs_lines_but_tears_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    log = events.EventLog(path := tmp_path / "events.jsonl", said.append)
    log.hear("note", {"text": "first"})
    real = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, data: real(file, data[:7]))
        log.hear("note", {"text": "torn"})
        log.hear("note", {"text": "torn too"})
    log.hear("note", {"text": "last"})
    log.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in (lines[0], lines[-1])] == ["first", "last"]
    assert said == [f"--log-json {path} cannot be written: No space left on device"]


def test_of_several_processes_for_one_piece_of_work_the_first_speaks(
    invert: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, text)
    log = tmp_path / "events.jsonl"
    for shard in ((), ("--shard", "2/2")):
        assert invert("--log-json", log, *shard).status == 0
        assert not log.exists()
    assert invert("--log-json", log, "--shard", "auto").status == 0
    assert read(log)[-1]["event"] == "summary"
    log.unlink()
    # In an array it is the tasks that have parts, and the launcher's processes help with one.
    for name, text in {"ID": "0", "MIN": "0", "MAX": "3", "COUNT": "4"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", text)
    assert invert("--log-json", log, "--shard", "auto").status == 0
    assert not log.exists()


# Signals.


def test_a_second_signal_leaves_the_clean_up_alone(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    steps = []

    def end() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(os.getpid(), number)
                steps.append(number)

    work.end = end
    log = tmp_path / "events.jsonl"
    assert invert("--log-json", log).status == 143
    assert len(steps) == 3
    assert [row["event"] for row in read(log)].count("summary") == 1
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_to_be_ignored_stays_ignored(invert: Callable[..., Outcome], work: Work) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        work.end = receiving(signal.SIGHUP)
        assert invert().status == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def closed_end() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("ending", ["2>&- >&- <&-", "2>&{pipe} >&{pipe}"])
def test_nobody_left_to_hear_loses_no_summary(ending: str, tmp_path: Path) -> None:
    log, pipe = tmp_path / "events.jsonl", closed_end()
    line = f"'{sys.executable}' -m stylecli invert --nonsense --log-json '{log}' --json "
    done = subprocess.run(
        ["bash", "-c", line + ending.format(pipe=pipe)], cwd=ROOT, pass_fds=[pipe], check=False
    )
    os.close(pipe)
    assert done.returncode == 2
    assert [row["event"] for row in read(log)] == ["start", "error", "summary"]


def test_a_closed_terminal_ends_a_run_well(recipe: Path, tmp_path: Path) -> None:
    painting, log = draw(tmp_path / "painting.png"), tmp_path / "events.jsonl"
    process = start("train-lora", painting, "-o", tmp_path / "x.safetensors", "-r", recipe,
                    "--steps", "5000", "--log-json", log)  # fmt: skip
    while not (tmp_path / ".x.safetensors.state.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 143
    told = read(log)
    assert [row["event"] for row in told if row["event"] in ("plan", "summary")] == [
        "plan", "summary"
    ]  # fmt: skip
    assert told[-1]["exit_status"] == 143
    assert not list(tmp_path.glob("*.part"))


# Prometheus.


def test_figures_are_those_of_the_run(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    work.statuses = ["done", "done", "skipped", "failed", "pending"]
    file = tmp_path / "style.prom"
    assert invert("--prometheus", file, "--shard", "2/8").status == 3
    assert [path.name for path in tmp_path.iterdir()] == ["style-2-of-8.prom"]
    told = figures(tmp_path / "style-2-of-8.prom")
    own = ("invert", "out/", "2/8")
    counts = {status: told["style_items", *own, status]
              for status in ("done", "skipped", "failed", "pending")}  # fmt: skip
    assert counts == {"done": 2, "skipped": 1, "failed": 1, "pending": 1}
    assert told["style_exit_status", *own] == 3
    assert told["style_run_seconds", *own] > 0
    assert told["style_items_per_minute", *own] > 0
    assert ("style_last_success_timestamp_seconds", *own) not in told


def test_two_jobs_of_one_command_are_two_series(style: Style, work: Work, tmp_path: Path) -> None:
    outputs = [f"{tmp_path}/a/", f"{tmp_path}/b\udcff/"]
    for number, output in enumerate(outputs):
        file = tmp_path / f"{number}.prom"
        assert style("invert", "a.png", "-o", output, "--prometheus", file).status == 0
    series = [set(figures(tmp_path / f"{number}.prom")) for number in range(2)]
    assert series[0]
    assert not series[0] & series[1]


def test_a_run_that_is_refused_because_another_works_leaves_its_figures_alone(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    file = tmp_path / "style.prom"
    before: list[str] = []

    def meanwhile() -> None:
        before.append(file.read_text())
        work.statuses, work.end = [], raising(LockedError("held"))
        assert main(["invert", "a.png", "-o", "out/", "--prometheus", str(file)]) == 5
        assert file.read_text() == before[0]

    work.end = meanwhile
    assert invert("--prometheus", file).status == 0
    assert 'status="done"} 1.0' in before[0]


def test_a_help_page_writes_no_figures(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    file = tmp_path / "style.prom"
    for page in ("--help", "-h", "--help-all"):
        assert invert("--prometheus", file, page).status == 0
    assert not file.exists()
    work.statuses = []
    assert invert("--prometheus", file).status == 0
    assert file.exists(), "a night without anything to do is a success"


def test_the_last_success_outlives_failures_and_the_time_of_the_run_does_not(
    invert: Callable[..., Outcome],
    work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(prometheus.time, "time", lambda: now[0])
    file = tmp_path / "style.prom"
    assert invert("--prometheus", file).status == 0
    now[0] = 2000.0
    during: list[dict[tuple[str, ...], float]] = []
    work.end = lambda: during.append(figures(file)) or raising(StyleError("odd"))()
    assert invert("--prometheus", file).status == 1
    assert during[0]["style_exit_status", "invert", "out/"] == 0
    told = figures(file)
    assert told["style_exit_status", "invert", "out/"] == 1
    assert told["style_last_success_timestamp_seconds", "invert", "out/"] == 1000
    assert told["style_last_run_timestamp_seconds", "invert", "out/"] == 2000
    assert invert("--prometheus", file, "--nonsense").status == 2
    assert figures(file)["style_exit_status", "invert", "out/"] == 2
    assert figures(file)["style_last_success_timestamp_seconds", "invert", "out/"] == 1000


def test_a_run_that_makes_nothing_is_no_success(
    invert: Callable[..., Outcome], style: Style, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylecli.cli.dry_run.show", lambda *_: None)
    file = tmp_path / "style.prom"
    assert invert("--prometheus", file, "--dry-run").status == 0
    assert style("invert", "a.png", "-o", tmp_path, "--prometheus", file, "--submit", "slurm",
                 "--shard", "1/2").status == 2  # fmt: skip
    assert not file.exists()


@pytest.mark.parametrize("former", [b"", b"\xff\xfe", b"style_exit_status{", b"x 1 2 3 4\n", b"{"])
def test_a_file_of_something_else_is_replaced(
    former: bytes, invert: Callable[..., Outcome], tmp_path: Path
) -> None:
    (file := tmp_path / "style.prom").write_bytes(former)
    assert invert("--prometheus", file).status == 0
    assert figures(file)["style_exit_status", "invert", "out/"] == 0


def test_a_file_is_written_at_most_every_15_seconds_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], []
    monkeypatch.setattr(prometheus.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(prometheus, "write_atomic", lambda path, data: written.append(now[0]))
    textfile = prometheus.Textfile(tmp_path / "x.prom", {"command": "invert"}, print)
    textfile.hear("plan", {"items": 100, "todo": 100})
    for second in range(100):
        now[0] = float(second)
        textfile.hear("item", {"status": "done"})
    textfile.close()
    assert written == [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0, 99.0]


def test_a_file_that_cannot_be_written_is_refused_before_and_a_warning_later(
    invert: Callable[..., Outcome], work: Work, tmp_path: Path
) -> None:
    for file in (tmp_path, tmp_path / "none" / "x.prom"):
        done = invert("--prometheus", file)
        assert (done.status, work.begun) == (2, 0)
        assert done.err.startswith("error  --prometheus: ")
    file = tmp_path / "x.prom"

    def spoil() -> None:
        file.unlink()
        (file / "full").mkdir(parents=True)

    work.end = spoil
    done = invert("--prometheus", file)
    assert done.status == 0
    assert done.err.count("warning  --prometheus: ") == 1


# A word after a failure.


@pytest.fixture
def teller(tmp_path: Path) -> str:
    """A program that keeps what it was told."""
    script = tmp_path / "tell me.py"
    script.write_text(
        "import json, os, sys\n"
        "print('mailed')\n"
        "told = {'summary': json.load(sys.stdin), 'words': sys.argv[1:],\n"
        "        'environ': [os.environ['STYLE_EXIT_STATUS'], os.environ['STYLE_COMMAND']]}\n"
        f"json.dump(told, open({str(tmp_path / 'told.json')!r}, 'w'))\n",
        encoding="utf-8",
    )
    return f"'{sys.executable}' '{script}' 'a b' '$HOME' ';'"


@pytest.mark.parametrize(
    ("end", "more", "status"),
    [
        (raising(LockedError("held", fix="wait")), (), 5),
        (receiving(signal.SIGTERM), (), 143),
        (raising(RuntimeError("odd")), (), 1),
        (lambda: None, ("--nonsense",), 2),
        (lambda: None, ("--log-json", "none/x.jsonl"), 2),
    ],
)
def test_a_program_is_told_of_every_failure(
    end: Ends,
    more: tuple[str, ...],
    status: int,
    teller: str,
    invert: Callable[..., Outcome],
    work: Work,
    tmp_path: Path,
) -> None:
    work.end = end
    done = invert("--notify", teller, "--json", *more)
    told = json.loads((tmp_path / "told.json").read_text())
    assert done.status == status == told["summary"]["exit_status"]
    assert told["environ"] == [str(status), "invert"]
    assert told["words"] == ["a b", "$HOME", ";"]
    assert told["summary"]["error"] == done.summary["error"]
    assert "mailed" not in done.out


@pytest.mark.parametrize(("end", "status"), [(lambda: None, 0), (receiving(signal.SIGINT), 130)])
def test_a_program_is_not_told_of_what_is_no_failure(
    end: Ends,
    status: int,
    teller: str,
    invert: Callable[..., Outcome],
    work: Work,
    tmp_path: Path,
) -> None:
    work.end = end
    assert invert("--notify", teller).status == status
    assert not (tmp_path / "told.json").exists()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("false", "--notify: false ended with status 1"),
        ("/no/such/thing", "--notify: /no/such/thing did not start: No such file or directory"),
        ("sh -c '(sleep 1; touch late) & sleep 60'", "--notify: sh was stopped after 0 s"),
    ],
)
def test_its_own_trouble_is_a_warning_and_changes_nothing(
    program: str,
    said: str,
    invert: Callable[..., Outcome],
    work: Work,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "LIMIT_SECONDS", 0.4)
    work.statuses = ["failed"]
    log = tmp_path / "events.jsonl"
    done = invert("--notify", program, "--log-json", log)
    assert done.status == 3
    assert done.err.splitlines()[-1] == f"warning  {said}"
    assert [row["event"] for row in read(log)][-2:] == ["summary", "warning"]
    if "late" in program:
        time.sleep(1.0)
        assert not Path("late").exists(), "what the program started goes on"


def test_a_program_that_is_not_there_is_said_before_the_work(
    invert: Callable[..., Outcome], work: Work
) -> None:
    done = invert("--notify", "no-such-program --to me")
    assert (done.status, work.begun) == (0, 1)
    assert done.err.startswith("warning  --notify: no-such-program is not a program")


@pytest.mark.parametrize(
    ("line", "why"),
    [("", "it is empty"), ("  ", "it is empty"), ("mail 'me", "no closing quotation")],
)
def test_a_program_that_cannot_be_read_is_refused(
    line: str, why: str, invert: Callable[..., Outcome], work: Work
) -> None:
    done = invert("--notify", line)
    assert (done.status, work.begun) == (2, 0)
    assert done.err.splitlines()[0] == f"error  invalid value for '--notify': {why}"


# What is left, and who does it.


def test_what_the_run_did_not_reach_is_counted_and_said_once(
    invert: Callable[..., Outcome], work: Work
) -> None:
    work.statuses = ["done", *["pending"] * 12]
    done = invert("--limit", 1)
    assert done.out == "out/0.png\n"
    assert done.err.splitlines()[-1] == "12 left for the next run"
    done = invert("--limit", 1, "--json", "-q")
    assert done.summary["counts"] == {"done": 1, "pending": 12, "items": 13}
    assert len(done.rows) == 14
    assert done.err == ""


def test_every_command_that_makes_files_takes_what_unattended_work_needs(style: Style) -> None:
    flags = ("--shard", "--limit", "--retry-failed", "--max-failures", "--strip-metadata",
             "--log-json", "--prometheus", "--notify", "--engine", "--submit", "--tasks",
             "--sbatch", "--wait")  # fmt: skip
    for command in UNATTENDED:
        page = style(*command.split(), "--help-all").out
        assert [flag for flag in flags if flag not in page] == [], command
    short = style("invert", "--help").out
    assert "--help-all" in short
    assert "--notify" not in short
    others = {command.name for command in COMMANDS} - set(UNATTENDED)
    assert not [name for name in others if "--help-all" in style(*name.split(), "--help").out]


def test_flags_reach_the_engine(
    style: Style, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "stylecli.engine.restyle.transfer",
        lambda recipe, _, destination, *__, **___: (
            asked.extend([recipe, destination]) or Work().prepare()
        ),
    )
    assert style("transfer", "a.png", "-s", "b.png", "-o", "out/", "--shard", "2/3", "--limit", 5,
                 "--retry-failed", "--max-failures", 7, "--strip-metadata", "--engine", "ray",
                 "--batch", 4, "--name", "{key}", "--overwrite", "--wait").status == 0  # fmt: skip
    recipe, destination = asked
    assert recipe.device.batch == 4
    assert {name: getattr(destination, name) for name in destination.__dataclass_fields__} == {
        "output": "out/", "name": "{key}", "overwrite": True, "wait": True, "shard": "2/3",
        "limit": 5, "retry_failed": True, "max_failures": 7, "strip": True, "engine": "ray",
    }  # fmt: skip


def test_a_submission_is_checked_and_then_shown_or_handed_on(
    style: Style, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that submits need not have the GPU that the work is for."""
    calls = tmp_path / "bin" / "calls"
    (sbatch := tmp_path / "bin" / "sbatch").parent.mkdir()
    sbatch.write_text(f"#!/bin/sh\necho \"$@\" >> '{calls}'\necho 4711\n", encoding="utf-8")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    out = tmp_path / "out"
    line = ("invert", "my photos", "-o", f"{out}/", "--submit", "slurm", "--tasks", 8, "-r", recipe,
            "--sbatch=--gres=gpu:1", "--device", "cuda", "--dtype", "float16")  # fmt: skip
    nothing = style(*line)
    assert (nothing.status, out.exists(), calls.exists()) == (2, False, False)
    assert "my photos" in nothing.err
    draw(tmp_path / "my photos" / "a.png")
    shown = style(*line, "--dry-run")
    assert (shown.status, out.exists(), calls.exists()) == (0, False, False)
    assert shown.out.startswith("#!")
    for part in ("--array=", "--gres=gpu:1", "'my photos'", "--shard auto"):
        assert part in shown.out
    assert style(*line).out == "4711\n"
    assert len(calls.read_text().splitlines()) == 1
    for wrong, what in (
        ((*line[:4], "--tasks", 8), "--tasks and --sbatch go with --submit"),
        ((*line, "--shard", "1/2"), "--submit gives each task its own --shard"),
        ((*line, "--set", "lora.rank=0"), "lora.rank"),
    ):
        done = style(*wrong)
        assert (done.status, what in done.err) == (2, True)
