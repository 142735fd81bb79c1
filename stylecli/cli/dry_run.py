"""What ``--dry-run`` shows: the resolved recipe, where each value came from, and the plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stylecli.cli.console import Console, size
from stylecli.engine.runs.pace import duration
from stylecli.recipe.text import render

if TYPE_CHECKING:
    from stylecli.engine.plan import Job
    from stylecli.engine.planner import Cost
    from stylecli.engine.request import Prepared
    from stylecli.recipe.load import Resolved

LISTED_JOBS = 20
# Phases that take less of the whole are left out.
SHOWN = 0.005


def show(console: Console, resolved: Resolved, prepared: Prepared) -> None:
    """Print the plan: one object with ``--json``, else a recipe in YAML and a few lines."""
    jobs = prepared.plan.jobs
    todo = prepared.todo()
    limit = prepared.destination.limit
    cost = prepared.estimate() if prepared.rows else None
    model = {
        "id": prepared.session.source.name,
        "fingerprint": prepared.session.fingerprint,
        "device": str(prepared.session.context.device),
        "dtype": str(prepared.session.context.dtype),
    }
    row = {
        "dry_run": True,
        "recipe": resolved.recipe.model_dump(mode="json"),
        "origin": dict(resolved.origin),
        "model": model,
        "jobs": [
            {
                "key": job.key,
                "inputs": [{"role": item.role, "path": str(item.path)} for item in job.inputs],
                "output": str(job.output),
            }
            for job in jobs
        ],
        "todo": todo,
        "limit": limit,
        "unet_rows_per_item": dict(prepared.rows),
        "estimate": None if cost is None else _as_row(cost),
    }
    lines = [
        render(resolved),
        "",
        f"# model   {model['id']} on {model['device']}, {model['dtype']}",
        f"# jobs    {len(jobs)}, of which {todo} to do"
        + (f", {limit} of them now" if limit is not None and limit < todo else ""),
        *(f"#         {_names(job)} -> {job.output}" for job in jobs[:LISTED_JOBS]),
        *([f"#         and {len(jobs) - LISTED_JOBS} more"] if len(jobs) > LISTED_JOBS else []),
    ]
    if cost is not None:
        lines += [
            f"# rows    {', '.join(f'{n} {name}' for name, n in prepared.rows.items())} per item",
            *_table(cost),
            f"# time    about {duration(cost.seconds)} if nothing is cached",
            f"# memory  about {size(cost.memory_bytes)} at most, of the "
            + ("process" if model["device"] == "cpu" else "device"),
            f"# Times of operations: {cost.timed:.0%} timed now, the rest scaled by their size; "
            "memory is computed.",
        ]
    console.result(row, text="\n".join(lines))


def _as_row(cost: Cost) -> dict[str, Any]:
    return {
        "seconds": round(cost.seconds, 3),
        "memory_bytes": cost.memory_bytes,
        "timed": round(cost.timed, 3),
        "parts": [{**asdict(part), "seconds": round(part.seconds, 3)} for part in cost.parts],
    }


def _table(cost: Cost) -> list[str]:
    """A line for each phase that takes time."""
    return [
        f"#         {part.name:<14} {part.rows or '':>8} {duration(part.seconds):>12}"
        f" {size(part.memory_bytes):>9}"
        for part in cost.parts
        if part.seconds >= SHOWN * cost.seconds
    ]


def _names(job: Job) -> str:
    return " + ".join(item.path.name for item in job.inputs)
