"""Files to copy for schedulers: each is parsed, and every command in them carried out dry."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import draw
from tests.conftest import ROOT, Style

EXAMPLES = ROOT / "docs" / "examples"
NAMES = {file.name for file in EXAMPLES.iterdir()}
SCRIPTS = ("ray.sh", "slurm.sh", "accelerate.sh")


def read(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(read(name))
    return parser


def workflow(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(read(name)))


def crontab() -> list[tuple[list[str], str]]:
    """Entries as five fields and a command."""
    lines = [line for line in read("crontab").splitlines() if line and line[0] != "#"]
    entries = [line for line in lines if not re.match(r"\w+=", line)]
    return [(line.split(maxsplit=5)[:5], line.split(maxsplit=5)[5]) for line in entries]


def github() -> list[str]:
    return [
        step["run"]
        for job in workflow("github-actions.yml")["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]


def gitlab() -> list[str]:
    jobs = workflow("gitlab-ci.yml")
    return [line for name in ("restyle", "report") for line in jobs[name]["script"]]


def shell(name: str) -> list[str]:
    return [line for line in read(name).splitlines() if line and not line.startswith("#")]


def kubernetes() -> str:
    pod = workflow("kubernetes.yml")["spec"]["template"]["spec"]
    return shlex.join(["style", *pod["containers"][0]["args"]])


COMMANDS = [
    *(("crontab", command) for _, command in crontab()),
    ("style.service", unit("style.service")["Service"]["ExecStart"]),
    *(("github-actions.yml", line) for line in github()),
    *(("gitlab-ci.yml", line) for line in gitlab()),
    *((name, line) for name in SCRIPTS for line in shell(name)),
    ("kubernetes.yml", kubernetes()),
]
LINES = [(name, line) for name, line in COMMANDS if re.search(r"\b(bin/)?style [a-z]", line)]
FILLED = {
    "${{ matrix.part }}": "2",
    "$CI_NODE_INDEX": "3",
    "$CI_NODE_TOTAL": "4",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples speak of, in a folder of its own."""
    draw(tmp_path / "photos" / "a.png")
    for name in ("ink.png", "oil.png"):
        draw(tmp_path / "styles" / name, seed=7)
    shutil.copytree(tmp_path / "photos", tmp_path / "sketches")
    from safetensors.numpy import save_file

    save_file({}, tmp_path / "brush.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    monkeypatch.setenv("STYLE_SHARDS", "8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_command_of_an_example_is_understood(
    name: str, line: str, desk: Path, style: Style
) -> None:
    for variable, value in FILLED.items():
        line = line.replace(variable, value)
    words = shlex.split(line.split(" > ")[0])
    if "stylecli" in words:  # behind a launcher
        words = ["style", *words[words.index("stylecli") + 1 :]]
    words = [re.sub(r"^/(srv|shared|data)/", "", word) for word in words[1:]]
    for flag in ("--log-json", "--prometheus"):
        if flag in words:
            words[words.index(flag) + 1] = "told"
    if words[0] in ("status", "report"):
        help_page = style(words[0], "--help").out
        assert all(word in help_page for word in words if word.startswith("--"))
        return
    if "--engine" in words:
        pytest.importorskip("ray", reason="Ray is an extra")
    done = style(*words, *([] if "--dry-run" in words else ["--dry-run"]))
    assert done.status == 0, done.err
    assert not (desk / "gallery").exists()


def test_every_example_is_covered() -> None:
    covered = {name for name, _ in COMMANDS} | {"style.timer", "Dockerfile", "Dockerfile.cuda"}
    assert covered == NAMES
    page = (ROOT / "docs" / "unattended.md").read_text(encoding="utf-8")
    assert all(f"examples/{name}" in page for name in NAMES)


def test_the_crontab_says_when() -> None:
    ((when, _),) = crontab()
    minute, hour, day, month, weekday = when
    assert 0 <= int(minute) < 60
    assert 0 <= int(hour) < 24
    assert (day, month, weekday) == ("*", "*", "*")
    assert "%" not in crontab()[0][1], "cron takes a percent sign for the end of the line"


def test_the_unit_and_its_timer_go_together() -> None:
    service, timer = unit("style.service"), unit("style.timer")
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["ExecStart"].startswith("/")
    assert "OnCalendar" in timer["Timer"]
    assert timer["Install"]["WantedBy"] == "timers.target"
    if verify := shutil.which("systemd-analyze"):
        done = subprocess.run(
            [verify, "verify", str(EXAMPLES / "style.timer")], capture_output=True, text=True
        )
        assert "Unknown" not in done.stderr


def test_workflows_are_what_their_services_expect() -> None:
    actions = workflow("github-actions.yml")
    # YAML 1.1 reads the key `on` as true.
    assert {"name", "jobs"} < actions.keys() | {True}
    for job in actions["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    jobs = workflow("gitlab-ci.yml")
    assert [jobs[name]["stage"] for name in ("restyle", "report")] == jobs["stages"]
    assert jobs["restyle"]["parallel"] == 4


def test_the_indexed_job_tells_each_pod_of_how_many_it_is() -> None:
    spec = workflow("kubernetes.yml")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    told = {entry["name"]: entry["value"] for entry in container["env"]}
    assert told["STYLE_SHARDS"] == str(spec["completions"])
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_shell(name: str) -> None:
    done = subprocess.run(["sh", "-n", EXAMPLES / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_are_built_from_what_is_in_the_tree(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", read(name))
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    known = {"FROM", "COPY", "ARG", "RUN", "USER", "ENV", "VOLUME", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    assert steps[0][0] == "FROM"
    copied: set[str] = set()
    for step, rest in steps:
        if step == "COPY":
            *sources, _ = rest.split()
            copied |= set(sources)
            assert all((ROOT / source).exists() for source in sources)
        if step == "RUN":
            done = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "-c /src/constraints.txt /src" in rest
    # What the build of the wheel reads.
    assert copied >= {"pyproject.toml", "README.md", "LICENSE", "stylecli", "recipes"}
    assert ["USER", "style"] in steps, "nothing runs as root"
