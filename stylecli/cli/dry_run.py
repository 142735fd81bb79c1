"""What ``--dry-run`` shows: the resolved recipe, where each value came from, and the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stylecli.cli.console import Console, size
from stylecli.engine.runs.pace import duration
from stylecli.recipe.text import render

if TYPE_CHECKING:
    from stylecli.engine.plan import Job
    from stylecli.engine.request import Prepared
    from stylecli.recipe.load import Resolved

LISTED_JOBS = 20


def show(console: Console, resolved: Resolved, prepared: Prepared) -> None:
    """Print the plan: one object with ``--json``, else a recipe in YAML and a few lines."""
    jobs = prepared.plan.jobs
    todo = prepared.todo()
    limit = prepared.destination.limit
    cost = prepared.estimate()
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
        "estimate": {"seconds": round(cost.seconds, 3), "memory_bytes": cost.memory_bytes},
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
    if prepared.rows:
        lines += [
            f"# rows    {', '.join(f'{n} {name}' for name, n in prepared.rows.items())} per item",
            f"# time    about {duration(cost.seconds)} if nothing is cached (computed from a short "
            "measurement)",
            f"# memory  about {size(cost.memory_bytes)}",
        ]
    console.result(row, text="\n".join(lines))


def _names(job: Job) -> str:
    return " + ".join(item.path.name for item in job.inputs)
