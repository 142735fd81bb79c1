"""The Typer app, the table of its commands, and `main`: the one place that knows exit statuses.

A new command is a function in `stylecli.cli.commands` and a row of `COMMANDS`. Its annotations are
the options of `stylecli.cli.options` and the bundles of `stylecli.cli.bundles`, its docstring the
help text, ``@examples`` the end of the help page; whatever brings in torch is imported inside the
function. ``--json``, ``-q`` and ``--debug`` are added to every command here, and to those that name
the bundle `unattended.Running` the options for programs that listen. A command returns None: items
it reported as failed to `console.result` make the exit status 3, everything else that goes wrong is
raised.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from io import TextIOWrapper
from typing import Any

import typer
from rich.markup import escape
from typer.main import get_command

from stylecli import __version__
from stylecli.cli import bundles, listening, signals, unattended
from stylecli.cli.commands import (
    analyze,
    bench,
    care,
    demo,
    eval_data,
    evaluate,
    gallery,
    generate,
    i2l_data,
    i2l_predict,
    i2l_train,
    lora,
    lora_files,
    masks,
    models,
    regions,
    report,
    route_apply,
    route_data,
    route_train,
    runs,
    speed,
    status,
    study,
    transfer,
)
from stylecli.cli.console import console
from stylecli.cli.options import DebugOpt, JsonOpt, QuietOpt
from stylecli.cli.pages import HELP_NAMES, Group, HelpAllOpt, Leaf
from stylecli.cli.signals import Terminated
from stylecli.errors import StyleError, UsageError

MAKE, JUDGE, CARE = "Make", "Judge", "Look after the installation"

ITEMS_FAILED = 3
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + 13  # SIGPIPE, which Windows has not

# Typer carries its own copy of Click; this is the public way to the class of all its usage errors.
_BadUsage: type[Any] = typer.BadParameter.__bases__[0]


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table.

    Attributes:
        name: As typed; ``recipes list`` is a command of the group ``recipes``.
        online: Contacts the network by nature, so the hub is not told to stay offline.
        goes_on: What an interrupted one did is not done again.
    """

    name: str
    run: Callable[..., None]
    panel: str
    online: bool = False
    goes_on: bool = True


GROUPS = {
    "analyze": "Look at what goes on inside the model.",
    "study": "Ask people which results they prefer, and count their votes.",
    "lora": "Look into LoRA files, combine them, and give them another layout.",
    "recipes": "List, show and check recipes.",
    "models": "List, fetch and check the weights of backbones and metrics.",
    "cache": "See and shrink what is kept to avoid work.",
}
COMMANDS = (
    Command("transfer", transfer.transfer, MAKE),
    Command("mask-transfer", regions.mask_transfer, MAKE),
    Command("switch", regions.switch, MAKE),
    Command("gallery", gallery.gallery, MAKE),
    Command("masks", masks.masks, MAKE),
    Command("generate", generate.generate, MAKE),
    Command("train-lora", lora.train_lora, MAKE),
    Command("i2l-predict", i2l_predict.i2l_predict, MAKE),
    Command("i2l-data", i2l_data.i2l_data, MAKE),
    Command("i2l-train", i2l_train.i2l_train, MAKE),
    Command("route-apply", route_apply.route_apply, MAKE),
    Command("route-data", route_data.route_data, MAKE),
    Command("route-train", route_train.route_train, MAKE),
    Command("invert", transfer.invert, MAKE),
    Command("eval-data", eval_data.eval_data, JUDGE),
    Command("evaluate", evaluate.evaluate, JUDGE),
    Command("bench-glyphs", bench.bench_glyphs, JUDGE),
    Command("study make", study.make, JUDGE),
    Command("study tally", study.tally, JUDGE),
    Command("analyze features", analyze.features, JUDGE),
    Command("status", status.status, JUDGE),
    Command("report", report.report, JUDGE),
    Command("lora info", lora_files.info, JUDGE),
    Command("lora mix", lora_files.mix, JUDGE),
    Command("lora convert", lora_files.convert, JUDGE),
    Command("show", runs.show, JUDGE),
    Command("rerun", runs.rerun, JUDGE),
    Command("demo", demo.demo, CARE),
    Command("recipes list", care.recipes_list, CARE),
    Command("recipes show", care.recipes_show, CARE),
    Command("recipes validate", care.recipes_validate, CARE),
    Command("models list", models.models_list, CARE),
    Command("models pull", models.models_pull, CARE, online=True),
    Command("models bundle", models.models_bundle, CARE),
    Command("models verify", models.models_verify, CARE),
    Command("cache list", care.cache_list, CARE),
    Command("cache prune", care.cache_prune, CARE),
    Command("doctor", models.doctor, CARE),
    Command("bench", speed.bench, CARE, goes_on=False),
)
_SHARED = {"json_lines": JsonOpt, "quiet": QuietOpt, "debug": DebugOpt}


def _with_shared_options(command: Command) -> Callable[..., None]:
    """The command as Typer sees it: with the options that every command of its kind has."""
    own = bundles.parameters(command.run)
    is_unattended = any(unattended.Running is bundle for bundle in bundles.of(command.run))
    added: dict[str, tuple[Any, Any]] = {name: (False, option) for name, option in _SHARED.items()}
    if is_unattended:
        added |= {name: (None, option) for name, option in unattended.LISTENERS.items()}
        added["help_all"] = (False, HelpAllOpt)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
        for name, (default, option) in added.items()
    ]

    @wraps(command.run)
    def run(**given: Any) -> None:
        console.set_mode(
            json=given.pop("json_lines"), quiet=given.pop("quiet"), debug=given.pop("debug")
        )
        _calm_libraries(online=command.online or given.get("allow_download", False))
        command.run(**bundles.gathered(command.run, given))

    parameters = [*own, *shared]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return run


def _calm_libraries(*, online: bool) -> None:
    """Settings that the hub and its libraries read when they are imported, so before any is."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if console.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not console.debug:
        os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        # Of kernels for other machines, wherever these happen to be installed.
        for name in ("torchao", "bitsandbytes", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


def _build() -> typer.Typer:
    root = typer.Typer(
        name="style",
        cls=Group,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": HELP_NAMES},
        epilog=_epilog(
            "style transfer photo.jpg --style painting.png -o out.png",
            "style recipes list",
        ),
    )
    root.callback(invoke_without_command=True)(_root)
    groups: dict[str, typer.Typer] = {}
    for command in COMMANDS:
        group, _, verb = command.name.rpartition(" ")
        if group and group not in groups:
            groups[group] = typer.Typer(
                help=GROUPS[group], cls=Group, rich_markup_mode="rich", no_args_is_help=True
            )
            root.add_typer(groups[group], name=group, rich_help_panel=command.panel)
        (groups[group] if group else root).command(
            verb,
            cls=Leaf,
            rich_help_panel=None if group else command.panel,
            epilog=_epilog(*getattr(command.run, "examples", ())),
        )(_with_shared_options(command))
    return root


def _epilog(*lines: str) -> str | None:
    return "\n".join(["Examples", *(f"$ {escape(line)}" for line in lines)]) if lines else None


def _root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", "-V", help="Print the version and stop."),
) -> None:
    """Give photographs the look of other pictures, with diffusion models, on your machine."""
    if version:
        typer.echo(f"style {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


app = _build()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; every failure becomes two lines on stderr and an exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _mend_streams()
    console.begin(arguments)
    # Known before parsing, so that a line that cannot be parsed still ends with a summary.
    console.set_mode(json="--json" in arguments, debug="--debug" in arguments)
    program: Any = get_command(app)
    command, glimpsed = listening.glimpse(program, arguments)
    with signals.raised_once() as settle:
        try:
            status = _invoke(program, arguments, command, glimpsed)
            failure: dict[str, str] | None = None
            settle()
        except StyleError as error:
            settle()
            console.fail(error)
            status = error.exit_status
            failure = error.as_row()
        except (KeyboardInterrupt, Terminated) as error:
            status = getattr(error, "exit_status", INTERRUPTED)
            console.note(f"interrupted; the same command again {_again(command)}")
            failure = {"code": "interrupted"}
        except (Exception, SystemExit) as error:
            settle()
            has_left = isinstance(error.__context__, BrokenPipeError)
            if has_left and not {*HELP_NAMES, "--help-all"}.isdisjoint(arguments):
                # Whoever read the help page has seen enough of it.
                status, failure = PIPE_CLOSED, None
            else:
                console.crash(error)
                status = StyleError.exit_status
                failure = {"code": StyleError.code, "what": f"{type(error).__name__}: {error}"}
        if not status and console.counts["failed"]:
            status, failure = ITEMS_FAILED, {"code": "items_failed"}
        return console.close(command, status, failure)


def _again(name: str) -> str:
    goes_on = all(command.goes_on for command in COMMANDS if command.name == name)
    return "goes on from here" if goes_on else "begins anew"


def _mend_streams() -> None:
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by who started us: unless something takes its number, the next file that is
            # opened does, and gets what libraries say on standard error.
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - for good
        elif name != "stderr" and isinstance(stream, TextIOWrapper):
            # A file name that is not valid UTF-8 leaves as the bytes it came in as.
            stream.reconfigure(errors="surrogateescape")


def _invoke(
    program: Any, arguments: Sequence[str], command: str, glimpsed: Mapping[str, Any]
) -> int:
    listening.begin(command, glimpsed)
    return invoke(arguments, program)


def invoke(arguments: Sequence[str], program: Any = None) -> int:
    """Carry out one command line, also from within a command, whose console it then shares.

    Returns:
        What the command asked to exit with.

    Raises:
        StyleError: As the command does.
        UsageError: It cannot be parsed.
    """
    program = program or get_command(app)
    try:
        status = program.main(args=list(arguments), prog_name="style", standalone_mode=False)
    except _BadUsage as error:
        raise _usage_error(error) from error
    if status == INTERRUPTED:  # Typer turns Ctrl-C into its own kind of exit
        raise KeyboardInterrupt
    return int(status or 0)


def _usage_error(error: Any) -> UsageError:
    near = getattr(error, "possibilities", None)
    what = (error.message if near else error.format_message()).rstrip(".") or "no command given"
    path = error.ctx.command_path if error.ctx else "style"
    hint = f"did you mean {sorted(near)[0]}? " if near else ""
    return UsageError(what[:1].lower() + what[1:], fix=f"{hint}`{path} --help` shows what fits")
